/* The service thread.
 *
 * libwebsockets calls on_event in this one thread for everything that happens on a socket. Other
 * threads leave what they have for us in three short lists under one lock and wake the loop
 * (lws_cancel_service); on_wake takes the lists and deals with them here. So no connection has a
 * lock, and a worker that delivers never waits for the network. */
#include "server/ws.h"

#include "base/try.h"
#include "server/config.h"
#include "server/entrance.h"
#include "server/listen.h"
#include "server/log.h"
#include "server/sched.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

/* Bytes read, and written, at once. A large frame comes in such pieces; every connection has a
 * buffer of the first. */
enum { READ_SIZE = 16 << 10, WRITE_SIZE = 1 << 20, SERVICE_SIZE = 64 << 10 };
enum { CODE_END = 5000 };      /* close codes are below */
enum { FILES_MAX = 1 << 20 };  /* descriptors, where their number has no limit */
enum { REQUEST_SECONDS = 20 }; /* an upgrade takes no longer */

/* ---- from other threads -------------------------------------------------------------------------
 */

void ws_take_item(struct item *item)
{
    struct ws *w = ((struct connection *)item->owner)->ws;
    item->next = NULL;
    pthread_mutex_lock(&w->lock);
    bool idle = !w->items_head;
    if (idle)
        w->items_head = item;
    else
        w->items_tail->next = item;
    w->items_tail = item;
    pthread_mutex_unlock(&w->lock);
    if (idle)
        lws_cancel_service(w->context);
}

void ws_take_reset(struct command *command)
{
    struct ws_reset *r = (struct ws_reset *)command;
    struct ws *w = r->owner->ws;
    r->next = NULL;
    pthread_mutex_lock(&w->lock);
    if (w->resets_head)
        w->resets_tail->next = r;
    else
        w->resets_head = r;
    w->resets_tail = r;
    pthread_mutex_unlock(&w->lock);
    lws_cancel_service(w->context);
}

static void tell_gone(struct ws *w, struct session *s, int code, const char *reason, bool now)
{
    struct ws_gone *g = calloc(1, sizeof *g);
    if (!g)
        return; /* its frames fail with ERR_NOT_FOUND, or the other replica asks again */
    g->session = session_ref(s);
    g->code = code;
    g->now = now;
    g->reason = reason;
    pthread_mutex_lock(&w->lock);
    g->next = w->gone;
    w->gone = g;
    pthread_mutex_unlock(&w->lock);
    lws_cancel_service(w->context);
}

void ws_stream_gone(struct ws *w, struct session *s, const char *reason)
{
    tell_gone(w, s, CLOSE_GONE, reason, true);
}

void ws_stream_moved(struct ws *w, struct session *s, bool has)
{
    tell_gone(w, s, CLOSE_TAKEOVER, "takeover", has);
}

void ws_check_keys(struct ws *w)
{
    pthread_mutex_lock(&w->lock);
    w->check_keys = true;
    pthread_mutex_unlock(&w->lock);
    lws_cancel_service(w->context);
}

/* ---- the wake-up --------------------------------------------------------------------------------
 */

static void take_items(struct item *item)
{
    while (item) {
        struct item *next = item->next;
        connection_item(item->owner, item);
        item = next;
    }
}

static void take_resets(struct ws_reset *r)
{
    while (r) {
        struct ws_reset *next = r->next;
        connection_reset_done(r->owner, &r->command);
        free(r);
        r = next;
    }
}

static void take_gone(struct ws *w, struct ws_gone *g)
{
    while (g) {
        struct ws_gone *next = g->next;
        for (struct connection *c = w->connections; c; c = c->next) {
            if (c->session != g->session)
                continue;
            c->wanted = !g->now;
            connection_close(c, g->code, g->reason, g->now);
        }
        session_unref(g->session);
        free(g);
        g = next;
    }
}

/* Where systemd keeps the socket, who comes now is accepted by the daemon that follows; else an
 * upgrade is refused with 503. */
static void begin_drain(struct ws *w)
{
    w->draining = true;
    if (w->kept)
        entrance_deafen(w->entrance);
    for (struct connection *c = w->connections, *next; c; c = next) {
        bool failed = sched_failed_for(c->session);
        next = c->next;
        connection_close(c, failed ? CLOSE_DEVICE : CLOSE_DRAIN, failed ? "device" : "drain",
                         false);
    }
}

static void close_revoked(struct ws *w)
{
    for (struct connection *c = w->connections, *next; c; c = next) {
        next = c->next;
        if (!owner_may(c->session->params.owner, ROLE_STREAM))
            connection_close(c, CLOSE_REVOKED, "revoked", true);
    }
}

