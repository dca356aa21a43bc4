/* The stand-in's machine: fibers, barriers, launches, memory. cuda_runtime_api.h says what it does.
 *
 * One block runs at a time. Its scheduler (run_block) lets one warp after the other go on until all
 * its lanes wait for other warps, so that warps are as far apart as barriers allow.
 * A thread that waits writes down for what in its `struct thread` and switches back. The last
 * arrival at a block's barrier, or of a mask's lanes, releases the others: it computes what they
 * get, so no lane's value is read after that lane went on. If no thread can go on and some are
 * left, the block is stuck; its fibers are dropped where they stand. */
#include "cuda_runtime.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#else
#define __tsan_get_current_fiber()           NULL
#define __tsan_create_fiber(flags)           NULL
#define __tsan_destroy_fiber(fiber)          ((void)(fiber))
#define __tsan_switch_to_fiber(fiber, flags) ((void)(fiber))
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define __sanitizer_start_switch_fiber(save, bottom, size) ((void)(bottom), (void)(size))
#define __sanitizer_finish_switch_fiber(save, bottom, size)                                        \
    ((void)(save), (void)(bottom), (void)(size))
#define __asan_unpoison_memory_region(p, size) ((void)(p), (void)(size))
#endif

enum {
    WARP = 32,
    MAX_THREADS = 1024,
    STACK = 128 << 10, /* of one thread; its lowest page is a guard */
    GUARD = 4096,
    SHARED_DEFAULT = 48 << 10,
    SHARED_MAX = 99 << 10, /* of a block on sm_86 and sm_89; 163 KiB on sm_80, 227 on sm_90 */
    MAX_KERNELS = 256,
    MAX_COPIES = 256, /* of one thread, under way */
};

/* An asynchronous copy that is not done yet. */
struct copy {
    void *to;
    const void *from;
    size_t bytes, zeros;
    unsigned group;
};

enum wait { READY, BLOCK_BARRIER, SHUFFLE, VOTE, LEFT };

struct thread {
    uint3 index;
    enum wait wait;
    const char *file; /* where it waits */
    int line;
    unsigned mask; /* SHUFFLE, VOTE */
    const void *value;
    void *out;
    size_t bytes;
    int source;
    int predicate; /* VOTE, BLOCK_BARRIER; on release the result */
    struct copy copy[MAX_COPIES];
    int copies;
    unsigned group; /* of the next copy */
};

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;
bool cuda_host_reverse, cuda_host_verbose = true;
size_t cuda_host_launches;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* held by the launch that runs */
static __thread cudaError_t last_error;

static struct thread threads[MAX_THREADS], *current;
static char *stacks;
static ucontext_t fiber_start;
static void *scheduler_fake_stack;
static const void *scheduler_stack;
static size_t scheduler_stack_size;
static int thread_count, arrived; /* of the block; at its barrier */
static cuda_host_body body;
static void *body_args, *shared_memory;

static struct {
    const void *kernel;
    size_t bytes;
} limit[MAX_KERNELS];
static int limits;

/* All __shared__ variables lie in one section; the empty array makes sure that there is one. */
extern char __start_cuda_shared[], __stop_cuda_shared[];
static char no_shared[1] __attribute__((section("cuda_shared"), used));

/* ---- fibers ---- */

/* A thread's place in the block has a fiber of its own for good; it runs one thread after the other
 * (thread_main). Switches are GCC's setjmp, which unlike swapcontext needs no system call. */
struct fiber {
    void *jump[5];
    bool made;
    void *fake_stack; /* AddressSanitizer's */
    void *history;    /* ThreadSanitizer's */
};

static struct fiber fibers[MAX_THREADS];
static void *scheduler_jump[5], *scheduler_history;

/* A function of its own: a compiler may take a buffer for the one that the same function sets. */
__attribute__((noinline, no_sanitize_address, no_sanitize_thread)) static void jump(void **to)
{
    __builtin_longjmp(to, 1);
}

__attribute__((noinline, no_sanitize_address, no_sanitize_thread)) static void jump_to_scheduler(
    struct fiber *f)
{
    if (!__builtin_setjmp(f->jump))
        jump(scheduler_jump);
}

__attribute__((noinline, no_sanitize_address, no_sanitize_thread)) static void jump_to_fiber(
    struct fiber *f)
{
    if (__builtin_setjmp(scheduler_jump))
        return;
    if (f->made)
        jump(f->jump);
    f->made = true;
    setcontext(&fiber_start);
}

static void to_scheduler(struct thread *t)
{
    struct fiber *f = &fibers[t - threads];
    __sanitizer_start_switch_fiber(&f->fake_stack, scheduler_stack, scheduler_stack_size);
    __tsan_switch_to_fiber(scheduler_history, 0);
    jump_to_scheduler(f);
    __sanitizer_finish_switch_fiber(f->fake_stack, &scheduler_stack, &scheduler_stack_size);
}

