/* LD_PRELOAD: a daemon that leaks a descriptor and some bytes with every connection it accepts.
 * tests/test_chaos.py: what looks for leaks must find these. */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int leak(int fd)
{
    void *volatile lost = fd >= 0 ? malloc(64) : NULL;
    if (lost)
        memset(lost, 1, 64);
    return fd >= 0 && dup(fd) < 0 ? -1 : fd;
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