/* Who takes a byte now and then. Those who take nothing miss their pings. */
static void look_at_paces(lws_sorted_usec_list_t *timer)
{
    struct ws *w = lws_container_of(timer, struct ws, every_second);
    uint64_t now = clock_ns();
    for (struct connection *c = w->connections; c; c = c->next) {
        int fd = lws_get_socket_fd(c->wsi);
        if (pace_kept(&c->pace, fd, now, w->server->config->ws_timeout))
            continue;
        pace_reset(fd);
        lws_set_timeout(c->wsi, PENDING_TIMEOUT_USER_REASON_BASE, LWS_TO_KILL_ASYNC);
    }
    lws_sul_schedule(w->context, 0, timer, look_at_paces, LWS_US_PER_SEC);
}

static void kill_all(struct ws *w)
{
    for (struct connection *c = w->connections; c; c = c->next)
        lws_set_timeout(c->wsi, PENDING_TIMEOUT_USER_REASON_BASE, LWS_TO_KILL_ASYNC);
}

static void on_wake(struct ws *w)
{
    pthread_mutex_lock(&w->lock);
    struct item *items = w->items_head;
    struct ws_reset *resets = w->resets_head;
    struct ws_gone *gone = w->gone;
    bool drain = w->drain && !w->draining, kill = w->kill;
    w->items_head = w->items_tail = NULL;
    w->resets_head = w->resets_tail = NULL;
    w->gone = NULL;
    bool check_keys = w->check_keys;
    w->kill = w->check_keys = false;
    pthread_mutex_unlock(&w->lock);
    take_items(items);
    take_resets(resets);
    take_gone(w, gone);
    if (check_keys)
        close_revoked(w);
    if (drain)
        begin_drain(w);
    if (kill)
        kill_all(w);
    if (entrance_shut(w->entrance))
        entrance_work(w->entrance);
    if (!w->draining || w->count)
        return;
    pthread_mutex_lock(&w->lock);
    w->is_empty = true;
    pthread_cond_broadcast(&w->empty);
    pthread_mutex_unlock(&w->lock);
}

/* ---- the listening socket -----------------------------------------------------------------------
 *
 * libwebsockets has our entrance as a file to watch, and each connection as one it accepted. It
 * would ask the socket who is there, which may be a proxy: we keep that ourselves. Who has not
 * asked for a WebSocket yet counts too, or a stranger who never asks had all descriptors.
 */

static void see_off(struct ws *w, struct visitor *v)
{
    if (v->counted)
        address_leave(w->addresses, &v->peer);
    w->visitors--;
    if (entrance_shut(w->entrance))
        lws_cancel_service(w->context); /* on_wake lets in who waits */
}

static void take(void *ws, int fd, const struct sockaddr *from, socklen_t len)
{
    const int yes = 1;
    struct ws *w = ws;
    (void)len;
    if (fd >= w->files) {
        close(fd);
        return;
    }
    struct visitor *v = &w->visitor[fd];
    *v = (struct visitor){.peer = address_of(from)};
    v->counted = address_enter(w->addresses, &v->peer) == ERR_OK;
    w->visitors++;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    struct lws *wsi = lws_adopt_socket_vhost(w->vhost, fd); /* or closes it */
    if (wsi)
        lws_set_opaque_user_data(wsi, v);
    else
        see_off(w, v);
}

/* As many as there may be WebSockets are on their way to be one at most. */
static int room(void *ws)
{
    struct ws *w = ws;
    return 2 * w->server->config->ws_connections - w->visitors;
}

static enum err prepare_visitors(struct ws *w)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0 || r.rlim_cur > FILES_MAX)
        r.rlim_cur = FILES_MAX;
    w->files = (int)r.rlim_cur;
    w->visitor = calloc(r.rlim_cur, sizeof *w->visitor);
    return w->visitor ? ERR_OK : err_set(ERR_NOMEM, "no memory for the WebSocket server");
}

/* libwebsockets closes what it watches: it has a descriptor of its own. */
static enum err watch_entrance(struct ws *w)
{
    const struct config *config = w->server->config;
    const struct entrance_host host = {w, take, room};
    lws_sock_file_fd_type fd;
    int listener;
    TRY(prepare_visitors(w));
    enum err e = listen_open("ws", config->listen, config->ws_port, &listener);
    if (e)
        return err_context(e, "WebSocket");
    w->port = listen_port(listener);
    w->kept = listen_passed("ws");
    TRY(entrance_open(listener, w->addresses, &host, &w->entrance));
    fd.filefd = fcntl(entrance_fd(w->entrance), F_DUPFD_CLOEXEC, 0);
    if (fd.filefd < 0 || !lws_adopt_descriptor_vhost(w->vhost, LWS_ADOPT_RAW_FILE_DESC, fd,
                                                     w->protocols[0].name, NULL))
        return err_set(ERR_NOMEM, "libwebsockets does not listen");
    return ERR_OK;
}