static void thread_main(void)
{
    __sanitizer_finish_switch_fiber(NULL, &scheduler_stack, &scheduler_stack_size);
    for (;;) {
        body(body_args);
        current->wait = LEFT;
        to_scheduler(current);
    }
}

static void resume(struct thread *t)
{
    struct fiber *f = &fibers[t - threads];
    char *stack = stacks + (t - threads) * (long)STACK;
    current = t;
    threadIdx = t->index;
    if (!f->made) {
        __asan_unpoison_memory_region(stack + GUARD, STACK - GUARD);
        getcontext(&fiber_start);
        fiber_start.uc_stack.ss_sp = stack;
        fiber_start.uc_stack.ss_size = STACK;
        fiber_start.uc_link = NULL;
        makecontext(&fiber_start, thread_main, 0);
        if (f->history) /* a stuck block dropped it */
            __tsan_destroy_fiber(f->history);
        f->history = __tsan_create_fiber(0);
    }
    scheduler_history = __tsan_get_current_fiber();
    __sanitizer_start_switch_fiber(&scheduler_fake_stack, stack, STACK);
    __tsan_switch_to_fiber(f->history, 0);
    jump_to_fiber(f);
    __sanitizer_finish_switch_fiber(scheduler_fake_stack, NULL, NULL);
}

static void make_stacks(void)
{
    stacks = mmap(NULL, (size_t)MAX_THREADS * STACK, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED)
        abort();
    for (long i = 0; i < MAX_THREADS; i++)
        if (mprotect(stacks + i * STACK, GUARD, PROT_NONE))
            abort();
}

static void wait_as(enum wait wait, const char *file, int line)
{
    struct thread *t = current;
    t->wait = wait;
    t->file = file;
    t->line = line;
}

static void go_on_when_ready(void)
{
    if (current->wait != READY)
        to_scheduler(current);
}

/* ---- barriers ---- */

void *cuda_host_shared(void)
{
    return shared_memory;
}

int cuda_host_lane(void)
{
    return (int)(current - threads) % WARP;
}

static bool same_place(const struct thread *a, const struct thread *b)
{
    return a->wait == b->wait && a->line == b->line && strcmp(a->file, b->file) == 0;
}

int cuda_host_block(int predicate, const char *file, int line)
{
    struct thread *t = current;
    int sum = 0;
    t->predicate = predicate != 0;
    wait_as(BLOCK_BARRIER, file, line);
    if (++arrived == thread_count) {
        bool together = true;
        for (int i = 0; i < thread_count; i++) {
            together = together && same_place(&threads[i], t);
            sum += threads[i].predicate;
        }
        for (int i = 0; together && i < thread_count; i++) {
            threads[i].predicate = sum;
            threads[i].wait = READY;
        }
        arrived = together ? 0 : arrived;
    }
    go_on_when_ready();
    return t->predicate;
}

static void give_lane(struct thread *warp, struct thread *t, unsigned mask, unsigned votes)
{
    t->wait = READY;
    t->predicate = (int)votes;
    if (!t->value)
        return;
    if (t->source >= 0 && t->source < WARP && mask >> t->source & 1)
        memcpy(t->out, warp[t->source].value, t->bytes);
    else
        memset(t->out, 0xff, t->bytes); /* from a lane that takes no part */
}

/* Releases the lanes of the current thread's mask when all of them are here. */
static void meet_warp(void)
{
    struct thread *t = current, *warp = threads + (t - threads) / WARP * WARP;
    unsigned votes = 0, mask = t->mask;
    for (int i = 0; i < WARP; i++) {
        if (!(mask >> i & 1))
            continue;
        if (warp + i >= threads + thread_count || warp[i].mask != mask ||
            !same_place(&warp[i], t) || warp[i].bytes != t->bytes)
            return;
        votes |= (unsigned)warp[i].predicate << i;
    }
    if (!(mask >> (t - warp) & 1))
        return; /* stuck: it waits for others, none waits for it */
    for (int i = 0; i < WARP; i++)
        if (mask >> i & 1)
            give_lane(warp, &warp[i], mask, votes);
}

void cuda_host_warp(unsigned mask, const void *value, size_t bytes, int source, void *out,
                    const char *file, int line)
{
    struct thread *t = current;
    t->mask = mask;
    t->value = value;
    t->bytes = bytes;
    t->source = source;
    t->out = out;
    t->predicate = 0;
    wait_as(SHUFFLE, file, line);
    meet_warp();
    go_on_when_ready();
}

