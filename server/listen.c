#include "server/listen.h"

#include "base/try.h"
#include "server/config.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { FIRST_PASSED = 3, MOST_PASSED = 64, BACKLOG = 1024 };

/* ---- systemd's ----------------------------------------------------------------------------------
 */

/* -1: none. The variables stay as they are: they hold for this process alone. */
static int passed(const char *name)
{
    const char *pid = getenv("LISTEN_PID"), *count = getenv("LISTEN_FDS");
    const char *names = getenv("LISTEN_FDNAMES");
    if (!pid || !count || !names || strtoll(pid, NULL, 10) != getpid())
        return -1;
    long n = strtol(count, NULL, 10);
    for (long i = 0; i < n && i < MOST_PASSED; i++) {
        size_t len = strcspn(names, ":");
        if (len == strlen(name) && strncmp(names, name, len) == 0)
            return FIRST_PASSED + (int)i;
        if (!names[len])
            break;
        names += len + 1;
    }
    return -1;
}

bool listen_passed(const char *name)
{
    return passed(name) >= 0;
}

static enum err take_passed(const char *name, int fd)
{
    int listening = 0, type = 0;
    socklen_t len = sizeof listening;
    bool ok = getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) == 0 && listening;
    len = sizeof type;
    ok = ok && getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type == SOCK_STREAM;
    ok = ok && fcntl(fd, F_SETFD, FD_CLOEXEC) == 0;
    int flags = ok ? fcntl(fd, F_GETFL) : -1;
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0)
        return err_set(ERR_IO, "the socket '%s' that was passed is none that listens", name);
    return ERR_OK;
}

/* ---- our own ------------------------------------------------------------------------------------
 */

/* freeaddrinfo is the caller's. */
static enum err find(const char *address, int port, struct addrinfo **out)
{
    char service[16];
    const struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV,
                                   .ai_socktype = SOCK_STREAM};
    snprintf(service, sizeof service, "%d", port);
    int r = getaddrinfo(address, service, &hints, out);
    return r == 0 ? ERR_OK : err_set(ERR_ARG, "listen address %s: %s", address, gai_strerror(r));
}

static enum err bind_here(const char *address, int port, int *out)
{
    struct addrinfo *found;
    int yes = 1;
    TRY(find(address, port, &found));
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool ok = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0 &&
              bind(fd, found->ai_addr, found->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0;
    int cause = errno;
    freeaddrinfo(found);
    if (!ok && fd >= 0)
        close(fd);
    if (!ok)
        return err_set(ERR_IO, "cannot listen on %s port %d: %s", address, port, strerror(cause));
    *out = fd;
    return ERR_OK;
}

enum err listen_open(const char *name, const char *address, int port, int *fd)
{
    int given = passed(name);
    if (given < 0)
        return bind_here(address, port, fd);
    *fd = given;
    return take_passed(name, given);
}

enum err listen_check(const struct config *c)
{
    struct addrinfo *found;
    bool http = listen_passed("http"), ws = listen_passed("ws");
    if (http && ws)
        return ERR_OK;
    TRY(find(c->listen, 0, &found));
    freeaddrinfo(found);
    if (!http && !ws && c->http_port && c->http_port == c->ws_port)
        return err_set(ERR_ARG, "http_port and ws_port are both %d", (int)c->http_port);
    return ERR_OK;
}

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static bool is_loopback(const union address *at)
{
    static const struct in6_addr loopback = IN6ADDR_LOOPBACK_INIT;
    if (at->any.sa_family == AF_UNIX)
        return true;
    if (at->any.sa_family == AF_INET6)
        return memcmp(&at->v6.sin6_addr, &loopback, sizeof loopback) == 0;
    return at->any.sa_family == AF_INET && ntohl(at->v4.sin_addr.s_addr) >> 24 == 127;
}

bool listen_is_local(const char *name, const char *address)
{
    union address at = {.v6 = {0}};
    socklen_t len = sizeof at;
    int fd = passed(name), listening = 0;
    socklen_t size = sizeof listening;
    if (fd >= 0 && getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) == 0 && !listening)
        return true; /* nobody comes in there: listen_open refuses it */
    if (fd >= 0)
        return getsockname(fd, &at.any, &len) == 0 && is_loopback(&at);
    if (inet_pton(AF_INET, address, &at.v4.sin_addr) == 1)
        at.any.sa_family = AF_INET;
    else if (inet_pton(AF_INET6, address, &at.v6.sin6_addr) == 1)
        at.any.sa_family = AF_INET6;
    return is_loopback(&at);
}

int listen_port(int fd)
{
    union address at = {.v6 = {0}};
    socklen_t len = sizeof at;
    if (getsockname(fd, &at.any, &len) != 0)
        return 0;
    return ntohs(at.any.sa_family == AF_INET6 ? at.v6.sin6_port : at.v4.sin_port);
}
