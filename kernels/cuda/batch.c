/* A batch on the device: start, finish.
 *
 *   host     walks it dry: pixels and tables go into pinned memory, buffers grow to what it needs,
 *            and every operation leaves its arguments in the trace
 *   up       one copy of the pinned memory, one of each picture that is on a device -> event
 *   stream   waits for that; the operations: launched one by one in a second walk, or, where the
 *            device has seen such a trace before, one launch of a graph -> event
 *   down     waits for that; one copy of all labels -> event, the one that `finish` waits for
 *
 * The trace holds everything that the launches are given, addresses too, so a graph is found only
 * where it does exactly what the launches would: nothing has to be forgotten when a plan goes or a
 * buffer moves. What differs from stream to stream is data: states and windows are reached through
 * tables in the staging memory, whose addresses repeat, and a decoder's pictures are copied to
 * where they repeat (stage.c).
 *
 * Whatever can fail for want of memory does so in the dry walk, before the device has anything to
 * do. Two batches have staging memories of their own, so the copies of one run under the
 * arithmetic of the other, and share all else, since the arithmetic is in one stream. */
#include "kernels/cuda/cuda.h"

#include <string.h>

enum { DRY_WALKS = 8 };

static uint64_t mixed(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static void add_to(struct cuda_trace *t, uint64_t v)
{
    t->key[0] = mixed(t->key[0] ^ v) + 0x9e3779b97f4a7c15u;
    t->key[1] = mixed(t->key[1] + v * 0xd6e8feb86659fd93u) ^ 0x2545f4914f6cdd1du;
}

bool cuda_op(struct cuda_backend *c, const char *name, const uint64_t *args, size_t count)
{
    if (c->walk != CUDA_DRY)
        return c->failed == cudaSuccess; /* after an error the order is not what it should be */
    add_to(&c->trace, AT(name));
    for (size_t i = 0; i < count; i++)
        add_to(&c->trace, args[i]);
    return false;
}

/* ---- start ---- */

static enum err walk_as(struct cuda_backend *c, enum cuda_walk how, enum err (*walk)(void *arg),
                        void *arg)
{
    cuda_stages_rewind(c->current);
    c->walk = how;
    enum err e = walk(arg);
    c->walk = CUDA_AT_ONCE;
    return e == ERR_OK ? cuda_result(c) : e;
}

/* Dry, until all buffers are as large as the batch needs: then its addresses are final. */
static enum err walk_dry(struct cuda_backend *c, enum err (*walk)(void *arg), void *arg)
{
    struct cuda_flight *f = c->current;
    for (int i = 0; i < DRY_WALKS; i++) {
        uint64_t before = c->allocations;
        c->trace = (struct cuda_trace){{1, 2}, false};
        f->answer_count = f->picture_count = 0;
        enum err e = cuda_stages_settle(c, f);
        if (e == ERR_OK)
            e = walk_as(c, CUDA_DRY, walk, arg);
        if (e != ERR_OK || c->allocations == before)
            return e;
    }
    return err_set(ERR_INTERNAL, "a batch's buffers do not settle");
}

/* Memory that processes share is mapped for its own device alone: from another one the copy has to
 * name both. */
static cudaError_t copy_picture(const struct cuda_backend *c, const struct cuda_picture *p)
{
    return p->device == c->device
               ? cudaMemcpyAsync(p->to, p->from, p->bytes, cudaMemcpyDeviceToDevice, c->up)
               : cudaMemcpyPeerAsync(p->to, c->device, p->from, p->device, p->bytes, c->up);
}

static void go_up(struct cuda_backend *c)
{
    const struct cuda_flight *f = c->current;
    const struct cuda_stage *in = &f->in;
    if (in->blocks > 0)
        cuda_check(
            c, cudaMemcpyAsync(in->device[0], in->host[0], in->used, cudaMemcpyHostToDevice, c->up),
            "pixels");
    for (size_t i = 0; i < f->picture_count; i++)
        cuda_check(c, copy_picture(c, &f->pictures[i]), "a decoded picture");
    cuda_check(c, cudaEventRecord(c->uploaded, c->up), "pixels");
    cuda_check(c, cudaStreamWaitEvent(c->stream, c->uploaded, 0), "pixels");
}

static void come_down(struct cuda_backend *c)
{
    struct cuda_flight *f = c->current;
    const struct cuda_stage *out = &f->out;
    cuda_check(c, cudaEventRecord(c->computed, c->stream), "labels");
    cuda_check(c, cudaStreamWaitEvent(c->down, c->computed, 0), "labels");
    if (out->blocks > 0 && out->used > 0)
        cuda_check(c,
                   cudaMemcpyAsync(out->host[0], out->device[0], out->used, cudaMemcpyDeviceToHost,
                                   c->down),
                   "labels");
    cuda_check(c, cudaEventRecord(f->done, c->down), "labels");
}

/* A batch seen for the first time is launched plainly: its kernels are loaded then, which a capture
 * must not do, and one that never comes again costs no graph. */
static enum err launch(struct cuda_backend *c, enum err (*walk)(void *arg), void *arg)
{
    cudaGraphExec_t graph = NULL;
    bool usual = !c->trace.waits && !c->no_graphs;
    if (usual)
        graph = cuda_graph_find(c);
    if (usual && !graph && cuda_graph_seen(c))
        graph = cuda_graph_capture(c, walk, arg);
    if (graph) {
        cuda_check(c, cudaGraphLaunch(graph, c->stream), "cudaGraphLaunch");
        return cuda_result(c);
    }
    enum err e = walk_as(c, CUDA_LIVE, walk, arg);
    if (e == ERR_OK && usual)
        cuda_graph_note(c);
    return e;
}

/* What was enqueued for a batch that is not to be comes to its end: the next one has the same
 * staging memory. Memory that was missing, for a kernel to be loaded say, ends nothing else. */
static enum err give_up(struct cuda_backend *c, enum err e)
{
    bool no_memory = c->failed == cudaErrorMemoryAllocation;
    if (no_memory) {
        e = err_set(ERR_NOMEM, "the GPU has no memory left to run a batch (%s)", c->failed_at);
        c->failed = cudaSuccess;
        cudaGetLastError();
    }
    const cudaStream_t streams[] = {c->up, c->stream, c->down};
    for (int i = 0; i < 3 && c->failed == cudaSuccess; i++)
        cuda_check(c, cudaStreamSynchronize(streams[i]), "a batch given up");
    return c->failed == cudaSuccess ? e : cuda_result(c);
}

enum err cuda_start(struct backend *be, enum err (*walk)(void *arg), void *arg)
{
    struct cuda_backend *c = cuda_of(be);
    if (c->failed != cudaSuccess)
        return cuda_result(c);
    c->current = &c->flight[(c->oldest + c->flying) % CUDA_DEPTH];
    enum err e = walk_dry(c, walk, arg);
    if (e == ERR_OK) {
        go_up(c);
        e = cuda_result(c);
        if (e == ERR_OK)
            e = launch(c, walk, arg);
        if (e == ERR_OK) {
            come_down(c);
            e = cuda_result(c);
        }
        if (e != ERR_OK)
            e = give_up(c, e);
    }
    c->current = NULL;
    if (e == ERR_OK)
        c->flying++;
    return e;
}

/* ---- finish ---- */

enum err cuda_finish(struct backend *be)
{
    struct cuda_backend *c = cuda_of(be);
    struct cuda_flight *f = &c->flight[c->oldest];
    cuda_check(c, cudaEventSynchronize(f->done), "a batch's kernels");
    for (size_t i = 0; c->failed == cudaSuccess && i < f->answer_count; i++)
        memcpy(f->answers[i].to, f->answers[i].from, f->answers[i].bytes);
    c->flying--;
    c->oldest = c->flying ? (c->oldest + 1) % CUDA_DEPTH : 0;
    return cuda_result(c);
}
