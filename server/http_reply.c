#include "server/http.h"

#include "base/whole.h"
#include "server/config.h"
#include "server/describe.h"

#include <gnutls/gnutls.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { RETRY_SECONDS = 1 };

static const char problem_type[] = "application/problem+json";

/* ---- answers ------------------------------------------------------------------------------------
 */

void reply_header(struct MHD_Response **answer, const char *name, const char *fmt, ...)
{
    char value[1024];
    va_list args;
    if (!*answer)
        return;
    va_start(args, fmt);
    vsnprintf(value, sizeof value, fmt, args);
    va_end(args);
    if (MHD_add_response_header(*answer, name, value) == MHD_YES)
        return;
    MHD_destroy_response(*answer);
    *answer = NULL;
}

struct MHD_Response *reply_bytes(const char *mime, void *data, size_t len)
{
    struct MHD_Response *answer =
        data ? MHD_create_response_from_buffer(len, data, MHD_RESPMEM_MUST_FREE) : NULL;
    if (!answer)
        free(data);
    if (mime)
        reply_header(&answer, "Content-Type", "%s", mime);
    return answer;
}

struct MHD_Response *reply_static(const char *mime, const void *data, size_t len)
{
    struct MHD_Response *answer =
        MHD_create_response_from_buffer(len, (void *)(uintptr_t)data, MHD_RESPMEM_PERSISTENT);
    if (mime)
        reply_header(&answer, "Content-Type", "%s", mime);
    return answer;
}

/* Which value of Access-Control-Allow-Origin this request gets, or NULL. */
static const char *allowed_origin(struct request *r)
{
    const struct config_list *origins = &r->server->config->cors_origins;
    const char *origin = request_header(r, "Origin");
    for (int i = 0; origin && i < origins->count; i++) {
        if (strcmp(origins->item[i], "*") == 0)
            return "*";
        if (strcmp(origins->item[i], origin) == 0)
            return origin;
    }
    return NULL;
}

static void add_cors(struct request *r, struct MHD_Response **answer)
{
    const char *origin = allowed_origin(r);
    if (r->server->config->cors_origins.count > 0)
        reply_header(answer, "Vary", "Origin");
    if (!origin)
        return;
    reply_header(answer, "Access-Control-Allow-Origin", "%s", origin);
    reply_header(answer, "Access-Control-Expose-Headers",
                 "Location, X-Request-Id, Retry-After, Content-Range, ETag, X-Tv3s-Seq, "
                 "X-Tv3s-Size, X-Tv3s-Time, X-Tv3s-Queue-Us, X-Tv3s-Compute-Us, X-Tv3s-Restarted, "
                 "X-Tv3s-Applied");
    if (!request_header(r, "Access-Control-Request-Method"))
        return;
    reply_header(answer, "Access-Control-Allow-Headers",
                 "Authorization, Content-Type, Range, If-Range, X-Request-Id, Idempotency-Key");
    reply_header(answer, "Access-Control-Max-Age", "600");
}

static const char no_memory[] =
    "{\"type\":\"/problems/out-of-memory\",\"title\":\"memory ran out\",\"status\":503}\n";

enum err reply_open(struct http *h)
{
    for (int applied = 0; applied < 2; applied++) {
        struct MHD_Response *answer = reply_static(problem_type, no_memory, strlen(no_memory));
        reply_header(&answer, "Retry-After", "%d", RETRY_SECONDS);
        reply_header(&answer, "Cache-Control", "no-store");
        if (applied)
            reply_header(&answer, "X-Tv3s-Applied", "1");
        if (!answer)
            return err_set(ERR_NOMEM, "no memory for the HTTP server");
        h->no_memory[applied] = answer;
    }
    return ERR_OK;
}

void reply_close(struct http *h)
{
    for (int i = 0; i < 2; i++)
        if (h->no_memory[i])
            MHD_destroy_response(h->no_memory[i]);
}

static bool applied(const struct request *r)
{
    return r->item && r->item->applied;
}

