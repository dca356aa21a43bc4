/* The network thread of HTTP: libmicrohttpd's event loop, and an eye on clients that hang up.
 *
 * libmicrohttpd waits for edges of epoll and takes a read that fills less than its buffer for "no
 * more to come". When the last bytes of a client and the end of its stream arrive as one edge, it
 * reads the bytes and never the end, and half an upload would stay until http_timeout. So every
 * socket is in an epoll set of ours too, which tells once that the client has hung up (EPOLLRDHUP).
 * When libmicrohttpd has read all that came before, we suspend the connection and resume it at
 * once: what is resumed is read, and there it finds the end. A client that has closed its half
 * alone gets its answer all the same.
 *
 * libmicrohttpd's timeout begins anew with every byte, so a client that trickles would never meet
 * it. It also ends without a reset: the kernel would go on with what its buffer holds, at the
 * client's pace. So every peer has a deadline instead: loop_expect says until when it must have
 * brought something. Who takes an answer too slowly is found by its pace.
 *
 * Who was answered before all of the body was read is not reset at once (linger.h).
 *
 * Our set holds libmicrohttpd's as well, the entrance's, and an eventfd by which other threads wake
 * the loop.
 *
 * At a stop who is connected is answered. A listening socket that is closed resets the connections
 * that wait in it, so it takes no more of them for a moment (those that knock try again), lets in
 * the ones that are there, and is closed then. One that systemd passed keeps those that wait for
 * the next process. Who has been let in and has not asked yet has HTTP_FRESH seconds to ask. */
#include "server/http.h"

#include "base/try.h"
#include "server/config.h"
#include "server/entrance.h"
#include "server/linger.h"
#include "server/listen.h"
#include "server/pace.h"

#include <errno.h>
#include <limits.h>
#include <linux/filter.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 64, LAST_NS = 100000000 };

struct peer {
    struct MHD_Connection *connection;
    int fd;
    struct address address;
    bool counted;
    bool unread;               /* answered before all of the body was read */
    bool asked;                /* it has sent a request, or the begin of one */
    struct request *request;   /* whose end was not told yet; or NULL */
    struct peer *next, **link; /* of those that hung up; link NULL: it did not */
    struct peer *newer, *older;
    uint64_t deadline; /* clock_ns; 0: none */
    struct pace pace;  /* at which it takes answers */
};

struct loop {
    struct http *http;
    int epoll, wake, listener; /* `listener` is the entrance's */
    struct entrance *entrance;
    pthread_t thread;
    bool started;
    struct peer *hung_up; /* and libmicrohttpd may not know */
    struct peer *newest;  /* of all */
    struct lingering *linger;
    uint64_t looked;                /* at deadlines: clock_ns */
    atomic_bool no_listen, stopped; /* what is asked for */
    atomic_bool deaf;               /* nothing listens */
    atomic_int fresh;               /* peers that have not asked */
};

/* NULL: there was no memory to watch it. */
static struct peer *peer_of(struct MHD_Connection *connection)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    return info ? info->socket_context : NULL;
}

/* ---- from other threads -------------------------------------------------------------------------
 */

static void wake(struct loop *l)
{
    uint64_t one = 1;
    (void)!write(l->wake, &one, sizeof one);
}

/* libmicrohttpd has no means of its own to wake a loop that is not its own. */
void loop_resume(struct http *h, struct MHD_Connection *connection)
{
    MHD_resume_connection(connection);
    wake(h->loop);
}

void loop_stop_listening(struct http *h)
{
    atomic_store(&h->loop->no_listen, true);
    wake(h->loop);
}

bool loop_idle(const struct http *h, bool hurry)
{
    return atomic_load(&h->loop->deaf) && (hurry || atomic_load(&h->loop->fresh) == 0);
}

/* ---- clients that hang up -----------------------------------------------------------------------
 */

static void hang_up(struct loop *l, struct peer *p)
{
    p->link = &l->hung_up;
    p->next = l->hung_up;
    if (p->next)
        p->next->link = &p->next;
    l->hung_up = p;
}

static void forget(struct peer *p)
{
    if (!p->link)
        return;
    *p->link = p->next;
    if (p->next)
        p->next->link = p->link;
    p->link = NULL;
}

/* Whether libmicrohttpd would find the end if it read now, and does read. */
static bool at_the_end(const struct peer *p)
{
    int unread = 0;
    const union MHD_ConnectionInfo *suspended =
        MHD_get_connection_info(p->connection, MHD_CONNECTION_INFO_CONNECTION_SUSPENDED);
    return suspended && !suspended->suspended && ioctl(p->fd, FIONREAD, &unread) == 0 &&
           unread == 0;
}

/* Between two runs of libmicrohttpd: no connection is in the middle of anything. */
static void look_at_hung_up(struct loop *l)
{
    for (struct peer *next, *p = l->hung_up; p; p = next) {
        next = p->next;
        if (!at_the_end(p))
            continue;
        forget(p);
        MHD_suspend_connection(p->connection);
        loop_resume(l->http, p->connection);
    }
}