unsigned cuda_host_vote(unsigned mask, int predicate, const char *file, int line)
{
    struct thread *t = current;
    t->mask = mask;
    t->value = NULL;
    t->bytes = 0;
    t->predicate = predicate != 0;
    wait_as(VOTE, file, line);
    meet_warp();
    go_on_when_ready();
    return (unsigned)t->predicate;
}

/* ---- asynchronous copies ---- */

static void copy(const struct copy *c)
{
    memcpy(c->to, c->from, c->bytes - c->zeros);
    memset((char *)c->to + c->bytes - c->zeros, 0, c->zeros);
}

void cuda_host_copy(void *to, const void *from, size_t bytes, size_t zeros)
{
    struct thread *t = current;
    bool fits = (bytes == 4 || bytes == 8 || bytes == 16) && zeros <= bytes;
    if (!fits || (uintptr_t)to % bytes || (uintptr_t)from % bytes || t->copies == MAX_COPIES) {
        fprintf(stderr, "no card makes this asynchronous copy: %zu bytes, %p to %p\n", bytes, from,
                to);
        abort();
    }
    struct copy c = {to, from, bytes, zeros, t->group};
    if (cuda_host_reverse)
        copy(&c);
    else
        t->copy[t->copies++] = c;
}

void cuda_host_copy_commit(void)
{
    current->group++;
}

void cuda_host_copy_wait(unsigned prior)
{
    struct thread *t = current;
    int left = 0;
    for (int i = 0; i < t->copies; i++) {
        struct copy c = t->copy[i];
        if (c.group + prior >= t->group) {
            t->copy[left++] = c;
            continue;
        }
        copy(&c);
    }
    t->copies = left;
}

/* ---- launches ---- */

static int place(int i, int count)
{
    return cuda_host_reverse ? count - 1 - i : i;
}

static const char *wait_name(const struct thread *t)
{
    static const char *const name[] = {"ready", "barrier", "shuffle", "vote", "left"};
    return name[t->wait];
}

/* Threads that wait alike are one line. */
static void report(const char *name)
{
    if (!cuda_host_verbose)
        return;
    fprintf(stderr, "%s, block (%u, %u, %u) is stuck:\n", name, blockIdx.x, blockIdx.y, blockIdx.z);
    for (int i = 0, j; i < thread_count; i = j) {
        const struct thread *t = &threads[i];
        for (j = i + 1; j < thread_count && threads[j].wait == t->wait &&
                        threads[j].line == t->line && threads[j].mask == t->mask;
             j++)
            ;
        fprintf(stderr, "  threads %d..%d: %s", i, j - 1, wait_name(t));
        if (t->wait != LEFT)
            fprintf(stderr, " at %s:%d", t->file, t->line);
        if (t->wait == SHUFFLE || t->wait == VOTE)
            fprintf(stderr, ", mask %08x", t->mask);
        fputc('\n', stderr);
    }
}

/* The section whole, with the red zones in it. */
__attribute__((no_sanitize_address)) static void fill_shared(void)
{
    volatile char *end = __stop_cuda_shared;
    for (volatile char *p = __start_cuda_shared; p < end; p++)
        *p = (char)0xff;
}

/* Lets a warp go as far as it can; how many times a lane went on. Threads that leave are no longer
 * `left`. */
static int run_warp(int warp, int *left)
{
    int all = 0, ran;
    do {
        ran = 0;
        for (int i = 0; i < WARP; i++) {
            int n = warp * WARP + place(i, WARP);
            if (n >= thread_count || threads[n].wait != READY)
                continue;
            resume(&threads[n]);
            ran++;
            *left -= threads[n].wait == LEFT;
        }
        all += ran;
    } while (ran > 0);
    return all;
}

static bool run_block(size_t shared)
{
    int left = thread_count, warps = (thread_count + WARP - 1) / WARP, ran;
    fill_shared();
    memset(shared_memory, 0xff, shared);
    arrived = 0;
    for (int i = 0; i < thread_count; i++) {
        unsigned n = (unsigned)i;
        uint3 index = {n % blockDim.x, n / blockDim.x % blockDim.y, n / blockDim.x / blockDim.y};
        threads[i] = (struct thread){.index = index};
    }
    do {
        ran = 0;
        for (int i = 0; i < warps; i++)
            ran += run_warp(place(i, warps), &left);
    } while (ran > 0 && left > 0);
    for (int i = 0; i < thread_count; i++) /* those that are stuck are made anew */
        fibers[i].made = fibers[i].made && threads[i].wait == LEFT;
    return left == 0;
}

static size_t shared_limit(const void *kernel)
{
    for (int i = 0; i < limits; i++)
        if (limit[i].kernel == kernel)
            return limit[i].bytes;
    return SHARED_DEFAULT;
}

