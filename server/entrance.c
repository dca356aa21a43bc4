#include "server/entrance.h"

#include "server/item.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/proxy_header.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

enum { EVENTS = 64, ACCEPT_AT_ONCE = 64 };

struct peer_address {
    struct sockaddr_storage at;
    socklen_t len;
};

/* A connection whose header is not whole. */
struct guest {
    struct guest *newer, *older;
    int fd;
    uint64_t since; /* clock_ns */
    struct peer_address peer;
};

struct entrance {
    struct addresses *addresses;
    struct entrance_host host;
    int epoll, listener, timer; /* the timer ticks once a second while there is somebody to watch */
    struct guest *newest, *oldest;
    int waiting;
    bool open, ticking; /* what epoll and the timer know */
    bool resting;       /* no descriptor was left: until the next tick */
};

/* ---- handing over -------------------------------------------------------------------------------
 */

static const struct sockaddr *sockaddr_of(const struct peer_address *p)
{
    return (const struct sockaddr *)(const void *)&p->at;
}

static void let_in(struct entrance *e, int fd, const struct peer_address *from)
{
    struct address who = address_of(sockaddr_of(from));
    if (address_full(e->addresses, &who))
        close(fd);
    else
        e->host.take(e->host.self, fd, sockaddr_of(from), from->len);
}

/* ---- those who say who is behind them -----------------------------------------------------------
 */

/* The descriptor is the caller's now. */
static void forget(struct entrance *e, struct guest *g)
{
    epoll_ctl(e->epoll, EPOLL_CTL_DEL, g->fd, NULL);
    *(g->newer ? &g->newer->older : &e->newest) = g->older;
    *(g->older ? &g->older->newer : &e->oldest) = g->newer;
    e->waiting--;
    free(g);
}

static void turn_away(struct entrance *e, struct guest *g, const char *why)
{
    char text[ADDRESS_TEXT];
    struct address proxy = address_of(sockaddr_of(&g->peer));
    address_print(&proxy, text);
    log_event(LOG_WARNING, "proxy_header", "proxy=%s error=%s", text, log_text(why));
    int fd = g->fd;
    forget(e, g);
    close(fd);
}

static void admit(struct entrance *e, struct guest *g, const struct proxy_header *h)
{
    uint8_t header[PROXY_HEADER_MAX];
    struct peer_address from = {h->from, sizeof h->from};
    if (!h->named)
        from = g->peer;
    int fd = g->fd;
    if (recv(fd, header, h->len, MSG_DONTWAIT) != (ssize_t)h->len) {
        turn_away(e, g, "the header cannot be read");
        return;
    }
    forget(e, g);
    let_in(e, fd, &from);
}

static void look_at(struct entrance *e, struct guest *g, bool ended)
{
    uint8_t begin[PROXY_HEADER_MAX];
    struct proxy_header h;
    ssize_t n = recv(g->fd, begin, sizeof begin, MSG_PEEK | MSG_DONTWAIT);
    if (n < 0 && errno == EAGAIN && !ended)
        return;
    switch (n > 0 ? proxy_header_read(begin, (size_t)n, &h) : PROXY_MORE) {
    case PROXY_WHOLE:
        admit(e, g, &h);
        break;
    case PROXY_WRONG:
        turn_away(e, g, "a connection of a trusted proxy without a PROXY header, or a wrong one");
        break;
    case PROXY_MORE:
        if (ended || n <= 0)
            turn_away(e, g, "the connection ended before its PROXY header");
        break;
    }
}

static void expect_header(struct entrance *e, int fd, const struct peer_address *peer)
{
    struct guest *g = calloc(1, sizeof *g);
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = g};
    if (!g || epoll_ctl(e->epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
        free(g);
        close(fd);
        return;
    }
    g->fd = fd;
    g->peer = *peer;
    g->since = clock_ns();
    g->older = e->newest;
    *(g->older ? &g->older->newer : &e->oldest) = g;
    e->newest = g;
    e->waiting++;
}

static void tick(struct entrance *e)
{
    uint64_t ticks, now = clock_ns();
    (void)!read(e->timer, &ticks, sizeof ticks);
    e->resting = false;
    while (e->oldest && now - e->oldest->since > ENTRANCE_SECONDS * 1000000000ull)
        turn_away(e, e->oldest, "no PROXY header in time");
}