static void queue(struct request *r, int status, struct MHD_Response *answer)
{
    if (MHD_queue_response(r->connection, (unsigned)status, answer) != MHD_YES)
        return;
    r->stage = REQUEST_REPLIED;
    r->status = status;
}

void reply_send(struct request *r, int status, struct MHD_Response *answer)
{
    reply_header(&answer, "X-Request-Id", "%s", r->id);
    reply_header(&answer, "X-Content-Type-Options", "nosniff");
    if (answer && !MHD_get_response_header(answer, "Cache-Control"))
        reply_header(&answer, "Cache-Control", "no-store");
    add_cors(r, &answer);
    if (!answer) {
        queue(r, 503, r->http->no_memory[applied(r)]);
        return;
    }
    queue(r, status, answer);
    MHD_destroy_response(answer);
}

void reply_empty(struct request *r, int status)
{
    reply_send(r, status, reply_static(NULL, "", 0));
}

/* ---- JSON ---------------------------------------------------------------------------------------
 */

static struct MHD_Response *json_answer(struct request *r, const char *mime, json_t *o)
{
    void *text = o ? json_dumps(o, DESCRIBE_DUMP) : NULL;
    json_decref(o);
    if (!text)
        return NULL;
    return reply_text(r, mime, text, strlen(text));
}

void reply_json(struct request *r, int status, json_t *o)
{
    reply_json_at(r, status, o, NULL);
}

void reply_json_at(struct request *r, int status, json_t *o, const char *location)
{
    struct MHD_Response *answer = json_answer(r, "application/json", o);
    if (location)
        reply_header(&answer, "Location", "%s", location);
    reply_send(r, status, answer);
}

/* It may be otherwise in a moment. */
static bool passes(enum err e)
{
    return err_http(e) == 503 || err_http(e) == 429 || e == ERR_ELSEWHERE;
}

void reply_problem(struct request *r, enum err e, const char *detail)
{
    struct MHD_Response *answer = json_answer(r, problem_type, describe_problem(e, detail, r->id));
    if (passes(e))
        reply_header(&answer, "Retry-After", "%d", RETRY_SECONDS);
    if (applied(r))
        reply_header(&answer, "X-Tv3s-Applied", "1");
    if (e == ERR_KEY)
        reply_header(&answer, "WWW-Authenticate", "Bearer realm=\"tv3sd\"");
    reply_send(r, err_http(e), answer);
}

struct MHD_Response *reply_problem_of(struct request *r, int status, const char *type,
                                      const char *title, const char *detail)
{
    char path[64];
    snprintf(path, sizeof path, "/problems/%s", type);
    json_t *o = json_pack("{s:s, s:s, s:i, s:s}", "type", path, "title", title, "status", status,
                          "request_id", r->id);
    if (detail)
        whole_put(&o, "detail", json_string(detail));
    return json_answer(r, problem_type, o);
}

/* As much as the socket takes. With TLS below, what it has begun to send it sends as a whole. */
static void say(struct request *r, const char *text, size_t len)
{
    const union MHD_ConnectionInfo *tls =
        MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    if (tls && tls->tls_session)
        (void)gnutls_record_send(tls->tls_session, text, len);
    else if (info)
        (void)!send(info->connect_fd, text, len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

void reply_at_once(struct request *r)
{
    json_t *o = describe_problem(r->error, r->error_text, r->id);
    char *text = o ? json_dumps(o, DESCRIBE_DUMP) : NULL, *all = NULL, retry[32] = "";
    r->status = err_http(r->error);
    if (passes(r->error))
        snprintf(retry, sizeof retry, "Retry-After: %d\r\n", RETRY_SECONDS);
    int n = !text ? -1
                  : asprintf(&all,
                             "HTTP/1.1 %d Refused\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
                             "X-Request-Id: %s\r\n%sConnection: close\r\n\r\n%s",
                             r->status, problem_type, strlen(text), r->id, retry, text);
    if (n > 0)
        say(r, all, (size_t)n);
    if (n >= 0)
        free(all);
    free(text);
    json_decref(o);
}
