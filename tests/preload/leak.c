/* LD_PRELOAD: a daemon that leaks a descriptor and some bytes with every connection it accepts; or,
 * with LEAK_BYTES in the environment, that many bytes with whatever it receives, and nothing else.
 * tests/test_chaos.py and tests/test_soak.py: what looks for leaks must find these. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void lose(size_t bytes)
{
    void *volatile lost = malloc(bytes);
    if (lost)
        memset(lost, 1, bytes);
}

static int leak(int fd)
{
    if (fd < 0 || getenv("LEAK_BYTES"))
        return fd;
    lose(64);
    return dup(fd) < 0 ? -1 : fd;
}

int accept(int fd, struct sockaddr *from, socklen_t *size)
{
    int (*real)(int, struct sockaddr *, socklen_t *);
    *(void **)&real = dlsym(RTLD_NEXT, "accept");
    return leak(real(fd, from, size));
}

int accept4(int fd, struct sockaddr *from, socklen_t *size, int flags)
{
    int (*real)(int, struct sockaddr *, socklen_t *, int);
    *(void **)&real = dlsym(RTLD_NEXT, "accept4");
    return leak(real(fd, from, size, flags));
}

ssize_t recv(int fd, void *to, size_t size, int flags)
{
    ssize_t (*real)(int, void *, size_t, int);
    *(void **)&real = dlsym(RTLD_NEXT, "recv");
    ssize_t got = real(fd, to, size, flags);
    if (got > 0 && getenv("LEAK_BYTES"))
        lose((size_t)atol(getenv("LEAK_BYTES")));
    return got;
}