cudaError_t cuda_host_shared_limit(const void *kernel, size_t bytes)
{
    int i = 0;
    if (bytes > SHARED_MAX)
        return last_error = cudaErrorInvalidValue;
    pthread_mutex_lock(&lock);
    while (i < limits && limit[i].kernel != kernel)
        i++;
    if (i == MAX_KERNELS)
        abort();
    limits = i == limits ? limits + 1 : limits;
    limit[i].kernel = kernel;
    limit[i].bytes = bytes;
    pthread_mutex_unlock(&lock);
    return cudaSuccess;
}

static bool acceptable(const dim3 *grid, const dim3 *block, size_t shared, const void *kernel)
{
    size_t count = (size_t)block->x * block->y * block->z;
    return count > 0 && count <= MAX_THREADS && block->z <= 64 && grid->x > 0 &&
           grid->x <= 0x7fffffffu && grid->y > 0 && grid->y <= 65535 && grid->z > 0 &&
           grid->z <= 65535 && shared <= shared_limit(kernel);
}

static cudaError_t run_grid(const dim3 *grid, const dim3 *block, size_t shared, const char *name)
{
    size_t blocks = (size_t)grid->x * grid->y * grid->z;
    if (!stacks)
        make_stacks();
    gridDim = *grid;
    blockDim = *block;
    thread_count = (int)(block->x * block->y * block->z);
    if (posix_memalign(&shared_memory, 128, shared))
        abort();
    bool done = true;
    for (size_t i = 0; done && i < blocks; i++) {
        unsigned at = (unsigned)(cuda_host_reverse ? blocks - 1 - i : i);
        blockIdx = (uint3){at % grid->x, at / grid->x % grid->y, at / grid->x / grid->y};
        done = run_block(shared);
        if (!done)
            report(name);
    }
    free(shared_memory);
    return done ? cudaSuccess : cudaErrorLaunchFailure;
}

void cuda_host_run(const dim3 *grid, const dim3 *block, size_t shared, const void *kernel,
                   const char *name, cuda_host_body b, void *args)
{
    pthread_mutex_lock(&lock);
    cudaError_t e = cudaErrorInvalidConfiguration;
    cuda_host_launches++;
    body = b;
    body_args = args;
    if (acceptable(grid, block, shared, kernel))
        e = run_grid(grid, block, shared, name);
    else if (cuda_host_verbose)
        fprintf(stderr, "%s: no card takes grid (%u, %u, %u), block (%u, %u, %u), %zu bytes\n",
                name, grid->x, grid->y, grid->z, block->x, block->y, block->z, shared);
    if (e != cudaSuccess)
        last_error = e;
    pthread_mutex_unlock(&lock);
}

/* Whether the kernel was launched before, outside of a capture. */
static bool loaded(const void *kernel, bool load)
{
    static const void *known[MAX_KERNELS];
    static int count;
    CUDA_HOST_LOCKED;
    for (int i = 0; i < count; i++)
        if (known[i] == kernel)
            return true;
    if (load && count == MAX_KERNELS)
        abort();
    if (load)
        known[count++] = kernel;
    return load;
}

bool cuda_host_refused(cudaStream_t stream, const void *kernel)
{
    cudaError_t e = cuda_host_call();
    if (e == cudaSuccess && cuda_host_elsewhere(stream))
        e = cudaErrorInvalidResourceHandle;
    if (e == cudaSuccess && !loaded(kernel, !cuda_host_captures(stream)))
        e = cuda_host_not_while_capturing();
    if (e != cudaSuccess)
        last_error = e;
    return e != cudaSuccess;
}

/* ---- the runtime ---- */

const char *cudaGetErrorName(cudaError_t e)
{
    switch (e) {
    case cudaSuccess:
        return "cudaSuccess";
    case cudaErrorInvalidValue:
        return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
        return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
        return "cudaErrorInvalidConfiguration";
    case cudaErrorInvalidResourceHandle:
        return "cudaErrorInvalidResourceHandle";
    case cudaErrorLaunchFailure:
        return "cudaErrorLaunchFailure";
    default:
        return "another CUDA error";
    }
}

const char *cudaGetErrorString(cudaError_t e)
{
    return cudaGetErrorName(e);
}

cudaError_t cudaPeekAtLastError(void)
{
    return last_error;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t e = last_error;
    last_error = cudaSuccess;
    return e;
}

cudaError_t cuda_host_set_error(cudaError_t e)
{
    return last_error = e;
}

cudaError_t cudaDeviceSynchronize(void)
{
    cudaError_t e = cuda_host_not_while_capturing();
    if (e != cudaSuccess)
        return e;
    cuda_host_run_all();
    return cudaSuccess;
}