/* ---- libwebsockets' callback --------------------------------------------------------------------
 */

static struct connection *connection_of(struct lws *wsi)
{
    const struct visitor *v = lws_get_opaque_user_data(wsi);
    return v ? v->connection : NULL;
}

static void on_closed(struct ws *w, struct visitor *v)
{
    if (!v || !v->connection)
        return;
    connection_lost(v->connection);
    v->connection = NULL;
    if (w->draining && !w->count)
        lws_cancel_service(w->context); /* on_wake tells ws_drain */
}

static void on_destroy(struct ws *w, struct lws *wsi, struct visitor *v)
{
    on_closed(w, v);
    lws_set_opaque_user_data(wsi, NULL);
    if (v)
        see_off(w, v);
}

/* The client's close frame: 2 bytes of code and a reason, or nothing. 0: libwebsockets answers with
 * the same. It checks most of them itself. */
static int on_peer_close(struct lws *wsi, const struct connection *c, const uint8_t *data,
                         size_t len)
{
    if (!c || c->sent_close) /* the answer to ours is not answered */
        return -1;
    json_t *reason = len > 2 ? json_stringn((const char *)data + 2, len - 2) : NULL;
    bool utf8 = len <= 2 || reason;
    bool known = len == 0 || (len > 1 && (data[0] << 8 | data[1]) < CODE_END);
    json_decref(reason);
    if (utf8 && known)
        return 0;
    out_close(wsi, known ? LWS_CLOSE_STATUS_INVALID_PAYLOAD : LWS_CLOSE_STATUS_PROTOCOL_ERR, "");
    return -1;
}

static int on_event(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
                    size_t len)
{
    struct ws *w = lws_context_user(lws_get_context(wsi));
    struct connection *c;
    switch (reason) {
    case LWS_CALLBACK_OPENSSL_LOAD_EXTRA_SERVER_VERIFY_CERTS: /* the vhost is being made */
        return tls_prepare(user) ? 0 : 1;
    case LWS_CALLBACK_EVENT_WAIT_CANCELLED:
        on_wake(w);
        return 0;
    case LWS_CALLBACK_RAW_RX_FILE:
        entrance_work(w->entrance);
        return 0;
    case LWS_CALLBACK_HTTP:
        return upgrade_refuse_http(wsi);
    case LWS_CALLBACK_HTTP_BODY:
        return upgrade_discard(wsi);
    case LWS_CALLBACK_HTTP_BODY_COMPLETION:
        return -1;
    case LWS_CALLBACK_HTTP_CONFIRM_UPGRADE:
        return upgrade_confirm(w, wsi, in);
    case LWS_CALLBACK_ESTABLISHED:
        c = connection_of(wsi);
        if (!c)
            return -1;
        connection_established(c);
        return 0;
    case LWS_CALLBACK_TIMER:
        c = connection_of(wsi);
        if (c)
            connection_timer(c);
        return 0;
    case LWS_CALLBACK_RECEIVE:
        c = connection_of(wsi);
        if (!c)
            return -1;
        in_receive(c, in, len);
        return 0;
    case LWS_CALLBACK_WS_PEER_INITIATED_CLOSE:
        return on_peer_close(wsi, connection_of(wsi), in, len);
    case LWS_CALLBACK_SERVER_WRITEABLE:
        c = connection_of(wsi);
        return c ? out_write(c) : -1;
    case LWS_CALLBACK_CLOSED:
        on_closed(w, lws_get_opaque_user_data(wsi));
        return 0;
    case LWS_CALLBACK_WSI_DESTROY:
        on_destroy(w, wsi, lws_get_opaque_user_data(wsi));
        return 0;
    default:
        return lws_callback_http_dummy(wsi, reason, user, in, len);
    }
}

/* ---- starting -----------------------------------------------------------------------------------
 */

static void on_log(int level, const char *line)
{
    char text[256];
    snprintf(text, sizeof text, "%s", line);
    text[strcspn(text, "\r\n")] = '\0';
    log_event(level == LLL_ERR ? LOG_WARNING : LOG_DEBUG, "libwebsockets", "text=%s",
              log_text(text));
}

static const struct lws_extension deflate[] = {
    {"permessage-deflate", lws_extension_callback_pm_deflate,
     "permessage-deflate; client_no_context_takeover; client_max_window_bits"},
    {NULL, NULL, NULL}};

