/* LD_PRELOAD: the n-th allocation from now on fails, once. tests/oom.py arms it again and again.
 *
 * OOM_CONTROL names the file of a `struct control`, which the process shares with the test and with
 * its children. Counted are allocations that code of the program itself makes, or of the libraries
 * whose names begin with a word of OOM_LIBRARIES ("libc.so libjansson.so"): by the address that is
 * returned to. (-O2 for the calls on to be jumps: the allocator behind sees the same caller, and
 * leak detection knows the dynamic linker by it.) What others allocate is left alone, such as the
 * C++ library, which throws. */
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { RANGES = 64, STACK = 24 };

struct control {
    _Atomic int64_t left;   /* allocations until one fails; 0 and below: none does */
    _Atomic int64_t failed; /* how many have */
    char stack[4080];       /* of the last one: MODULE+0xOFFSET, a line a frame */
};

static struct control *control;
static _Thread_local int inside; /* a wrapper: what the C library allocates in it is not counted */

static struct range {
    uintptr_t from, to, base;
    const char *name;
    bool counted;
} ranges[RANGES];
static int n_ranges;

static bool listed(const char *name)
{
    const char *list = getenv("OOM_LIBRARIES");
    for (const char *p = list ? list : ""; *p; p += strspn(p, " ")) {
        size_t n = strcspn(p, " ");
        if (n && strncmp(name, p, n) == 0)
            return true;
        p += n;
    }
    return false;
}

static int add(struct dl_phdr_info *info, size_t size, void *unused)
{
    const char *slash = strrchr(info->dlpi_name, '/');
    const char *name = slash ? slash + 1 : info->dlpi_name;
    (void)size, (void)unused;
    for (int i = 0; i < info->dlpi_phnum && n_ranges < RANGES; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        if (p->p_type != PT_LOAD || !(p->p_flags & PF_X))
            continue;
        uintptr_t from = info->dlpi_addr + p->p_vaddr;
        ranges[n_ranges++] = (struct range){from, from + p->p_memsz, info->dlpi_addr,
                                            *name ? name : "program", !*name || listed(name)};
    }
    return 0;
}

static const struct range *range_of(const void *address)
{
    uintptr_t a = (uintptr_t)address;
    for (int i = 0; i < n_ranges; i++)
        if (a >= ranges[i].from && a < ranges[i].to)
            return &ranges[i];
    return NULL;
}

__attribute__((constructor)) static void start(void)
{
    void *first[2];
    const char *path = getenv("OOM_CONTROL");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    backtrace(first, 2); /* loads what it needs */
    dl_iterate_phdr(add, NULL);
    void *map = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (map != MAP_FAILED)
        control = map;
}

static void write_stack(void)
{
    void *frames[STACK];
    int n = backtrace(frames, STACK), at = 0;
    for (int i = 0; i < n; i++) {
        const struct range *r = range_of(frames[i]);
        if (r)
            at += snprintf(control->stack + at, sizeof control->stack - (size_t)at, "%s+0x%lx\n",
                           r->name, (unsigned long)((uintptr_t)frames[i] - r->base - 1));
        if (at >= (int)sizeof control->stack - 128)
            break;
    }
}

/* Whether this one is to fail. */
static bool fails(const void *caller)
{
    if (!control || inside || atomic_load(&control->left) <= 0)
        return false;
    const struct range *r = range_of(caller);
    if (!r || !r->counted || atomic_fetch_sub(&control->left, 1) != 1)
        return false;
    inside++;
    memset(control->stack, 0, sizeof control->stack);
    write_stack();
    inside--;
    atomic_fetch_add(&control->failed, 1);
    errno = ENOMEM;
    return true;
}

#define REAL(type, name, ...)                                                                      \
    static type (*next)(__VA_ARGS__);                                                              \
    if (!next)                                                                                     \
    *(void **)&next = dlsym(RTLD_NEXT, name)
#define CALLER __builtin_return_address(0)

void *malloc(size_t size)
{
    REAL(void *, "malloc", size_t);
    return fails(CALLER) ? NULL : next(size);
}

void *calloc(size_t n, size_t size)
{
    REAL(void *, "calloc", size_t, size_t);
    return fails(CALLER) ? NULL : next(n, size);
}

void *realloc(void *old, size_t size)
{
    REAL(void *, "realloc", void *, size_t);
    return size && fails(CALLER) ? NULL : next(old, size);
}

void *reallocarray(void *old, size_t n, size_t size)
{
    REAL(void *, "reallocarray", void *, size_t, size_t);
    if (n && size && fails(CALLER))
        return NULL;
    inside++;
    void *p = next(old, n, size);
    inside--;
    return p;
}

void *aligned_alloc(size_t alignment, size_t size)
{
    REAL(void *, "aligned_alloc", size_t, size_t);
    return fails(CALLER) ? NULL : next(alignment, size);
}

int posix_memalign(void **out, size_t alignment, size_t size)
{
    REAL(int, "posix_memalign", void **, size_t, size_t);
    return fails(CALLER) ? ENOMEM : next(out, alignment, size);
}

void *mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    REAL(void *, "mmap", void *, size_t, int, int, int, off_t);
    return fails(CALLER) ? MAP_FAILED : next(at, size, protection, flags, fd, offset);
}

/* A sanitizer ends the process when a new thread's stack is not to be had. */
int pthread_getattr_np(pthread_t thread, pthread_attr_t *out)
{
    REAL(int, "pthread_getattr_np", pthread_t, pthread_attr_t *);
    inside++;
    int result = next(thread, out);
    inside--;
    return result;
}

/* A sanitizer has its own of these, which do not come by the above. */
char *strdup(const char *s)
{
    REAL(char *, "strdup", const char *);
    if (fails(CALLER))
        return NULL;
    inside++;
    char *copy = next(s);
    inside--;
    return copy;
}

char *strndup(const char *s, size_t n)
{
    REAL(char *, "strndup", const char *, size_t);
    if (fails(CALLER))
        return NULL;
    inside++;
    char *copy = next(s, n);
    inside--;
    return copy;
}

int vasprintf(char **out, const char *format, va_list args)
{
    REAL(int, "vasprintf", char **, const char *, va_list);
    if (fails(CALLER))
        return -1;
    inside++;
    int n = next(out, format, args);
    inside--;
    return n;
}

int asprintf(char **out, const char *format, ...)
{
    REAL(int, "vasprintf", char **, const char *, va_list);
    va_list args;
    if (fails(CALLER))
        return -1;
    va_start(args, format);
    inside++;
    int n = next(out, format, args);
    inside--;
    va_end(args);
    return n;
}
