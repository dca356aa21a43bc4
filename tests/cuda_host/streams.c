/* streams.h says what this is. A stream is a queue of closures; an event is a position in one. */
#include "cuda_runtime_api.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct task {
    void (*run)(void *);
    void (*destroy)(void *);
    void *args;
};

struct tasks {
    struct task *at;
    size_t count, places;
};

struct cuda_host_stream {
    struct tasks queue;
    size_t base, done;          /* positions: of queue.at[0]; before it all has run */
    struct cuda_host_graph *to; /* while it captures */
    struct cuda_host_stream *next;
};

struct cuda_host_event {
    struct cuda_host_stream *stream; /* NULL: not recorded yet */
    size_t position;
};

struct cuda_host_graph {
    struct tasks tasks;
    int owners, queued;
};

size_t cuda_host_enqueued, cuda_host_waits, cuda_host_allocations, cuda_host_memory;
size_t cuda_host_memory_limit = SIZE_MAX;
cudaError_t cuda_host_fault;
int cuda_host_devices = 1;
size_t cuda_host_calls, cuda_host_fail_at;
cudaError_t cuda_host_fail_with = cudaErrorUnknown;

cudaError_t cuda_host_call(void)
{
    return ++cuda_host_calls == cuda_host_fail_at ? cuda_host_fail_with : cudaSuccess;
}

/* Returns from the call that is to fail. */
#define MAY_FAIL                                                                                   \
    do {                                                                                           \
        cudaError_t injected = cuda_host_call();                                                   \
        if (injected != cudaSuccess)                                                               \
            return injected;                                                                       \
    } while (0)

/* A signal may set it. */
static cudaError_t fault(void)
{
    return __atomic_load_n(&cuda_host_fault, __ATOMIC_RELAXED);
}

static struct cuda_host_stream *streams;
static struct {
    const void *p;
    size_t bytes;
} * allocations;
static size_t allocation_count, allocation_places;

static void *checked(void *p)
{
    if (!p)
        abort();
    return p;
}

static void push(struct tasks *t, struct task task)
{
    if (t->count == t->places) {
        t->places = t->places ? 2 * t->places : 64;
        t->at = checked(realloc(t->at, t->places * sizeof *t->at));
    }
    t->at[t->count++] = task;
}

static void clear(struct tasks *t)
{
    for (size_t i = 0; i < t->count; i++)
        t->at[i].destroy(t->at[i].args);
    free(t->at);
    *t = (struct tasks){0};
}

static size_t end_of(const struct cuda_host_stream *s)
{
    return s->base + s->queue.count;
}

static void run_until(struct cuda_host_stream *s, size_t position)
{
    while (s->done < position) {
        struct task t = s->queue.at[s->done++ - s->base];
        t.run(t.args);
        t.destroy(t.args);
        cudaError_t e = cudaGetLastError();
        if (e != cudaSuccess && fault() == cudaSuccess)
            cuda_host_fault = e;
    }
    if (s->done == end_of(s)) {
        s->base = s->done;
        s->queue.count = 0;
    }
}

void cuda_host_run_all(void)
{
    for (struct cuda_host_stream *s = streams; s; s = s->next)
        run_until(s, end_of(s));
}

void cuda_host_enqueue(cudaStream_t s, void (*run)(void *), void (*destroy)(void *), void *args)
{
    struct task t = {run, destroy, args};
    if (s && s->to) {
        push(&s->to->tasks, t);
        return;
    }
    cuda_host_enqueued++;
    if (s) {
        push(&s->queue, t);
        return;
    }
    run(args);
    destroy(args);
}

/* ---- streams and events ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags)
{
    MAY_FAIL;
    *out = checked(calloc(1, sizeof **out));
    (*out)->next = streams;
    streams = *out;
    return flags <= cudaStreamNonBlocking ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    struct cuda_host_stream **at = &streams;
    run_until(s, end_of(s));
    clear(&s->queue);
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    free(s);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t s)
{
    MAY_FAIL;
    cuda_host_waits++;
    if (s->to)
        return cudaErrorInvalidValue; /* a stream that captures cannot be waited for */
    run_until(s, end_of(s));
    return fault();
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags)
{
    MAY_FAIL;
    *out = checked(calloc(1, sizeof **out));
    return flags <= cudaEventDisableTiming ? cudaSuccess : cudaErrorInvalidValue;
}

/* No time passes here. */
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t from, cudaEvent_t to)
{
    *ms = 0;
    return from && to ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    free(e);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s)
{
    MAY_FAIL;
    if (s->to)
        return cudaErrorInvalidValue; /* the stand-in has no branches inside of a graph */
    *e = (struct cuda_host_event){s, end_of(s)};
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    MAY_FAIL;
    cuda_host_waits++;
    if (e->stream)
        run_until(e->stream, e->position);
    return fault();
}

