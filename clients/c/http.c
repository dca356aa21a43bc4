/* Requests over HTTP, one at a time, by libcurl. Its handle stays, and with it the connection. */
#include "clients/c/parts.h"
#include "base/version.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { TIMEOUT_MS = 60000, PROBE_MS = 5000, BODY_MAX = 256 << 20, PROBLEM_MAX = 64 << 10 };

struct transfer {
    struct tv3s *c;
    const struct request *r;
    enum tv3s_result failed; /* of a callback */
    char curl_error[CURL_ERROR_SIZE];
};

/* ---- failures -----------------------------------------------------------------------------------
 */

enum tv3s_result client_fail(struct tv3s *c, enum tv3s_result r, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    vsnprintf(c->error, sizeof c->error, fmt, args);
    va_end(args);
    c->problem[0] = '\0';
    return r;
}

enum tv3s_result client_err(struct tv3s *c, enum err e)
{
    enum tv3s_result r = e == ERR_OK       ? TV3S_OK
                         : e == ERR_NOMEM  ? TV3S_MEMORY
                         : e == ERR_FORMAT ? TV3S_PROTOCOL
                         : e == ERR_ARG    ? TV3S_ARGUMENT
                                           : TV3S_FILE;
    return r ? client_fail(c, r, "%s", err_text()) : r;
}

const char *client_problem_name(const json_t *problem)
{
    const char *type = json_string_value(json_object_get(problem, "type"));
    const char *slash = type ? strrchr(type, '/') : NULL;
    return slash ? slash + 1 : type ? type : "";
}

enum tv3s_result client_refused(struct tv3s *c, int status, const void *body, size_t len)
{
    json_t *p = body ? json_loadb(body, len, 0, NULL) : NULL;
    const char *title = json_string_value(json_object_get(p, "title"));
    const char *detail = json_string_value(json_object_get(p, "detail"));
    const char *name = client_problem_name(p);
    client_fail(c, TV3S_REFUSED, "%s (%d%s%s)",
                detail  ? detail
                : title ? title
                        : "refused",
                status, *name ? ", " : "", name);
    snprintf(c->problem, sizeof c->problem, "%s", name);
    c->status = status;
    json_decref(p);
    return TV3S_REFUSED;
}

const char *tv3s_error(const struct tv3s *c)
{
    return c->error;
}

const char *tv3s_problem(const struct tv3s *c)
{
    return c->problem;
}

int tv3s_status(const struct tv3s *c)
{
    return c->status;
}

/* ---- a server -----------------------------------------------------------------------------------
 */

static char *without_slash(const char *url)
{
    char *copy = strdup(url);
    if (copy && *copy && copy[strlen(copy) - 1] == '/')
        copy[strlen(copy) - 1] = '\0';
    return copy;
}

enum tv3s_result tv3s_open(const struct tv3s_options *o, struct tv3s **out)
{
    struct tv3s *c = calloc(1, sizeof *c);
    *out = c;
    if (!c)
        return TV3S_MEMORY;
    c->timeout_ms = o->timeout_ms > 0 ? o->timeout_ms : TIMEOUT_MS;
    c->url = without_slash(o->url ? o->url : "http://127.0.0.1:8080");
    c->ws_url = o->ws_url ? without_slash(o->ws_url) : NULL;
    c->curl = curl_easy_init();
    c->key = o->key ? strdup(o->key) : NULL;
    c->ca = o->ca ? strdup(o->ca) : NULL;
    if (!c->url || (o->ws_url && !c->ws_url) || (o->key && !c->key) || (o->ca && !c->ca) ||
        !c->curl)
        return client_fail(c, TV3S_MEMORY, "no memory");
    return TV3S_OK;
}

void tv3s_close(struct tv3s *c)
{
    if (!c)
        return;
    curl_easy_cleanup(c->curl);
    buf_free(&c->body);
    free(c->url);
    free(c->ws_url);
    free(c->key);
    free(c->ca);
    free(c);
}

/* ---- what goes and comes ------------------------------------------------------------------------
 */

