/* One WebSocket by libwebsockets, driven by its caller: nothing happens outside socket_serve.
 *
 * Each has a context of its own, since a caller with several streams waits for one at a time. */
#include "clients/c/parts.h"

#include <libwebsockets.h>
#include <stdlib.h>
#include <string.h>

enum { MESSAGE_MAX = 1 << 30 };

struct socket {
    struct tv3s *c;
    struct lws_context *context;
    struct lws *wsi; /* NULL once it is closed */
    lws_sorted_usec_list_t timer;
    socket_handler *handler;
    void *ctx;
    struct buf in, out; /* a message that is not whole yet; room to mask one that is sent */
    int close_code;
    char close_reason[124];
};

static void closed(struct socket *s, const char *reason, int code)
{
    bool told = s->wsi != NULL; /* else in the middle of begin(), whose result says it */
    s->wsi = NULL;
    if (told)
        s->handler(s->ctx, SOCKET_CLOSED, reason, strlen(reason), code);
    else
        snprintf(s->close_reason, sizeof s->close_reason, "%s", reason);
}

/* A message comes in pieces. */
static int receive(struct socket *s, const void *data, size_t len)
{
    if (lws_is_first_fragment(s->wsi))
        s->in.len = 0;
    if (s->in.len + len > MESSAGE_MAX || buf_append(&s->in, data, len))
        return -1;
    if (lws_is_final_fragment(s->wsi))
        s->handler(s->ctx, lws_frame_is_binary(s->wsi) ? SOCKET_BINARY : SOCKET_TEXT, s->in.data,
                   s->in.len, 0);
    return 0;
}

static void keep_reason(struct socket *s, const uint8_t *data, size_t len)
{
    if (len < 2)
        return;
    s->close_code = data[0] << 8 | data[1];
    len = len - 2 < sizeof s->close_reason - 1 ? len - 2 : sizeof s->close_reason - 1;
    memcpy(s->close_reason, data + 2, len);
    s->close_reason[len] = '\0';
}

static int add_key(const struct socket *s, struct lws *wsi, uint8_t **at, size_t room)
{
    char bearer[1024];
    if (!s->c->key)
        return 0;
    int len = snprintf(bearer, sizeof bearer, "Bearer %s", s->c->key);
    return lws_add_http_header_by_token(wsi, WSI_TOKEN_HTTP_AUTHORIZATION,
                                        (const unsigned char *)bearer, len, at, *at + room);
}

static int on_event(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
                    size_t len)
{
    struct socket *s = lws_get_opaque_user_data(wsi);
    (void)user;
    if (!s)
        return 0;
    switch (reason) {
    case LWS_CALLBACK_CLIENT_APPEND_HANDSHAKE_HEADER:
        return add_key(s, wsi, in, len);
    case LWS_CALLBACK_CLIENT_ESTABLISHED:
        s->handler(s->ctx, SOCKET_OPEN, NULL, 0, 0);
        return 0;
    case LWS_CALLBACK_CLIENT_RECEIVE:
        return receive(s, in, len);
    case LWS_CALLBACK_CLIENT_WRITEABLE:
        s->handler(s->ctx, SOCKET_WRITABLE, NULL, 0, 0);
        return 0;
    case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE:
        keep_reason(s, in, len);
        return 0;
    case LWS_CALLBACK_CLIENT_CONNECTION_ERROR:
        closed(s, in ? in : "no connection", (int)lws_http_client_http_response(wsi));
        return 0;
    case LWS_CALLBACK_CLIENT_CLOSED:
        closed(s, *s->close_reason ? s->close_reason : "the connection broke", s->close_code);
        return 0;
    default:
        return 0;
    }
}

static const struct lws_protocols protocols[] = {{"tv3s.v1", on_event, 0, 1 << 16, 0, NULL, 0},
                                                 {NULL, NULL, 0, 0, 0, NULL, 0}};

static void quiet(int level, const char *line)
{
    (void)level;
    (void)line;
}