static void wait_for(void *args)
{
    const struct cuda_host_event *e = args;
    run_until(e->stream, e->position);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags)
{
    MAY_FAIL;
    if (flags || s->to)
        return cudaErrorInvalidValue;
    if (!e->stream)
        return cudaSuccess;
    struct cuda_host_event *copy = checked(malloc(sizeof *copy));
    *copy = *e;
    cuda_host_enqueue(s, wait_for, free, copy);
    cuda_host_enqueued--;
    return cudaSuccess;
}

struct copy {
    void *dst;
    const void *src; /* NULL: memset */
    size_t bytes;
    int value;
};

static void run_copy(void *args)
{
    const struct copy *c = args;
    if (c->src)
        memmove(c->dst, c->src, c->bytes);
    else
        memset(c->dst, c->value, c->bytes);
}

static cudaError_t enqueue_copy(struct copy c, cudaStream_t s)
{
    MAY_FAIL;
    struct copy *args = checked(malloc(sizeof *args));
    *args = c;
    cuda_host_enqueue(s, run_copy, free, args);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t s)
{
    (void)kind;
    return enqueue_copy((struct copy){dst, src, bytes, 0}, s);
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s)
{
    return enqueue_copy((struct copy){p, NULL, bytes, value}, s);
}

/* ---- graphs: a graph and its executable form are the same thing, with owners counted ---- */

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode)
{
    MAY_FAIL;
    (void)mode;
    if (s->to)
        return cudaErrorInvalidValue;
    s->to = checked(calloc(1, sizeof *s->to));
    s->to->owners = 1;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *out)
{
    *out = s->to;
    s->to = NULL;
    cudaError_t e = cuda_host_call();
    if (e != cudaSuccess && *out) {
        cudaGraphDestroy(*out);
        *out = NULL;
    }
    return e != cudaSuccess ? e : *out ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags)
{
    MAY_FAIL;
    *out = graph;
    graph->owners++;
    return flags ? cudaErrorInvalidValue : cudaSuccess;
}

static void run_graph(void *args)
{
    struct cuda_host_graph *g = args;
    for (size_t i = 0; i < g->tasks.count; i++)
        g->tasks.at[i].run(g->tasks.at[i].args);
    g->queued--;
}

static void no_destroy(void *args)
{
    (void)args;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t s)
{
    MAY_FAIL;
    graph->queued++;
    cuda_host_enqueue(s, run_graph, no_destroy, graph);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    if (--graph->owners > 0)
        return cudaSuccess;
    if (graph->queued) {
        fputs("a graph is destroyed before it ran\n", stderr);
        abort();
    }
    clear(&graph->tasks);
    free(graph);
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph)
{
    return cudaGraphDestroy(graph);
}

/* ---- device and memory ---- */

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = cuda_host_devices;
    return cuda_host_devices ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device)
{
    *prop = (struct cudaDeviceProp){"stand-in", 8, 0};
    return device < cuda_host_devices ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaSetDevice(int device)
{
    return device < cuda_host_devices ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total)
{
    *total = cuda_host_memory_limit;
    *free_bytes = cuda_host_memory_limit - cuda_host_memory;
    return cudaSuccess;
}

void cuda_host_counted(const void *p, size_t bytes)
{
    if (allocation_count == allocation_places) {
        allocation_places = allocation_places ? 2 * allocation_places : 256;
        allocations = checked(realloc(allocations, allocation_places * sizeof *allocations));
    }
    allocations[allocation_count].p = p;
    allocations[allocation_count++].bytes = bytes;
    cuda_host_memory += bytes;
    cuda_host_allocations++;
}

void cuda_host_uncounted(const void *p)
{
    size_t i = allocation_count;
    while (i > 0 && allocations[i - 1].p != p)
        i--;
    if (i == 0)
        return; /* cudaFree(NULL) */
    cuda_host_memory -= allocations[i - 1].bytes;
    allocations[i - 1] = allocations[--allocation_count];
    if (allocation_count == 0) {
        free(allocations);
        allocations = NULL;
        allocation_places = 0;
    }
}

cudaError_t cudaHostAlloc(void **p, size_t bytes, unsigned flags)
{
    MAY_FAIL;
    cuda_host_allocations++;
    *p = aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!*p || flags)
        return cudaErrorMemoryAllocation;
    memset(*p, 0xff, bytes);
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *p)
{
    cuda_host_run_all();
    free(p);
    return cudaSuccess;
}
