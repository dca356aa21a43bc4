#include "sandbox/channel.h"

#include "sandbox/sandbox.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

union rights {
    struct cmsghdr align;
    char space[CMSG_SPACE(CHANNEL_FDS * sizeof(int))];
};

void channel_slice(int fd)
{
    const struct timeval slice = {.tv_usec = SANDBOX_LATE_MS * 1000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &slice, sizeof slice);
}

bool channel_open(int pair[2])
{
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
        return false;
    channel_slice(pair[0]);
    return true;
}

bool channel_send(int to, const void *message, size_t len, const int *fd, int fds)
{
    union rights control = {0};
    struct iovec bytes = {(void *)message, len};
    struct msghdr m = {.msg_iov = &bytes, .msg_iovlen = 1};
    if (fds) {
        size_t size = (size_t)fds * sizeof *fd;
        m.msg_control = control.space;
        m.msg_controllen = CMSG_SPACE(size);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(size);
        memcpy(CMSG_DATA(c), fd, size);
    }
    return sendmsg(to, &m, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)len;
}

ssize_t channel_receive(int from, void *message, size_t len, int *fd)
{
    union rights control;
    struct iovec bytes = {message, len};
    struct msghdr m = {.msg_iov = &bytes,
                       .msg_iovlen = 1,
                       .msg_control = control.space,
                       .msg_controllen = sizeof control.space};
    ssize_t n;
    for (int i = 0; i < CHANNEL_FDS; i++)
        fd[i] = -1;
    while ((n = recvmsg(from, &m, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR)
        ;
    struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
    if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
        memcpy(fd, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
    return n;
}

void channel_close_all(const int *fd)
{
    for (int i = 0; i < CHANNEL_FDS; i++)
        if (fd[i] >= 0)
            close(fd[i]);
}
