/* streams.h says what this is. A stream is a queue of closures; an event is a position in one. */
#include "cuda_runtime_api.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

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
    size_t base, done; /* positions: of queue.at[0]; before it all has run */
    int device;
    bool waits;                 /* for the default stream */
    struct cuda_host_graph *to; /* while it captures */
    struct cuda_host_stream *next;
};

struct cuda_host_event {
    struct cuda_host_stream *stream; /* NULL: not recorded yet */
    size_t position;
    int device;
};

struct cuda_host_graph {
    struct tasks tasks;
    int owners, queued;
    bool invalid; /* something was called that a capture forbids */
};

size_t cuda_host_enqueued, cuda_host_waits;
cudaError_t cuda_host_fault;
int cuda_host_devices = 1, cuda_host_major = 8, cuda_host_fault_device = -1;
int cuda_host_hold;
enum { RUNTIME_VERSION = 13000 };
int cuda_host_driver_version = RUNTIME_VERSION;
size_t cuda_host_calls, cuda_host_fail_at;
cudaError_t cuda_host_fail_with = cudaErrorUnknown;

/* ---- one thread at a time, and each thread's device ---- */

static pthread_mutex_t machine = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
static __thread int current_device;

int cuda_host_lock(void)
{
    pthread_mutex_lock(&machine);
    return 0;
}

void cuda_host_unlock(const int *locked)
{
    (void)locked;
    pthread_mutex_unlock(&machine);
}

cudaError_t cuda_host_call(void)
{
    CUDA_HOST_LOCKED;
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
static cudaError_t fault(int device)
{
    bool ours = cuda_host_fault_device < 0 || cuda_host_fault_device == device;
    return ours ? __atomic_load_n(&cuda_host_fault, __ATOMIC_RELAXED) : cudaSuccess;
}

/* A signal may set and clear it. */
static void stand_while_held(void)
{
    const struct timespec pause = {.tv_nsec = 1000000};
    if (__atomic_load_n(&cuda_host_hold, __ATOMIC_RELAXED))
        fputs("the stand-in is waited for\n", stderr);
    while (__atomic_load_n(&cuda_host_hold, __ATOMIC_RELAXED))
        nanosleep(&pause, NULL);
}

static struct cuda_host_stream *streams;
static __thread struct cuda_host_graph *capture; /* of this thread */

cudaError_t cuda_host_not_while_capturing(void)
{
    if (!capture)
        return cudaSuccess;
    capture->invalid = true;
    return cuda_host_set_error(cudaErrorStreamCaptureUnsupported);
}

bool cuda_host_captures(cudaStream_t s)
{
    return s && s->to;
}

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
    if (s->waits && s->done < position)
        cuda_host_end_late_copies();
    while (s->done < position) {
        struct task t = s->queue.at[s->done++ - s->base];
        cuda_host_open_memory(s->device);
        t.run(t.args);
        t.destroy(t.args);
        cudaError_t e = cudaGetLastError();
        if (e != cudaSuccess && fault(s->device) == cudaSuccess) {
            cuda_host_fault_device = cuda_host_devices > 1 ? s->device : -1;
            cuda_host_fault = e;
        }
    }
    if (s->done == end_of(s)) {
        s->base = s->done;
        s->queue.count = 0;
    }
}

void cuda_host_run_all(void)
{
    CUDA_HOST_LOCKED;
    cuda_host_end_late_copies();
    for (struct cuda_host_stream *s = streams; s; s = s->next)
        run_until(s, end_of(s));
}

void cuda_host_enqueue(cudaStream_t s, void (*run)(void *), void (*destroy)(void *), void *args)
{
    CUDA_HOST_LOCKED;
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
    cuda_host_end_late_copies();
    cuda_host_open_memory(current_device);
    run(args);
    destroy(args);
}

bool cuda_host_elsewhere(cudaStream_t s)
{
    return s && s->device != current_device;
}

