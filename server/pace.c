#include "server/pace.h"

#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* Bytes that wait for the client's window to open; those on their way do not count. */
static int unsent(int fd)
{
    int n = 0;
    return ioctl(fd, SIOCOUTQNSD, &n) == 0 ? n : 0;
}

static bool acknowledged(int fd, uint64_t *out)
{
    struct tcp_info info = {0};
    socklen_t len = sizeof info;
    bool known = getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) == 0 &&
                 len >= offsetof(struct tcp_info, tcpi_bytes_acked) + sizeof info.tcpi_bytes_acked;
    *out = info.tcpi_bytes_acked;
    return known;
}

bool pace_known(int fd)
{
    uint64_t taken;
    return acknowledged(fd, &taken);
}

bool pace_kept(struct pace *p, int fd, uint64_t now, double seconds)
{
    uint64_t taken;
    if (unsent(fd) == 0 || !acknowledged(fd, &taken)) {
        p->since = 0;
        return true;
    }
    if (p->since && taken - p->taken < PACE_LEAST)
        return now - p->since <= (uint64_t)(seconds * 1e9);
    p->since = now;
    p->taken = taken;
    return true;
}

void pace_reset(int fd)
{
    const struct linger at_once = {.l_onoff = 1};
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
}