/* ---- clients that trickle -----------------------------------------------------------------------
 */

void loop_expect(struct MHD_Connection *connection, double seconds)
{
    struct peer *p = peer_of(connection);
    if (p)
        p->deadline = seconds > 0 ? clock_ns() + (uint64_t)(seconds * 1e9) : 0;
}

void loop_unread(struct MHD_Connection *connection)
{
    struct peer *p = peer_of(connection);
    if (p)
        p->unread = true;
}

/* Where one is over, libmicrohttpd finds the end of what comes. Once a second: there may be many.
 */
static void look_at_deadlines(struct loop *l)
{
    uint64_t now = clock_ns();
    if (now - l->looked < 1000000000u)
        return;
    l->looked = now;
    linger_run(l->linger);
    for (struct peer *p = l->newest; p; p = p->older) {
        bool slow = !pace_kept(&p->pace, p->fd, now, l->http->server->config->http_timeout);
        if (slow)
            pace_reset(p->fd);
        if (slow || (p->deadline && p->deadline < now)) {
            p->deadline = 0;
            shutdown(p->fd, SHUT_RDWR);
        }
    }
}

static void enter(struct loop *l, struct peer *p)
{
    p->older = l->newest;
    if (p->older)
        p->older->newer = p;
    l->newest = p;
}

static void leave(struct loop *l, struct peer *p)
{
    *(p->newer ? &p->newer->older : &l->newest) = p->older;
    if (p->older)
        p->older->newer = p->newer;
}

/* Who comes by a proxy of ours is counted with each request (http.c). */
static void count_peer(struct http *h, struct MHD_Connection *connection, struct peer *p)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CLIENT_ADDRESS);
    p->address = address_of(info ? info->client_addr : NULL);
    p->counted = address_enter(h->addresses, &p->address) == ERR_OK;
}

static void watch(struct loop *l, struct MHD_Connection *connection, void **context)
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct peer *p = info ? calloc(1, sizeof *p) : NULL;
    if (!p) {
        unsigned seconds = (unsigned)l->http->server->config->http_timeout;
        MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT, seconds);
        return;
    }
    p->connection = connection;
    p->fd = info->connect_fd;
    count_peer(l->http, connection, p);
    atomic_fetch_add(&l->fresh, 1);
    struct epoll_event e = {.events = EPOLLRDHUP | EPOLLONESHOT, .data.ptr = p};
    epoll_ctl(l->epoll, EPOLL_CTL_ADD, p->fd, &e); /* or the deadline will do */
    p->deadline = clock_ns() + (uint64_t)(l->http->server->config->http_timeout * 1e9);
    enter(l, p);
    *context = p;
}

static void unwatch(struct loop *l, void **context)
{
    struct peer *p = *context;
    if (!p)
        return;
    epoll_ctl(l->epoll, EPOLL_CTL_DEL, p->fd, NULL);
    forget(p);
    if (p->request) /* libmicrohttpd tells nothing of one whose query has no room in its memory */
        request_end(p->request, MHD_REQUEST_TERMINATED_WITH_ERROR);
    if (!p->asked)
        atomic_fetch_sub(&l->fresh, 1);
    leave(l, p);
    if (p->unread)
        linger_take(l->linger, p->fd);
    if (p->counted)
        address_leave(l->http->addresses, &p->address);
    free(p);
    *context = NULL;
}

void loop_asked(struct http *h, struct MHD_Connection *connection, struct request *r)
{
    struct peer *p = peer_of(connection);
    if (!p)
        return;
    p->request = r;
    if (!p->asked)
        atomic_fetch_sub(&h->loop->fresh, 1);
    p->asked = true;
}

void loop_answered(struct http *h, struct MHD_Connection *connection)
{
    struct peer *p = peer_of(connection);
    if (p)
        p->request = NULL;
    loop_expect(connection, 2 * h->server->config->http_timeout); /* the next request */
}

void loop_connection(void *http, struct MHD_Connection *connection, void **context,
                     enum MHD_ConnectionNotificationCode code)
{
    struct http *h = http;
    bool started = code == MHD_CONNECTION_NOTIFY_STARTED;
    metric_add(h->server->metrics, METRIC_HTTP_CONNECTIONS, started ? 1 : -1);
    if (started)
        watch(h->loop, connection, context);
    else
        unwatch(h->loop, context);
}

/* ---- the thread ---------------------------------------------------------------------------------
 */

/* Milliseconds until libmicrohttpd wants to run in any case; -1: none. */
static int patience(struct http *h)
{
    MHD_UNSIGNED_LONG_LONG ms;
    bool deadlines = h->loop->newest || linger_some(h->loop->linger);
    int most = deadlines ? 1000 : INT_MAX;
    if (MHD_get_timeout(h->daemon, &ms) != MHD_YES)
        return deadlines ? most : -1;
    return ms < (unsigned)most ? (int)ms : most;
}

/* Of all connections, not of each: one that differs from libmicrohttpd's own is looked at in every
 * run of it, and there may be many. */
