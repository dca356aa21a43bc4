/* The event loop's callbacks: a request from its first line to its end.
 *
 *   on_target    the request line is here: a struct request
 *   on_headers   the headers are here: endpoint, parameters, what can be refused at once
 *   on_body      the body, piece by piece, to the endpoint's `take`
 *   answer       the body is whole: the endpoint replies, or waits and is resumed, and replies
 *   on_completed replied, or the client is gone: everything that the request holds goes
 *
 * An error that comes before the body has been read is not answered in the middle of it: a client
 * that is still writing would meet a closed connection instead of the answer. What is left of the
 * body is read and thrown away, up to DISCARD_MAX; a client that says 100-continue, or announces
 * more than that, is answered at once, and what it still sends is thrown away (linger.h). */
#include "server/http.h"

#include "server/config.h"
#include "server/digest.h"
#include "server/http_headers.h"
#include "server/log.h"
#include "server/tls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { BODY_LEAST = 16 << 10 }; /* bytes in each http_timeout */
enum { DISCARD_MAX = 1 << 20, CONNECTION_MEMORY = 64 << 10, STOP_SECONDS = 10, HTTP_FRESH = 3 };

/* ---- requests -----------------------------------------------------------------------------------
 */

const char *request_header(struct request *r, const char *name)
{
    return MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, name);
}

const char *request_query(struct request *r, const char *name)
{
    return MHD_lookup_connection_value(r->connection, MHD_GET_ARGUMENT_KIND, name);
}

static const char *get_query(void *request, const char *name)
{
    return request_query(request, name);
}

enum err request_params(struct request *r)
{
    enum err e = params_parse(r->server, get_query, r, &r->params);
    r->params.owner = r->owner;
    return e;
}

enum err request_session(struct request *r)
{
    return session_find(r->server->sessions, r->owner, r->name, &r->session);
}

enum err request_job(struct request *r)
{
    return jobs_find(r->server->jobs, r->owner, r->name, &r->job);
}

enum err request_fail(struct request *r, enum err e)
{
    if (!r->error) {
        r->error = e;
        snprintf(r->error_text, sizeof r->error_text, "%s", err_text());
    }
    return e;
}

void request_wait(struct request *r, handler resumed)
{
    r->stage = REQUEST_WAITING;
    r->resumed = resumed;
    atomic_fetch_add(&r->http->waiting, 1);
    MHD_suspend_connection(r->connection);
}

void request_resume(struct request *r)
{
    struct http *h = r->http;
    loop_resume(h, r->connection);
    atomic_fetch_sub(&h->waiting, 1); /* last: http_close waits for it */
}

/* Not one after the other: that would tell everybody how many requests others make. */
static void make_id(struct request *r)
{
    char id[SESSION_ID];
    snprintf(r->id, sizeof r->id, "%.40s", session_id_random(id) ? "none" : id);
}

static void *on_target(void *http, const char *target, struct MHD_Connection *connection)
{
    struct http *h = http;
    struct request *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->http = h;
    r->server = h->server;
    r->connection = connection;
    r->started = clock_ns();
    snprintf(r->target, sizeof r->target, "%s", target);
    r->bad_target = target_fault(target);
    make_id(r);
    atomic_fetch_add(&h->requests, 1);
    loop_asked(h, connection, r);
    metric_add(h->server->metrics, METRIC_HTTP_REQUESTS, 1);
    return r;
}

/* Probes and scrapes that are well come by the second: they would bury the rest. */
static enum log_level log_level_of(const struct request *r)
{
    static const char *const probes[] = {"/livez", "/readyz", "/metrics"};
    for (size_t i = 0; i < sizeof probes / sizeof *probes; i++)
        if (r->status == 200 && strcmp(r->target, probes[i]) == 0)
            return LOG_DEBUG;
    return r->status >= 500 ? LOG_WARNING : LOG_INFO;
}

