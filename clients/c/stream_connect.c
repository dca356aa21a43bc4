/* A stream's connection: where it is, made, refused, and made again. */
#include "clients/c/stream_parts.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { FIRST_PAUSE_MS = 250, LAST_PAUSE_MS = 8000 };

int64_t stream_now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* ---- the connection -----------------------------------------------------------------------------
 */

/* c->ws_url, which the server tells: a URL, or the port beside its own host. */
static enum tv3s_result find_ws_url(struct tv3s *c)
{
    const char *json;
    struct buf url = {0};
    char *host = NULL, *scheme = NULL;
    if (c->ws_url)
        return TV3S_OK;
    enum tv3s_result r = tv3s_get(c, "/v1/server", &json);
    if (r)
        return r;
    json_t *server = json_loads(json, 0, NULL);
    const json_t *ws = json_object_get(server, "websocket");
    const char *given = json_string_value(json_object_get(ws, "url"));
    json_int_t port = json_integer_value(json_object_get(ws, "port"));
    CURLU *u = curl_url();
    if (given)
        r = client_err(c, buf_printf(&url, "%s", given));
    else if (!port || curl_url_set(u, CURLUPART_URL, c->url, 0) ||
             curl_url_get(u, CURLUPART_HOST, &host, 0) ||
             curl_url_get(u, CURLUPART_SCHEME, &scheme, 0))
        r = client_fail(c, TV3S_PROTOCOL, "the server does not say where its WebSocket is");
    else
        r = client_err(c, buf_printf(&url, "%s://%s:%d", strcmp(scheme, "https") ? "ws" : "wss",
                                     host, (int)port));
    if (!r && !(c->ws_url = strdup((const char *)url.data)))
        r = client_fail(c, TV3S_MEMORY, "no memory");
    curl_free(host);
    curl_free(scheme);
    curl_url_cleanup(u);
    json_decref(server);
    buf_free(&url);
    return r;
}

/* Why the upgrade is refused, which libwebsockets does not tell: asked again, as plain HTTP. */
static enum tv3s_result explain(struct tv3s *c, const char *path, const char *lost, int status)
{
    struct buf http = {0};
    enum err e = buf_printf(&http, "http%s", c->ws_url + strlen("ws"));
    struct request r = {.method = "GET", .path = path, .upgrade_at = (const char *)http.data};
    enum tv3s_result result = e ? client_err(c, e) : client_request(c, &r);
    buf_free(&http);
    if (result == TV3S_REFUSED && c->status == status)
        return result;
    return status >= 400 ? client_refused(c, status, NULL, 0)
                         : client_fail(c, TV3S_LOST, "%s: %s", c->ws_url, lost);
}

/* In place of hello, by a server that had to ask others. */
static enum tv3s_result refused(struct tv3s_stream *s)
{
    char *text = json_dumps(s->refused, JSON_COMPACT);
    int status = (int)json_integer_value(json_object_get(s->refused, "status"));
    enum tv3s_result r = client_refused(s->c, status, text, text ? strlen(text) : 0);
    json_decref(s->refused);
    s->refused = NULL;
    free(text);
    return r;
}

static enum tv3s_result greet(struct tv3s_stream *s, const char *path)
{
    struct tv3s *c = s->c;
    int64_t until = stream_now_us() + c->timeout_ms * 1000;
    while (!s->greeted && !s->dead && !s->failed && !s->refused) {
        if (stream_now_us() >= until)
            return client_fail(c, TV3S_TIMEOUT, "%s: no answer", c->ws_url);
        socket_serve(s->socket, until - stream_now_us());
    }
    if (s->failed)
        return s->failed;
    if (s->refused)
        return refused(s);
    if (!s->dead)
        return TV3S_OK;
    if (*s->bye)
        return client_fail(c, TV3S_LOST, "%s: the server says %s", c->ws_url, s->bye);
    return s->lost_code >= 400 && s->lost_code < 600
               ? explain(c, path, s->lost, s->lost_code)
               : client_fail(c, TV3S_LOST, "%s: %s", c->ws_url, s->lost);
}

enum tv3s_result stream_connect(struct tv3s_stream *s)
{
    struct buf path = {0}, url = {0};
    enum tv3s_result r = find_ws_url(s->c);
    socket_close(s->socket);
    s->socket = NULL;
    s->greeted = s->dead = false;
    s->bye[0] = '\0';
    if (!r)
        r = client_stream_path(s->c, &path, s->id, &s->o);
    if (!r)
        r = client_err(s->c, buf_printf(&url, "%s%s", s->c->ws_url, (const char *)path.data));
    if (!r)
        r = socket_open(s->c, (const char *)url.data, stream_on_socket, s, &s->socket);
    if (!r)
        r = greet(s, (const char *)path.data);
    if (!r)
        socket_want_write(s->socket);
    s->dead = r != TV3S_OK;
    buf_free(&path);
    buf_free(&url);
    return r;
}

/* What a server that is being replaced, or a proxy before it, answers for a while. */
static bool may_pass(const struct tv3s *c, enum tv3s_result r)
{
    return r == TV3S_LOST || r == TV3S_TIMEOUT ||
           (r == TV3S_REFUSED &&
            ((c->status >= 502 && c->status <= 504) || strcmp(c->problem, "elsewhere") == 0));
}

static enum tv3s_result reconnect(struct tv3s_stream *s)
{
    enum tv3s_result r = client_fail(s->c, TV3S_LOST, "%s: %s", s->c->ws_url, s->lost);
    s->o.takeover = true; /* also where the loss is not noticed there */
    while (may_pass(s->c, r) && s->failures < s->o.reconnects) {
        int pause = FIRST_PAUSE_MS << (s->failures < 5 ? s->failures : 5);
        pause = pause < LAST_PAUSE_MS ? pause : LAST_PAUSE_MS;
        nanosleep(&(struct timespec){pause / 1000, pause % 1000 * 1000000L}, NULL);
        s->failures++;
        r = stream_connect(s);
        if (r == TV3S_OK)
            return TV3S_OK;
    }
    return r;
}

/* Waits once for what the socket has, or makes the connection again; TV3S_TIMEOUT after `until`. */
enum tv3s_result stream_pump(struct tv3s_stream *s, int64_t until)
{
    int64_t now = stream_now_us();
    if (s->dead)
        return reconnect(s);
    if (now >= until)
        return client_fail(s->c, TV3S_TIMEOUT, "stream %s: nothing came", s->id);
    socket_serve(s->socket, until - now);
    return s->failed;
}