static enum err create_context(struct ws *w)
{
    const struct config *config = w->server->config;
    unsigned seconds = (unsigned)config->ws_timeout;
    w->liveness.secs_since_valid_ping = (uint16_t)(seconds / 2);
    w->liveness.secs_since_valid_hangup = (uint16_t)seconds;
    w->protocols[0] = (struct lws_protocols){.name = "tv3s.v1",
                                             .callback = on_event,
                                             .rx_buffer_size = READ_SIZE,
                                             .tx_packet_size = WRITE_SIZE};
    struct lws_context_creation_info info = {
        .port = CONTEXT_PORT_NO_LISTEN_SERVER,
        .protocols = w->protocols,
        .extensions = config->deflate ? deflate : NULL,
        .options = LWS_SERVER_OPTION_VALIDATE_UTF8 | LWS_SERVER_OPTION_EXPLICIT_VHOSTS,
        .user = w,
        .gid = (gid_t)-1,
        .uid = (uid_t)-1,
        .server_string = "tv3sd",
        .pt_serv_buf_size = SERVICE_SIZE,
        .timeout_secs = REQUEST_SECONDS,
        .retry_and_idle_policy = &w->liveness,
    };
    if (tls_wanted(config)) {
        info.options |= LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT;
        info.ssl_cert_filepath = config->tls_certificate;
        info.ssl_private_key_filepath = config->tls_key;
        info.ssl_cipher_list = TLS_CIPHERS;
        info.alpn = "http/1.1"; /* no HTTP/2: see upgrade_confirm */
    }
    lws_set_log_level(LLL_ERR | LLL_WARN, on_log);
    w->context = lws_create_context(&info);
    if (!w->context)
        return err_set(ERR_NOMEM, "libwebsockets does not start");
    w->vhost = lws_create_vhost(w->context, &info);
    if (!w->vhost)
        return err_set(ERR_NOMEM, "libwebsockets does not start");
    look_at_paces(&w->every_second);
    return watch_entrance(w);
}

static void *service(void *ws)
{
    struct ws *w = ws;
    pthread_setname_np(pthread_self(), "ws");
    for (bool stop = false; !stop;) {
        lws_service(w->context, 0);
        pthread_mutex_lock(&w->lock);
        stop = w->stop;
        pthread_mutex_unlock(&w->lock);
    }
    return NULL;
}

/* Signals are the main thread's. */
static enum err start_thread(struct ws *w)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    w->started = pthread_create(&w->thread, NULL, service, w) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return w->started ? ERR_OK : err_set(ERR_NOMEM, "no thread for WebSockets");
}

enum err ws_open(struct server *s, struct ws **out)
{
    struct ws *w = calloc(1, sizeof *w);
    *out = NULL;
    if (!w)
        return err_set(ERR_NOMEM, "no memory for the WebSocket server");
    w->server = s;
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&w->empty, &monotonic);
    pthread_condattr_destroy(&monotonic);
    enum err e = addresses_open(s->config, &w->addresses);
    if (!e)
        e = create_context(w);
    if (!e)
        e = start_thread(w);
    if (e)
        ws_close(w);
    else
        *out = w;
    return e;
}

int ws_port(const struct ws *w)
{
    return w->port;
}

/* ---- ending -------------------------------------------------------------------------------------
 */

static struct timespec later(double seconds)
{
    uint64_t ns = clock_ns() + (uint64_t)(seconds * 1e9);
    return (struct timespec){(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
}

/* Waits for the last connection to end. */
static void await_empty(struct ws *w, double seconds)
{
    struct timespec until = later(seconds);
    lws_cancel_service(w->context);
    while (!w->is_empty && pthread_cond_timedwait(&w->empty, &w->lock, &until) == 0)
        ;
}

void ws_drain(struct ws *w, double seconds)
{
    pthread_mutex_lock(&w->lock);
    w->drain = true;
    await_empty(w, seconds);
    if (!w->is_empty) {
        w->kill = true;
        await_empty(w, 1);
    }
    pthread_mutex_unlock(&w->lock);
}

void ws_close(struct ws *w)
{
    if (!w)
        return;
    if (w->started) {
        pthread_mutex_lock(&w->lock);
        w->stop = true;
        pthread_mutex_unlock(&w->lock);
        lws_cancel_service(w->context);
        pthread_join(w->thread, NULL);
    }
    if (w->context)
        lws_context_destroy(w->context); /* every connection is lost */
    take_items(w->items_head);           /* the lists are ours alone now */
    take_resets(w->resets_head);
    take_gone(w, w->gone);
    entrance_close(w->entrance);
    free(w->visitor);
    addresses_close(w->addresses);
    pthread_cond_destroy(&w->empty);
    pthread_mutex_destroy(&w->lock);
    free(w);
}