static void log_request(const struct request *r, bool whole)
{
    double ms = (double)(clock_ns() - r->started) * 1e-6;
    bool stream = r->session && r->session->kind == SESSION_LIVE;
    char client[ADDRESS_TEXT];
    address_print(&r->client, client);
    const char *key = stream ? " stream=" : r->job ? " job=" : "";
    log_event(log_level_of(r), "http",
              "request=%s%s%s key=%s client=%s method=%s target=%s status=%d ms=%.1f%s", r->id, key,
              stream   ? r->session->id
              : r->job ? job_id(r->job)
                       : "",
              owner_label(r->owner), client, log_text(*r->method ? r->method : "-"),
              log_text(r->target), r->status, ms, whole ? "" : " broken=1");
}

void request_end(struct request *r, enum MHD_RequestTerminationCode end)
{
    struct http *h = r->http;
    if (r->status >= 400)
        metric_add(h->server->metrics, METRIC_HTTP_ERRORS, 1);
    if (r->item && r->item->encoded)
        metric_observe(h->server->metrics, METRIC_SECONDS_SEND,
                       (double)(clock_ns() - r->item->encoded) * 1e-9);
    if (r->status || end != MHD_REQUEST_TERMINATED_DAEMON_SHUTDOWN)
        log_request(r, end == MHD_REQUEST_TERMINATED_COMPLETED_OK);
    if (r->counted)
        address_leave(h->addresses, &r->client);
    body_close(r);
    if (r->job_open)
        job_abort(r->job);
    job_unref(r->job);
    digest_end(r->repeated, NULL);
    item_free(r->item);
    session_unref(r->session);
    buf_free(&r->input);
    free(r->data);
    free(r);
    atomic_fetch_sub(&h->requests, 1);
}

static void on_completed(void *http, struct MHD_Connection *connection, void **context,
                         enum MHD_RequestTerminationCode end)
{
    struct request *r = *context;
    loop_answered(http, connection);
    *context = NULL;
    if (r)
        request_end(r, end);
}

/* ---- its way ------------------------------------------------------------------------------------
 */

struct query_check {
    const char *known;
    struct MHD_Connection *connection;
    enum err error;
};

static bool listed(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = list; *p; p += strcspn(p, " "), p += *p == ' ')
        if (strncmp(p, word, n) == 0 && (p[n] == ' ' || p[n] == 0))
            return n > 0;
    return false;
}

static enum MHD_Result check_parameter(void *check, enum MHD_ValueKind kind, const char *key,
                                       size_t key_size, const char *value, size_t value_size)
{
    struct query_check *c = check;
    (void)kind, (void)key_size;
    if (c->error)
        return MHD_NO;
    if (!listed(c->known, key))
        c->error = err_set(ERR_ARG, "there is no parameter '%.40s' here%s%s", key,
                           *c->known ? ", but " : "", c->known);
    else if (!value || strlen(value) != value_size)
        c->error = err_set(ERR_ARG, "the parameter '%.40s' has no value", key);
    else if (MHD_lookup_connection_value(c->connection, MHD_GET_ARGUMENT_KIND, key) != value)
        c->error = err_set(ERR_ARG, "the parameter '%.40s' is there twice", key);
    return MHD_YES;
}

static enum err check_query(struct request *r)
{
    struct query_check c = {r->endpoint->query, r->connection, ERR_OK};
    if (c.known)
        MHD_get_connection_values_n(r->connection, MHD_GET_ARGUMENT_KIND, check_parameter, &c);
    return c.error;
}

struct joined {
    const char *name;
    struct buf text;
    enum err error;
};

static enum MHD_Result join(void *joined, enum MHD_ValueKind kind, const char *key,
                            const char *value)
{
    struct joined *j = joined;
    (void)kind;
    if (!j->error && strcasecmp(key, j->name) == 0)
        j->error = buf_printf(&j->text, "%s%s", j->text.len ? "," : "", value ? value : "");
    return MHD_YES;
}

/* Who is behind the proxy; its lines of the header are one list. Such a client is counted for the
 * time of the request. */
