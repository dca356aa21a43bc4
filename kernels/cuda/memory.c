/* The device's memory: buffers, the pools of states, and the device copies of a plan's tables. */
#include "kernels/cuda/cuda.h"

#include <stdlib.h>
#include <string.h>

/* Memory that is missing is the caller's to hear about and nothing else's. */
static enum err no_memory(size_t bytes)
{
    size_t free_bytes = 0, total = 0;
    cudaGetLastError();
    cudaMemGetInfo(&free_bytes, &total);
    return err_set(ERR_NOMEM,
                   "the GPU has no room for %zu MB more: %zu of its %zu MB are free, and not in "
                   "one piece",
                   (bytes >> 20) + 1, free_bytes >> 20, total >> 20);
}

enum err cuda_alloc(struct backend *be, size_t bytes, void **out)
{
    struct cuda_backend *c = cuda_of(be);
    *out = NULL;
    if (c->failed != cudaSuccess)
        return cuda_result(c);
    c->allocations++;
    cudaError_t e = cudaMalloc(out, bytes ? bytes : 1);
    if (e != cudaSuccess)
        *out = NULL;
    if (e == cudaErrorMemoryAllocation)
        return no_memory(bytes);
    cuda_check(c, e, "cudaMalloc");
    return cuda_result(c);
}

void cuda_free(struct backend *be, void *p)
{
    if (p)
        cuda_check(cuda_of(be), cudaFree(p), "cudaFree");
}

enum err cuda_pinned(struct cuda_backend *c, size_t bytes, void **out)
{
    *out = NULL;
    c->allocations++;
    cudaError_t e = cudaHostAlloc(out, bytes, cudaHostAllocDefault);
    if (e == cudaSuccess)
        return ERR_OK;
    *out = NULL;
    cudaGetLastError();
    if (e != cudaErrorMemoryAllocation && !cuda_check(c, e, "cudaHostAlloc"))
        return cuda_result(c);
    return err_set(ERR_NOMEM, "out of memory for %zu MB of pinned memory", (bytes >> 20) + 1);
}

/* ---- pools ---- */

static enum err get_slab(void *owner, size_t bytes, void **out)
{
    return cuda_alloc(owner, bytes, out);
}

static void put_slab(void *owner, void *p)
{
    cuda_free(owner, p);
}

static enum err get_pinned(void *owner, size_t bytes, void **out)
{
    return cuda_pinned(owner, bytes, out);
}

static void put_pinned(void *owner, void *p)
{
    cuda_check(owner, cudaFreeHost(p), "cudaFreeHost");
}

void cuda_pools_open(struct cuda_backend *c)
{
    c->states = (struct cuda_pool){.get = get_slab, .put = put_slab, .owner = c};
    c->spilled = (struct cuda_pool){.get = get_pinned, .put = put_pinned, .owner = c};
}

enum err cuda_reserve(struct backend *be, size_t bytes)
{
    return cuda_pool_reserve(&cuda_of(be)->states, bytes);
}

enum err cuda_take(struct backend *be, size_t bytes, void **out)
{
    return cuda_pool_take(&cuda_of(be)->states, bytes, out);
}

void cuda_give(struct backend *be, void *p, size_t bytes)
{
    cuda_pool_give(&cuda_of(be)->states, p, bytes);
}

enum err cuda_host_take(struct backend *be, size_t bytes, void **out)
{
    return cuda_pool_take(&cuda_of(be)->spilled, bytes, out);
}

void cuda_host_give(struct backend *be, void *p, size_t bytes)
{
    cuda_pool_give(&cuda_of(be)->spilled, p, bytes);
}

/* ---- copies ---- */

/* Waits until the bytes are there. cudaMemcpy does not: from pageable memory it may return before
 * the device has them, and only the default stream, which ours do not wait for, has them then. */
static enum err copy_and_wait(struct cuda_backend *c, void *dst, const void *src, size_t bytes,
                              enum cudaMemcpyKind kind, cudaStream_t stream)
{
    cuda_check(c, cudaMemcpyAsync(dst, src, bytes, kind, stream), "cudaMemcpyAsync");
    cuda_check(c, cudaStreamSynchronize(stream), "a copy");
    return cuda_result(c);
}

/* To memory that nothing uses yet: no batch has to be waited for. */
enum err cuda_upload_bytes(struct cuda_backend *c, const void *src, size_t bytes, void **out)
{
    enum err e = cuda_alloc(&c->base, bytes, out);
    if (e == ERR_OK)
        e = copy_and_wait(c, *out, src, bytes, cudaMemcpyHostToDevice, c->up);
    if (e != ERR_OK) {
        cuda_free(&c->base, *out);
        *out = NULL;
    }
    return e;
}