static size_t on_body(char *data, size_t size, size_t count, void *transfer)
{
    struct transfer *t = transfer;
    struct tv3s *c = t->c;
    size_t len = size * count;
    long status = 0;
    curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
    enum err e = ERR_OK;
    if (status >= 400)
        e = c->body.len + len <= PROBLEM_MAX ? buf_append(&c->body, data, len) : ERR_OK;
    else if (t->r->to)
        e = outfile_write(t->r->to, data, len);
    else if (c->body.len + len > BODY_MAX)
        e = err_set(ERR_FORMAT, "the answer is longer than %d bytes", BODY_MAX);
    else
        e = buf_append(&c->body, data, len);
    t->failed = client_err(c, e);
    return e ? 0 : len;
}

static size_t on_read(char *data, size_t size, size_t count, void *transfer)
{
    struct transfer *t = transfer;
    size_t got = fread(data, size, count, t->r->from);
    if (got == 0 && ferror(t->r->from)) {
        t->failed = client_fail(t->c, TV3S_FILE, "cannot read the file: %m");
        return CURL_READFUNC_ABORT;
    }
    return got * size;
}

static int on_progress(void *transfer, curl_off_t down_total, curl_off_t down, curl_off_t up_total,
                       curl_off_t up)
{
    struct transfer *t = transfer;
    const struct request *r = t->r;
    if (!r->progress)
        return 0;
    bool upload = r->from != NULL;
    int64_t done = upload ? up : down, total = upload ? up_total : down_total;
    return r->progress(r->ctx, done, total > 0 ? total : -1) ? 0 : 1;
}

static void set_body(struct tv3s *c, struct transfer *t, const struct request *r)
{
    if (r->from) {
        curl_easy_setopt(c->curl, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(c->curl, CURLOPT_READFUNCTION, on_read);
        curl_easy_setopt(c->curl, CURLOPT_READDATA, t);
        curl_easy_setopt(c->curl, CURLOPT_INFILESIZE_LARGE, (curl_off_t)r->len);
    } else if (strcmp(r->method, "POST") == 0) {
        curl_easy_setopt(c->curl, CURLOPT_POSTFIELDS, "");
    }
}

static void set_options(struct tv3s *c, struct transfer *t, const struct request *r,
                        struct curl_slist *headers, const char *url)
{
    curl_easy_reset(c->curl);
    curl_easy_setopt(c->curl, CURLOPT_URL, url);
    curl_easy_setopt(c->curl, CURLOPT_CUSTOMREQUEST, r->method);
    curl_easy_setopt(c->curl, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c->curl, CURLOPT_PROTOCOLS_STR, "http,https");
    if (c->ca)
        curl_easy_setopt(c->curl, CURLOPT_CAINFO, c->ca);
    curl_easy_setopt(c->curl, CURLOPT_USERAGENT, "tv3s-client/" TV3S_VERSION);
    curl_easy_setopt(c->curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c->curl, CURLOPT_CONNECTTIMEOUT_MS, c->timeout_ms);
    curl_easy_setopt(c->curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl_easy_setopt(c->curl, CURLOPT_LOW_SPEED_TIME, (c->timeout_ms + 999) / 1000);
    curl_easy_setopt(c->curl, CURLOPT_ERRORBUFFER, t->curl_error);
    curl_easy_setopt(c->curl, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c->curl, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(c->curl, CURLOPT_NOPROGRESS, r->progress ? 0L : 1L);
    curl_easy_setopt(c->curl, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(c->curl, CURLOPT_XFERINFODATA, t);
    set_body(c, t, r);
}

/* ---- plain HTTP to a port of TLS, or the other way ----------------------------------------------
 */

static size_t drop_body(char *data, size_t size, size_t count, void *nobody)
{
    (void)data, (void)nobody;
    return size * count;
}

/* Whether anything is answered at `url`, whoever it is: no key is shown, and nothing is believed.
 */
static bool answers(const char *url)
{
    long status = 0;
    CURL *curl = curl_easy_init();
    if (!curl)
        return false;
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, 0L);
    curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, 0L);
    curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)PROBE_MS);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, drop_body);
    if (curl_easy_perform(curl) == CURLE_OK)
        curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_cleanup(curl);
    return status > 0;
}

