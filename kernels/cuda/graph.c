/* Batches that the device has seen before, captured: found by their trace (batch.c).
 *
 * The second time a trace comes the walk is captured, from then on it is one launch. Places are
 * few and the one that was used longest ago goes first, whether it holds a graph or only the mark
 * that its trace was seen; a graph holds no memory of ours. */
#include "kernels/cuda/cuda.h"

#include <string.h>

static struct cuda_graph *find(struct cuda_backend *c)
{
    for (int i = 0; i < CUDA_GRAPHS; i++) {
        struct cuda_graph *g = &c->graph[i];
        if (g->used && memcmp(g->key, c->trace.key, sizeof g->key) == 0) {
            g->used = ++c->clock;
            return g;
        }
    }
    return NULL;
}

cudaGraphExec_t cuda_graph_find(struct cuda_backend *c)
{
    const struct cuda_graph *g = find(c);
    return g ? g->exec : NULL;
}

/* The device may be at work on it: then it goes when that is done, and nobody has to wait. */
static void drop(struct cuda_backend *c, struct cuda_graph *g)
{
    if (g->exec)
        cuda_check(c, cudaGraphExecDestroy(g->exec), "cudaGraphExecDestroy");
    *g = (struct cuda_graph){0};
}

bool cuda_graph_seen(struct cuda_backend *c)
{
    return find(c) != NULL;
}

void cuda_graph_note(struct cuda_backend *c)
{
    struct cuda_graph *g = c->graph;
    if (find(c))
        return;
    for (int i = 1; i < CUDA_GRAPHS; i++)
        if (c->graph[i].used < g->used)
            g = &c->graph[i];
    drop(c, g);
    memcpy(g->key, c->trace.key, sizeof g->key);
    g->used = ++c->clock;
}

/* ERR_OK, or what the walk or the runtime says, with nothing left of it. */
static enum err capture(struct cuda_backend *c, enum err (*walk)(void *arg), void *arg,
                        cudaGraphExec_t *out)
{
    cudaGraph_t graph = NULL;
    *out = NULL;
    if (!cuda_check(c, cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal),
                    "cudaStreamBeginCapture"))
        return cuda_result(c);
    cuda_stages_rewind(c->current);
    c->walk = CUDA_LIVE;
    enum err e = walk(arg);
    c->walk = CUDA_AT_ONCE;
    cuda_check(c, cudaStreamEndCapture(c->stream, &graph), "cudaStreamEndCapture");
    if (e == ERR_OK && c->failed == cudaSuccess)
        cuda_check(c, cudaGraphInstantiate(out, graph, 0), "cudaGraphInstantiate");
    if (graph)
        cudaGraphDestroy(graph);
    if (c->failed != cudaSuccess)
        *out = NULL;
    return e == ERR_OK ? cuda_result(c) : e;
}

/* Nothing of a capture has run, so where it fails the batch can still be launched, as all later
 * ones are. If the device itself is what failed, that will say so. */
cudaGraphExec_t cuda_graph_capture(struct cuda_backend *c, enum err (*walk)(void *arg), void *arg)
{
    cudaGraphExec_t exec;
    struct cuda_graph *g = find(c);
    if (capture(c, walk, arg, &exec) != ERR_OK) {
        cudaGetLastError();
        c->failed = cudaSuccess;
        c->failed_at = NULL;
        c->no_graphs = true;
        return NULL;
    }
    g->exec = exec;
    return exec;
}

void cuda_graphs_close(struct cuda_backend *c)
{
    for (int i = 0; i < CUDA_GRAPHS; i++)
        if (c->graph[i].exec)
            drop(c, &c->graph[i]);
}