/* Behind what is under way, as is `download`: who used this memory last may be a batch. */
enum err cuda_upload(struct backend *be, void *dst, const void *src, size_t bytes)
{
    struct cuda_backend *c = cuda_of(be);
    return copy_and_wait(c, dst, src, bytes, cudaMemcpyHostToDevice, c->stream);
}

enum err cuda_download(struct backend *be, void *dst, const void *src, size_t bytes)
{
    struct cuda_backend *c = cuda_of(be);
    if (c->walk == CUDA_DRY) { /* there is nothing yet */
        c->trace.waits = true;
        memset(dst, 0, bytes);
        return ERR_OK;
    }
    return copy_and_wait(c, dst, src, bytes, cudaMemcpyDeviceToHost, c->stream);
}

void cuda_copy(struct backend *be, void *dst, const void *src, size_t bytes)
{
    struct cuda_backend *c = cuda_of(be);
    if (OP(c, "copy", AT(dst), AT(src), bytes))
        cuda_check(c, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToDevice, c->stream),
                   "copy");
}

void cuda_zero(struct backend *be, void *dst, size_t bytes)
{
    struct cuda_backend *c = cuda_of(be);
    if (OP(c, "zero", AT(dst), bytes))
        cuda_check(c, cudaMemsetAsync(dst, 0, bytes, c->stream), "zero");
}

/* ---- tables: host pointer -> device copy ---- */

/* Where `host` is, or the free place where it would be. */
static struct cuda_table *find(const struct cuda_backend *c, const void *host)
{
    size_t i = (size_t)((uintptr_t)host >> 4) * 0x9e3779b97f4a7c15u >> 20;
    for (;; i++) {
        struct cuda_table *t = &c->tables[i & (c->table_places - 1)];
        if (!t->host || t->host == host)
            return t;
    }
}

static enum err grow(struct cuda_backend *c)
{
    struct cuda_table *old = c->tables;
    size_t places = c->table_places;
    if (2 * c->table_count < places)
        return ERR_OK;
    struct cuda_table *grown = calloc(places ? 2 * places : 64, sizeof *grown);
    if (!grown)
        return err_set(ERR_NOMEM, "out of memory for a plan");
    c->tables = grown;
    c->table_places = places ? 2 * places : 64;
    for (size_t i = 0; i < places; i++)
        if (old[i].host)
            *find(c, old[i].host) = old[i];
    free(old);
    return ERR_OK;
}

enum err cuda_table_add(struct backend *be, const void *host, size_t bytes)
{
    struct cuda_backend *c = cuda_of(be);
    void *device;
    if (!host)
        return ERR_OK;
    enum err e = grow(c);
    if (e == ERR_OK)
        e = cuda_upload_bytes(c, host, bytes, &device);
    if (e == ERR_OK) {
        *find(c, host) = (struct cuda_table){host, device};
        c->table_count++;
    }
    return e;
}

void cuda_table_drop(struct backend *be, const void *host)
{
    struct cuda_backend *c = cuda_of(be);
    struct cuda_table *t = host && c->table_places ? find(c, host) : NULL;
    if (!t || !t->host)
        return;
    cuda_free(be, t->device);
    *t = (struct cuda_table){0};
    c->table_count--;
    /* Those behind it may have been pushed on by it: they look for their places again. */
    for (size_t i = (size_t)(t - c->tables) + 1;; i++) {
        struct cuda_table *next = &c->tables[i & (c->table_places - 1)], moved = *next;
        if (!moved.host)
            break;
        *next = (struct cuda_table){0};
        *find(c, moved.host) = moved;
    }
}

const void *cuda_table(struct cuda_backend *c, const void *host)
{
    const struct cuda_table *t = host && c->table_places ? find(c, host) : NULL;
    if (!host)
        return NULL;
    if (!t || !t->host)
        cuda_check(c, cudaErrorInvalidValue, "a table that the plan did not make known");
    return t ? t->device : NULL;
}

cuda_axis cuda_axis_of(struct cuda_backend *c, const struct resize_axis *a)
{
    cuda_axis axis = *a;
    union { /* the device's, which only kernels look into, and only read */
        const void *in;
        int *index;
        float *weight;
    } p = {.in = cuda_table(c, a->index)};
    axis.index = p.index;
    p.in = cuda_table(c, a->weight);
    axis.weight = p.weight;
    return axis;
}

void cuda_tables_close(struct cuda_backend *c)
{
    for (size_t i = 0; i < c->table_places; i++)
        cuda_free(&c->base, c->tables[i].device);
    free(c->tables);
}