/* ---- streams and events ---- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags)
{
    CUDA_HOST_LOCKED;
    MAY_FAIL;
    *out = checked(calloc(1, sizeof **out));
    (*out)->device = current_device;
    (*out)->waits = !(flags & cudaStreamNonBlocking);
    (*out)->next = streams;
    streams = *out;
    return flags <= cudaStreamNonBlocking ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    CUDA_HOST_LOCKED;
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
    stand_while_held();
    CUDA_HOST_LOCKED;
    MAY_FAIL;
    cuda_host_waits++;
    if (s->to)
        return cuda_host_not_while_capturing();
    run_until(s, end_of(s));
    return fault(s->device);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *out, unsigned flags)
{
    MAY_FAIL;
    *out = checked(calloc(1, sizeof **out));
    (*out)->device = current_device;
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
    CUDA_HOST_LOCKED;
    MAY_FAIL;
    if (s->to)
        return cudaErrorInvalidValue; /* the stand-in has no branches inside of a graph */
    if (s->device != e->device)
        return cudaErrorInvalidResourceHandle;
    *e = (struct cuda_host_event){s, end_of(s), s->device};
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    stand_while_held();
    CUDA_HOST_LOCKED;
    MAY_FAIL;
    cuda_host_waits++;
    if (e->stream)
        run_until(e->stream, e->position);
    return fault(e->device);
}

static void wait_for(void *args)
{
    const struct cuda_host_event *e = args;
    run_until(e->stream, e->position);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned flags)
{
    CUDA_HOST_LOCKED;
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

/* ---- graphs: a graph and its executable form are the same thing, with owners counted ---- */

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode mode)
{
    MAY_FAIL;
    if (s->to || capture || mode == cudaStreamCaptureModeRelaxed)
        return cudaErrorInvalidValue;
    capture = s->to = checked(calloc(1, sizeof *s->to));
    s->to->owners = 1;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *out)
{
    *out = s->to;
    capture = s->to = NULL;
    cudaError_t e = cuda_host_call();
    if (e == cudaSuccess && *out && (*out)->invalid)
        e = cudaErrorStreamCaptureInvalidated;
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

/* As soon as nobody has it and it is not to run any more. */
static void free_graph(struct cuda_host_graph *g)
{
    if (g->owners > 0 || g->queued > 0)
        return;
    clear(&g->tasks);
    free(g);
}

static void run_graph(void *args)
{
    struct cuda_host_graph *g = args;
    for (size_t i = 0; i < g->tasks.count; i++)
        g->tasks.at[i].run(g->tasks.at[i].args);
    g->queued--;
    free_graph(g);
}

static void no_destroy(void *args)
{
    (void)args;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t s)
{
    CUDA_HOST_LOCKED;
    MAY_FAIL;
    if (cuda_host_elsewhere(s))
        return cudaErrorInvalidResourceHandle;
    graph->queued++;
    cuda_host_enqueue(s, run_graph, no_destroy, graph);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    graph->owners--;
    free_graph(graph);
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph)
{
    return cudaGraphDestroy(graph);
}

/* ---- devices ---- */

bool cuda_host_device_there(int device)
{
    return device >= 0 && device < cuda_host_devices;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = cuda_host_driver_version;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = RUNTIME_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    if (cuda_host_driver_version < RUNTIME_VERSION)
        return cudaErrorInsufficientDriver;
    *count = cuda_host_devices;
    return cuda_host_devices ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device)
{
    *prop = (struct cudaDeviceProp){"stand-in", cuda_host_major, 0};
    return cuda_host_device_there(device) ? cudaSuccess : cudaErrorInvalidDevice;
}

cudaError_t cudaSetDevice(int device)
{
    if (!cuda_host_device_there(device))
        return cudaErrorInvalidDevice;
    current_device = device;
    return cudaSuccess;
}

int cuda_host_device(void)
{
    return current_device;
}
