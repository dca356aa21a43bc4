#include "server/linger.h"

#include "server/item.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { LINGER_SECONDS = 5, LINGER_BYTES = 64 << 20, LINGER_MAX = 64, AT_ONCE = 1 << 20 };

struct late {
    int fd; /* -1: free */
    int64_t left;
    uint64_t end;
};

struct lingering {
    int epoll;
    struct late late[LINGER_MAX];
};

struct lingering *linger_open(void)
{
    struct lingering *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    for (int i = 0; i < LINGER_MAX; i++)
        l->late[i].fd = -1;
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (l->epoll >= 0)
        return l;
    free(l);
    return NULL;
}

static void end(struct late *x)
{
    if (x->fd >= 0)
        close(x->fd);
    x->fd = -1;
}

void linger_close(struct lingering *l)
{
    if (!l)
        return;
    for (int i = 0; i < LINGER_MAX; i++)
        end(&l->late[i]);
    close(l->epoll);
    free(l);
}

int linger_fd(const struct lingering *l)
{
    return l->epoll;
}

void linger_take(struct lingering *l, int fd)
{
    struct late *x = l->late;
    while (x < l->late + LINGER_MAX && x->fd >= 0)
        x++;
    if (x == l->late + LINGER_MAX)
        return;
    x->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    x->left = LINGER_BYTES;
    x->end = clock_ns() + LINGER_SECONDS * 1000000000ull;
    struct epoll_event e = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = x};
    if (x->fd >= 0 && epoll_ctl(l->epoll, EPOLL_CTL_ADD, x->fd, &e) != 0)
        end(x);
}

/* MSG_TRUNC: the kernel throws it away, nothing is copied. */
static void throw_away(struct late *x)
{
    ssize_t n = recv(x->fd, NULL, AT_ONCE, MSG_TRUNC | MSG_DONTWAIT);
    if (n > 0)
        x->left -= n;
    bool over = n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
    if (over || x->left <= 0)
        end(x);
}

void linger_run(struct lingering *l)
{
    struct epoll_event event[LINGER_MAX];
    int n = epoll_wait(l->epoll, event, LINGER_MAX, 0);
    for (int i = 0; i < n; i++)
        throw_away(event[i].data.ptr);
    uint64_t now = clock_ns();
    for (struct late *x = l->late; x < l->late + LINGER_MAX; x++)
        if (x->fd >= 0 && now >= x->end)
            end(x);
}

bool linger_some(const struct lingering *l)
{
    for (int i = 0; i < LINGER_MAX; i++)
        if (l->late[i].fd >= 0)
            return true;
    return false;
}
