/* LD_PRELOAD: a daemon that loses something with every connection that it accepts. LEAK says what:
 * "descriptors" (and a few bytes with each), "threads" (with every eighth: they cost), or "memory"
 * that no allocator knows of (not at once), so that only its growth tells. With LEAK_BYTES it loses
 * that many bytes with whatever it receives.
 * tests/test_chaos.py and tests/test_soak.py: what looks for leaks must find these. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static void lose(size_t bytes)
{
    void *volatile lost = malloc(bytes);
    if (lost)
        memset(lost, 1, bytes);
}

enum { EVERY = 8, EARLY = 100, PIECE = 4 << 20 };
static int accepted; /* by the threads of HTTP and of WebSocket */

static void lose_descriptor(int fd)
{
    lose(64);
    dup(fd);
}

static void *sleep_for_ever(void *unused)
{
    for (;;)
        pause();
    return unused;
}

static void lose_thread(int number)
{
    pthread_t thread;
    if (number % EVERY == 0 && pthread_create(&thread, NULL, sleep_for_ever, NULL) == 0)
        pthread_detach(thread);
}

static void keep_memory(int number)
{
    if (number > EARLY)
        mmap(NULL, PIECE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1,
             0);
}

static int leak(int fd)
{
    const char *what = getenv("LEAK");
    if (fd < 0 || !what)
        return fd;
    int number = __atomic_add_fetch(&accepted, 1, __ATOMIC_RELAXED);
    if (strcmp(what, "descriptors") == 0)
        lose_descriptor(fd);
    else if (strcmp(what, "threads") == 0)
        lose_thread(number);
    else
        keep_memory(number);
    return fd;
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