unsigned loop_patience(const struct http *h)
{
    return pace_known(h->loop->listener) ? 0 : (unsigned)h->server->config->http_timeout;
}

/* libmicrohttpd closes what it does not take. */
static void take(void *http, int fd, const struct sockaddr *from, socklen_t len)
{
    struct http *h = http;
    (void)MHD_add_connection(h->daemon, fd, from, len);
}

/* Who finds none waits in the listening socket. */
static int room(void *http)
{
    struct http *h = http;
    const union MHD_DaemonInfo *info =
        MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_CURRENT_CONNECTIONS);
    return info ? h->server->config->http_connections - (int)info->num_connections : 0;
}

/* No segment with SYN gets in any more: the others are of connections that are being made. */
static void let_last_in(struct http *h)
{
    struct sock_filter no_syn[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13), /* the flags of TCP */
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, 0x02, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0),
        BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
    };
    const struct sock_fprog program = {sizeof no_syn / sizeof *no_syn, no_syn};
    if (listen_passed("http") ||
        setsockopt(h->loop->listener, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) != 0)
        return;
    for (uint64_t end = clock_ns() + LAST_NS; clock_ns() < end; usleep(1000)) {
        entrance_work(h->loop->entrance);
        MHD_run(h->daemon);
    }
}

static void stop_listening(struct http *h)
{
    if (atomic_load(&h->loop->deaf))
        return;
    let_last_in(h);
    entrance_deafen(h->loop->entrance);
    atomic_store(&h->loop->deaf, true);
}

static void take_wishes(struct loop *l)
{
    uint64_t count;
    (void)!read(l->wake, &count, sizeof count);
}

static void *network_main(void *loop)
{
    struct loop *l = loop;
    pthread_setname_np(pthread_self(), "http");
    while (!atomic_load(&l->stopped)) {
        struct epoll_event event[EVENTS];
        bool knocked = false;
        int n = epoll_wait(l->epoll, event, EVENTS, patience(l->http));
        for (int i = 0; i < n; i++) {
            if (event[i].data.ptr == l)
                take_wishes(l);
            else if (event[i].data.ptr == l->linger)
                linger_run(l->linger);
            else if (event[i].data.ptr == l->entrance)
                knocked = true;
            else if (event[i].data.ptr)
                hang_up(l, event[i].data.ptr);
        }
        look_at_deadlines(l);
        MHD_run(l->http->daemon); /* peers may go here, and with them their events */
        if (knocked || entrance_shut(l->entrance)) /* who left before has left now */
            entrance_work(l->entrance);
        if (atomic_load(&l->no_listen))
            stop_listening(l->http);
        look_at_hung_up(l);
    }
    return NULL;
}

/* ---- opening and closing ------------------------------------------------------------------------
 */

static bool add(struct loop *l, int fd, void *ptr)
{
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = ptr};
    return epoll_ctl(l->epoll, EPOLL_CTL_ADD, fd, &e) == 0;
}

enum err loop_open(struct http *h)
{
    const struct config *c = h->server->config;
    const struct entrance_host host = {h, take, room};
    struct loop *l = h->loop = calloc(1, sizeof *l);
    if (!l)
        return err_set(ERR_NOMEM, "no memory for the HTTP server");
    l->http = h;
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    l->linger = linger_open();
    if (!l->linger)
        return err_set(ERR_NOMEM, "no memory for the HTTP server");
    if (l->epoll < 0 || l->wake < 0 || !add(l, l->wake, l) ||
        !add(l, linger_fd(l->linger), l->linger))
        return err_set(ERR_IO, "no epoll for the HTTP server: %s", strerror(errno));
    TRY(listen_open("http", c->listen, c->http_port, &l->listener));
    h->port = listen_port(l->listener);
    TRY(entrance_open(l->listener, h->addresses, &host, &l->entrance));
    return add(l, entrance_fd(l->entrance), l->entrance)
               ? ERR_OK
               : err_set(ERR_IO, "no epoll for the HTTP server");
}

enum err loop_start(struct http *h)
{
    struct loop *l = h->loop;
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    if (!info || !add(l, info->epoll_fd, NULL))
        return err_set(ERR_IO, "no epoll for the HTTP server");
    l->started = pthread_create(&l->thread, NULL, network_main, l) == 0;
    return l->started ? ERR_OK : err_set(ERR_NOMEM, "no thread for HTTP");
}

void loop_stop(struct http *h)
{
    struct loop *l = h->loop;
    if (!l)
        return;
    if (l->started) {
        atomic_store(&l->stopped, true);
        wake(l);
        pthread_join(l->thread, NULL);
        l->started = false;
    }
    entrance_close(l->entrance);
    l->entrance = NULL;
}

void loop_close(struct http *h)
{
    struct loop *l = h->loop;
    if (!l)
        return;
    if (l->epoll >= 0)
        close(l->epoll);
    if (l->wake >= 0)
        close(l->wake);
    linger_close(l->linger);
    free(l);
}