/* No answer came, by `code`: TV3S_OK, or what is wrong with the URL. */
static enum tv3s_result check_scheme(struct tv3s *c, CURLcode code)
{
    bool tls = strncasecmp(c->url, "https://", 8) == 0;
    const char *rest = strstr(c->url, "://"), *scheme = tls ? "http" : "https";
    bool broke = code == CURLE_GOT_NOTHING || code == CURLE_SEND_ERROR || code == CURLE_RECV_ERROR;
    struct buf other = {0};
    enum tv3s_result r = TV3S_OK;
    if (!rest || !(tls ? code == CURLE_SSL_CONNECT_ERROR : broke))
        return TV3S_OK;
    if (buf_printf(&other, "%s%s/livez", scheme, rest) == ERR_OK && answers((char *)other.data))
        r = client_fail(c, TV3S_ARGUMENT, "%s: the server speaks %s there: %s%s", c->url,
                        tls ? "plain HTTP" : "TLS", scheme, rest);
    buf_free(&other);
    return r;
}

/* ---- one request --------------------------------------------------------------------------------
 */

static enum tv3s_result outcome(struct tv3s *c, const struct transfer *t, CURLcode code)
{
    long status = 0;
    curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
    c->status = (int)status;
    if (t->failed)
        return t->failed;
    if (code == CURLE_ABORTED_BY_CALLBACK)
        return client_fail(c, TV3S_STOPPED, "stopped");
    if (code == CURLE_URL_MALFORMAT || code == CURLE_UNSUPPORTED_PROTOCOL)
        return client_fail(c, TV3S_ARGUMENT, "%s: %s", c->url, curl_easy_strerror(code));
    /* An answer that came while we were still sending counts, whatever became of the sending. */
    if (status >= 400)
        return client_refused(c, c->status, c->body.data, c->body.len);
    if (code == CURLE_OUT_OF_MEMORY)
        return client_fail(c, TV3S_MEMORY, "no memory");
    enum tv3s_result r = code && !t->r->upgrade_at ? check_scheme(c, code) : TV3S_OK;
    if (code && !r)
        return client_fail(c, code == CURLE_OPERATION_TIMEDOUT ? TV3S_TIMEOUT : TV3S_LOST, "%s: %s",
                           c->url, *t->curl_error ? t->curl_error : curl_easy_strerror(code));
    return r;
}

static struct curl_slist *make_headers(const struct tv3s *c, const struct request *r)
{
    /* No Expect: it costs a round trip, and a refusal ends the sending without it too. */
    static const char *const upgrade[] = {"Expect:",
                                          "Connection: Upgrade",
                                          "Upgrade: websocket",
                                          "Sec-WebSocket-Version: 13",
                                          "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
                                          "Sec-WebSocket-Protocol: tv3s.v1"};
    size_t count = r->upgrade_at ? sizeof upgrade / sizeof *upgrade : 1;
    struct curl_slist *list = NULL;
    char bearer[1024];
    if (c->key && snprintf(bearer, sizeof bearer, "Authorization: Bearer %s", c->key) > 0)
        list = curl_slist_append(list, bearer);
    for (size_t i = 0; i < count && (i == 0 || list); i++) {
        struct curl_slist *longer = curl_slist_append(list, upgrade[i]);
        if (!longer)
            curl_slist_free_all(list);
        list = longer;
    }
    return list;
}

enum tv3s_result client_request(struct tv3s *c, const struct request *r)
{
    struct transfer t = {.c = c, .r = r};
    struct buf url = {0};
    c->body.len = 0;
    c->status = 0;
    struct curl_slist *headers = make_headers(c, r);
    enum err e = buf_printf(&url, "%s%s", r->upgrade_at ? r->upgrade_at : c->url, r->path);
    enum tv3s_result result = e || !headers ? client_fail(c, TV3S_MEMORY, "no memory") : TV3S_OK;
    if (!result) {
        set_options(c, &t, r, headers, (const char *)url.data);
        result = outcome(c, &t, curl_easy_perform(c->curl));
    }
    curl_slist_free_all(headers);
    buf_free(&url);
    return result;
}