static enum err find_client(struct request *r)
{
    struct addresses *a = r->http->addresses;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(r->connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    struct address peer = address_of(info ? info->client_addr : NULL);
    struct joined j = {.name = r->server->config->forwarded_header};
    r->client = peer;
    if (!address_trusted(a, &peer))
        return ERR_OK;
    MHD_get_connection_values(r->connection, MHD_HEADER_KIND, join, &j);
    enum err e = j.error ? j.error : buf_append(&j.text, "", 1);
    if (!e)
        e = address_client(a, &peer, (const char *)j.text.data, &r->client);
    buf_free(&j.text);
    if (!e)
        e = address_enter(a, &r->client);
    r->counted = !e;
    return e;
}

/* Where there are keys, a page has none; and what it reads of another site, CORS keeps from it. */
static enum err check_page(struct request *r)
{
    const struct access *a = r->server->access;
    bool reads = strcmp(r->method, "GET") == 0 || strcmp(r->method, "HEAD") == 0 ||
                 strcmp(r->method, "OPTIONS") == 0;
    return access_check_page(a, r->server->config, request_header(r, "Host"),
                             access_keyed(a) || reads ? NULL : request_header(r, "Origin"));
}

static enum err prepare(struct request *r)
{
    enum err e = check_page(r);
    if (!e)
        e = find_client(r);
    if (!e)
        e = access_check(r->server->access, request_header(r, "Authorization"), r->endpoint->roles,
                         &r->owner);
    if (!e)
        e = r->bad_target ? err_set(ERR_ARG, "%s", r->bad_target) : check_query(r);
    if (!e && r->endpoint->take)
        e = server_takes_work(r->server);
    if (!e && r->endpoint->begin)
        e = r->endpoint->begin(r);
    if (!e && r->endpoint->take)
        e = body_open(r);
    return e;
}

static void answer(struct request *r, handler how)
{
    enum err e = r->error;
    const char *text = r->error_text;
    if (!e) {
        e = how(r); /* where it waits, the request may be another thread's now */
        text = err_text();
    }
    if (e) /* what is cancelled under a request is so because the server stops */
        reply_problem(r, e == ERR_CANCELLED ? ERR_BUSY : e, text);
}

/* More of the body, while it lasts. */
static void expect(struct request *r)
{
    r->brought = 0;
    loop_expect(r->connection, r->server->config->http_timeout);
}

static enum MHD_Result on_headers(struct request *r, const char *method, const char *path,
                                  const char *version)
{
    const char *id = request_header(r, "X-Request-Id");
    if (id && request_id_valid(id))
        snprintf(r->id, sizeof r->id, "%s", id);
    snprintf(r->method, sizeof r->method, "%s", method);
    r->gzip = r->server->config->gzip && accepts_gzip(request_header(r, "Accept-Encoding"));
    r->endpoint = route(r, method, path);
    r->stage = REQUEST_BODY;
    expect(r);
    enum err framing = framing_check(r, version), e = framing ? framing : prepare(r);
    if (e)
        request_fail(r, e);
    uint64_t length = body_length(r); /* chunked: it may be short */
    bool large = length > DISCARD_MAX && length != UINT64_MAX;
    if (framing || ((large || body_expected(r)) && (e || !r->endpoint->take))) {
        loop_expect(r->connection, 0); /* the body is not waited for, and the answer may last */
        loop_unread(r->connection);
        answer(r, r->endpoint->answer);
    }
    return MHD_YES;
}

/* A piece of the body. False: enough is enough. */
static bool on_body(struct request *r, const char *data, size_t len)
{
    r->brought += len;
    if (r->brought >= BODY_LEAST)
        expect(r);
    if (!r->error && r->endpoint->take) {
        enum err e = body_take(r, data, len);
        if (e)
            request_fail(r, e);
        return true;
    }
    r->discarded += len;
    if (r->discarded <= DISCARD_MAX)
        return true;
    if (!r->error)
        request_fail(r, err_set(ERR_LIMIT, "no body is expected here"));
    loop_unread(r->connection);
    reply_at_once(r);
    return false;
}

static void on_whole(struct request *r)
{
    loop_expect(r->connection, 0);
    enum err e = r->endpoint->take && !r->error ? body_finish(r) : ERR_OK;
    if (e)
        request_fail(r, e);
    answer(r, r->endpoint->answer);
}

static enum MHD_Result on_request(void *http, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *data,
                                  size_t *len, void **context)
{
    struct request *r = *context;
    struct http *h = http;
    if (!r) { /* no memory */
        metric_add(h->server->metrics, METRIC_HTTP_ERRORS, 1);
        return MHD_queue_response(connection, 503, h->no_memory[0]);
    }
    if (r->stage == REQUEST_HEADERS)
        return on_headers(r, method, path, version);
    if (*len > 0) {
        bool go_on = on_body(r, data, *len);
        *len = 0;
        return go_on ? MHD_YES : MHD_NO;
    }
    if (r->stage == REQUEST_BODY) {
        on_whole(r);
    } else if (r->stage == REQUEST_WAITING) {
        r->stage = REQUEST_BODY;
        answer(r, r->resumed);
    }
    return r->stage == REQUEST_BODY ? MHD_NO : MHD_YES; /* neither replied nor waiting: no memory */
}

/* ---- the server ---------------------------------------------------------------------------------
 */

static void on_log(void *http, const char *fmt, va_list args)
{
    char text[256];
    (void)http;
    vsnprintf(text, sizeof text, fmt, args);
    text[strcspn(text, "\n")] = 0;
    log_event(LOG_DEBUG, "microhttpd", "text=%s", log_text(text));
}

static enum err start_daemon(struct http *h)
{
    const struct config *c = h->server->config;
    bool tls = tls_wanted(c);
    struct MHD_OptionItem security[] = {
        {tls ? MHD_OPTION_HTTPS_PRIORITIES : MHD_OPTION_END, 0, TLS_PRIORITIES},
        {MHD_OPTION_HTTPS_CERT_CALLBACK, 0, (void *)(intptr_t)tls_choose},
        {MHD_OPTION_END, 0, NULL}};
    h->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG |
            (tls ? MHD_USE_TLS : 0),
        0, NULL, NULL, on_request, h, MHD_OPTION_EXTERNAL_LOGGER, on_log, h,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)c->http_connections, MHD_OPTION_CONNECTION_TIMEOUT,
        loop_patience(h), MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_MEMORY,
        MHD_OPTION_URI_LOG_CALLBACK, on_target, h, MHD_OPTION_NOTIFY_COMPLETED, on_completed, h,
        MHD_OPTION_NOTIFY_CONNECTION, loop_connection, h, MHD_OPTION_ARRAY, security,
        MHD_OPTION_END);
    return h->daemon ? ERR_OK : err_set(ERR_IO, "the HTTP server does not start");
}