static enum tv3s_result begin(struct socket *s, const char *url)
{
    const char *scheme, *host, *path;
    char copy[4096], target[4096];
    int port;
    if (snprintf(copy, sizeof copy, "%s", url) >= (int)sizeof copy ||
        lws_parse_uri(copy, &scheme, &host, &port, &path) ||
        (strcmp(scheme, "ws") != 0 && strcmp(scheme, "wss") != 0))
        return client_fail(s->c, TV3S_ARGUMENT, "%s is no WebSocket's URL", url);
    snprintf(target, sizeof target, "/%s", path);
    struct lws_client_connect_info info = {
        .context = s->context,
        .address = host,
        .host = host,
        .origin = host,
        .port = port,
        .path = target,
        .protocol = "tv3s.v1",
        .local_protocol_name = "tv3s.v1",
        .ssl_connection = strcmp(scheme, "wss") == 0 ? LCCSCF_USE_SSL : 0,
        .opaque_user_data = s,
        .pwsi = &s->wsi,
    };
    if (!lws_client_connect_via_info(&info))
        return client_fail(s->c, TV3S_LOST, "%s: no connection", url); /* such as no such host */
    return TV3S_OK;
}

enum tv3s_result socket_open(struct tv3s *c, const char *url, socket_handler *handler, void *ctx,
                             struct socket **out)
{
    struct lws_context_creation_info info = {
        .port = CONTEXT_PORT_NO_LISTEN,
        .protocols = protocols,
        .gid = (gid_t)-1,
        .uid = (uid_t)-1,
        .options = LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT,
        .client_ssl_ca_filepath = c->ca,
        .timeout_secs = (unsigned)(c->timeout_ms + 999) / 1000,
    };
    struct socket *s = calloc(1, sizeof *s);
    *out = s;
    if (!s)
        return client_fail(c, TV3S_MEMORY, "no memory");
    *s = (struct socket){.c = c, .handler = handler, .ctx = ctx};
    lws_set_log_level(0, quiet);
    s->context = lws_create_context(&info);
    enum tv3s_result r = s->context ? begin(s, url) : client_fail(c, TV3S_MEMORY, "no memory");
    if (r) {
        socket_close(s);
        *out = NULL;
    }
    return r;
}

static void ignore(void *ctx, enum socket_event event, const void *data, size_t len, int code)
{
    (void)ctx, (void)event, (void)data, (void)len, (void)code;
}

void socket_close(struct socket *s)
{
    if (!s)
        return;
    s->handler = ignore;
    if (s->context)
        lws_context_destroy(s->context);
    buf_free(&s->in);
    buf_free(&s->out);
    free(s);
}

static void wake(lws_sorted_usec_list_t *timer)
{
    (void)timer; /* that it is there is enough: lws_service returns */
}

void socket_serve(struct socket *s, int64_t us)
{
    lws_sul_schedule(s->context, 0, &s->timer, wake, us > 0 ? us : 1);
    lws_service(s->context, 0);
    lws_sul_schedule(s->context, 0, &s->timer, wake, LWS_SET_TIMER_USEC_CANCEL);
}

void socket_want_write(struct socket *s)
{
    if (s->wsi)
        lws_callback_on_writable(s->wsi);
}

enum tv3s_result socket_write(struct socket *s, const void *data, size_t len, bool binary)
{
    /* libwebsockets masks in place and wants room in front. */
    s->out.len = 0;
    enum err e = buf_reserve(&s->out, LWS_PRE + len);
    if (e)
        return client_err(s->c, e);
    memcpy(s->out.data + LWS_PRE, data, len);
    enum lws_write_protocol type = binary ? LWS_WRITE_BINARY : LWS_WRITE_TEXT;
    if (lws_write(s->wsi, s->out.data + LWS_PRE, len, type) < 0)
        return client_fail(s->c, TV3S_LOST, "the connection broke");
    return TV3S_OK;
}