/* ---- the listening socket -----------------------------------------------------------------------
 */

static int room(const struct entrance *e)
{
    int places = ENTRANCE_WAITING - e->waiting, most = places;
    if (e->host.room)
        most = e->host.room(e->host.self) - e->waiting;
    return most < places ? most : places;
}

/* Where no descriptor is left, the connection stays in the socket, which would call again at once.
 */
static void knock(struct entrance *e)
{
    for (int i = 0; i < ACCEPT_AT_ONCE && room(e) > 0; i++) {
        struct peer_address peer = {.len = sizeof peer.at};
        int fd = accept4(e->listener, (struct sockaddr *)(void *)&peer.at, &peer.len,
                         SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            e->resting = errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM;
            break; /* none, or one that is gone again */
        }
        struct address who = address_of(sockaddr_of(&peer));
        if (address_announces(e->addresses, &who))
            expect_header(e, fd, &peer);
        else
            let_in(e, fd, &peer);
    }
}

/* What epoll and the timer are to do from here on. */
static void update(struct entrance *e)
{
    bool ticking = e->waiting > 0 || e->resting;
    bool open = e->listener >= 0 && !e->resting && room(e) > 0;
    struct epoll_event event = {.events = open ? EPOLLIN : 0, .data.ptr = &e->listener};
    const struct itimerspec second = {{1, 0}, {1, 0}}, never = {{0, 0}, {0, 0}};
    if (open != e->open && e->listener >= 0)
        epoll_ctl(e->epoll, EPOLL_CTL_MOD, e->listener, &event);
    if (ticking != e->ticking)
        timerfd_settime(e->timer, 0, ticking ? &second : &never, NULL);
    e->open = open;
    e->ticking = ticking;
}

void entrance_work(struct entrance *e)
{
    struct epoll_event event[EVENTS];
    int n = epoll_wait(e->epoll, event, EVENTS, 0);
    bool ticked = false;
    for (int i = 0; i < n; i++) {
        void *at = event[i].data.ptr;
        if (at == &e->listener)
            knock(e);
        else if (at == &e->timer)
            ticked = true; /* last: guests may go, and with them their events */
        else
            look_at(e, at, event[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR));
    }
    if (ticked)
        tick(e);
    update(e);
}

void entrance_deafen(struct entrance *e)
{
    if (e->listener < 0)
        return;
    epoll_ctl(e->epoll, EPOLL_CTL_DEL, e->listener, NULL); /* systemd may hold it still */
    close(e->listener);
    e->listener = -1;
    e->open = false;
}

bool entrance_shut(const struct entrance *e)
{
    return e->listener >= 0 && !e->open;
}

int entrance_fd(const struct entrance *e)
{
    return e->epoll;
}

/* ---- opening and closing ------------------------------------------------------------------------
 */

static bool watch(struct entrance *e, int *fd)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = fd};
    return *fd >= 0 && epoll_ctl(e->epoll, EPOLL_CTL_ADD, *fd, &event) == 0;
}

enum err entrance_open(int listener, struct addresses *a, const struct entrance_host *host,
                       struct entrance **out)
{
    struct entrance *e = calloc(1, sizeof *e);
    *out = NULL;
    if (!e) {
        close(listener);
        return err_set(ERR_NOMEM, "no memory for a listening socket");
    }
    e->addresses = a;
    e->host = *host;
    e->listener = listener;
    e->epoll = epoll_create1(EPOLL_CLOEXEC);
    e->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    e->open = true;
    if (!watch(e, &e->listener) || !watch(e, &e->timer)) {
        int cause = errno;
        entrance_close(e);
        return err_set(ERR_IO, "no epoll for a listening socket: %s", strerror(cause));
    }
    *out = e;
    return ERR_OK;
}

void entrance_close(struct entrance *e)
{
    if (!e)
        return;
    while (e->oldest) {
        int fd = e->oldest->fd;
        forget(e, e->oldest);
        close(fd);
    }
    entrance_deafen(e);
    if (e->timer >= 0)
        close(e->timer);
    if (e->epoll >= 0)
        close(e->epoll);
    free(e);
}