enum err http_open(struct server *s, struct http **out)
{
    *out = NULL;
    struct http *h = calloc(1, sizeof *h);
    if (!h)
        return err_set(ERR_NOMEM, "no memory for the HTTP server");
    h->server = s;
    enum err e = addresses_open(s->config, &h->addresses);
    if (!e)
        e = loop_open(h);
    if (!e)
        e = sse_open(h);
    if (!e)
        e = reply_open(h);
    if (!e)
        e = start_daemon(h);
    if (!e)
        e = loop_start(h);
    if (e) {
        http_close(h);
        return e;
    }
    *out = h;
    return ERR_OK;
}

int http_port(const struct http *h)
{
    return h->port;
}

static void wait_for(atomic_int *count, double seconds)
{
    uint64_t end = clock_ns() + (uint64_t)(seconds * 1e9);
    while (atomic_load(count) > 0 && clock_ns() < end)
        usleep(5000);
}

void http_drain(struct http *h, double seconds)
{
    uint64_t began = clock_ns();
    sse_drain(h);
    loop_stop_listening(h);
    for (double passed = 0; passed < seconds; passed = (double)(clock_ns() - began) * 1e-9) {
        bool idle = loop_idle(h, passed > HTTP_FRESH); /* before the requests are looked at */
        if (idle && atomic_load(&h->requests) == 0)
            return;
        usleep(5000);
    }
}

void http_close(struct http *h)
{
    if (!h)
        return;
    if (h->daemon) {
        loop_stop_listening(h);
        sse_drain(h);
        wait_for(&h->waiting, STOP_SECONDS);
        if (atomic_load(&h->waiting) > 0) {
            log_event(LOG_ERROR, "http_stuck", "requests=%d", atomic_load(&h->waiting));
            return; /* somebody still holds a request: leave all of it to the end of the process */
        }
    }
    loop_stop(h);
    if (h->daemon)
        MHD_stop_daemon(h->daemon);
    sse_close(h);
    loop_close(h);
    reply_close(h);
    addresses_close(h->addresses);
    free(h);
}
