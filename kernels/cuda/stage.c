/* What goes between host and device while frames run: pixels and window tables up, labels down.
 *
 * Copies that do not wait need pinned memory, so everything goes through `struct cuda_stage`.
 * Pixels are copied into it row by row, sent on their own stream, and the arithmetic waits for
 * their event; labels leave on a third stream after the event of their kernel, and are given to the
 * caller by `sync`, which is the batch's one wait. */
#include "kernels/cuda/cuda.h"

#include <stdlib.h>
#include <string.h>

enum { STAGE_FIRST = 4 << 20, STAGE_ALIGN = 256 };

static enum err add_block(struct cuda_backend *c, struct cuda_stage *s, size_t bytes)
{
    void *host = NULL, *device;
    if (s->blocks == CUDA_STAGE_BLOCKS)
        return err_set(ERR_INTERNAL, "the staging memory has too many blocks");
    enum err e = cuda_alloc(&c->base, bytes, &device);
    if (e != ERR_OK)
        return e;
    if (cudaHostAlloc(&host, bytes, cudaHostAllocDefault) != cudaSuccess) {
        cudaGetLastError();
        cuda_free(&c->base, device);
        return err_set(ERR_NOMEM, "out of memory for %zu MB of pinned memory", bytes >> 20);
    }
    s->host[s->blocks] = host;
    s->device[s->blocks] = device;
    s->size[s->blocks++] = bytes;
    s->used = 0;
    return ERR_OK;
}

enum err cuda_stage_get(struct cuda_backend *c, struct cuda_stage *s, size_t bytes, void **host,
                        void **device)
{
    int last = s->blocks - 1;
    bytes = (bytes + STAGE_ALIGN - 1) / STAGE_ALIGN * STAGE_ALIGN;
    if (last < 0 || s->used + bytes > s->size[last]) {
        size_t size = last < 0 ? STAGE_FIRST : 2 * s->size[last];
        enum err e = add_block(c, s, bytes > size ? bytes : size);
        if (e != ERR_OK)
            return e;
        last = s->blocks - 1;
    }
    *host = s->host[last] + s->used;
    *device = s->device[last] + s->used;
    s->used += bytes;
    return ERR_OK;
}

void cuda_stage_close(struct cuda_stage *s)
{
    for (int i = 0; i < s->blocks; i++) {
        cudaFreeHost(s->host[i]);
        cudaFree(s->device[i]);
    }
    s->blocks = 0;
    s->used = 0;
}

/* The device is idle: all is free, and blocks become one. */
static void settle(struct cuda_backend *c, struct cuda_stage *s)
{
    size_t bytes = 0;
    s->used = 0;
    if (s->blocks <= 1)
        return;
    for (int i = 0; i < s->blocks; i++)
        bytes += s->size[i];
    cuda_stage_close(s);
    (void)add_block(c, s, bytes); /* cuda_stage_get tries again, and reports */
}

enum err cuda_stage_op(struct backend *be, size_t bytes, void **host)
{
    struct cuda_backend *c = cuda_of(be);
    void *device;
    return cuda_stage_get(c, &c->in, bytes, host, &device);
}

enum err cuda_staged_op(struct backend *be, const void *host, size_t bytes, const void **out)
{
    struct cuda_backend *c = cuda_of(be);
    int last = c->in.blocks - 1;
    char *device = c->in.device[last] + ((const char *)host - c->in.host[last]);
    cuda_check(c, cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, c->stream), "stage");
    *out = device;
    return cuda_result(c);
}

enum err cuda_preprocess_op(struct backend *be, const uint8_t *rgb, ptrdiff_t stride,
                            const struct resize_axis *rows, const struct resize_axis *cols,
                            float *out)
{
    struct cuda_backend *c = cuda_of(be);
    size_t line = 3 * (size_t)cols->src, height = (size_t)rows->src;
    void *host, *device;
    enum err e = cuda_stage_get(c, &c->in, line * height, &host, &device);
    if (e != ERR_OK)
        return e;
    for (size_t y = 0; y < height; y++)
        memcpy((char *)host + y * line, rgb + (ptrdiff_t)y * stride, line);
    cuda_check(c, cudaMemcpyAsync(device, host, line * height, cudaMemcpyHostToDevice, c->up),
               "pixels");
    cuda_check(c, cudaEventRecord(c->uploaded, c->up), "pixels");
    cuda_check(c, cudaStreamWaitEvent(c->stream, c->uploaded, 0), "pixels");
    cuda_check(
        c,
        cuda_preprocess(device, line, cuda_axis_of(c, rows), cuda_axis_of(c, cols), out, c->stream),
        "preprocess");
    return cuda_result(c);
}

static enum err add_answer(struct cuda_backend *c, struct cuda_answer a)
{
    if (c->answer_count == c->answer_places) {
        size_t places = c->answer_places ? 2 * c->answer_places : 64;
        struct cuda_answer *grown = realloc(c->answers, places * sizeof *grown);
        if (!grown)
            return err_set(ERR_NOMEM, "out of memory for a batch");
        c->answers = grown;
        c->answer_places = places;
    }
    c->answers[c->answer_count++] = a;
    return ERR_OK;
}

enum err cuda_labels_op(struct backend *be, const float *logits, int classes,
                        const struct resize_axis *rows, const struct resize_axis *cols,
                        uint8_t *out)
{
    struct cuda_backend *c = cuda_of(be);
    size_t bytes = (size_t)rows->dst * (size_t)cols->dst;
    void *host, *device;
    enum err e = cuda_stage_get(c, &c->out, bytes, &host, &device);
    if (e == ERR_OK)
        e = add_answer(c, (struct cuda_answer){host, out, bytes});
    if (e != ERR_OK)
        return e;
    cuda_check(c,
               cuda_labels(logits, classes, cuda_axis_of(c, rows), cuda_axis_of(c, cols), device,
                           c->stream),
               "labels");
    cuda_check(c, cudaEventRecord(c->labelled, c->stream), "labels");
    cuda_check(c, cudaStreamWaitEvent(c->down, c->labelled, 0), "labels");
    cuda_check(c, cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, c->down), "labels");
    return cuda_result(c);
}

enum err cuda_sync(struct backend *be)
{
    struct cuda_backend *c = cuda_of(be);
    cuda_check(c, cudaEventRecord(c->labelled, c->stream), "the batch's end");
    cuda_check(c, cudaStreamWaitEvent(c->down, c->labelled, 0), "the batch's end");
    cuda_check(c, cudaStreamSynchronize(c->down), "the batch's kernels"); /* it waits for all */
    for (size_t i = 0; c->failed == cudaSuccess && i < c->answer_count; i++)
        memcpy(c->answers[i].to, c->answers[i].from, c->answers[i].bytes);
    c->answer_count = 0;
    if (c->failed == cudaSuccess) {
        settle(c, &c->in);
        settle(c, &c->out);
    }
    return cuda_result(c);
}
