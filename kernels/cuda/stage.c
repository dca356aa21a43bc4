/* What goes between host and device while frames run: pixels and tables up, labels down.
 *
 * Copies that do not wait need pinned memory, so everything goes through `struct cuda_stage`, of
 * which each batch under way has a pair. The dry walk fills it, one copy sends all of it up
 * (batch.c); a later walk of the same batch finds the same places, since it asks in the same order.
 * Labels are collected in the other one, come down in one copy, and are given to the caller by
 * `finish`. */
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
    e = cuda_pinned(c, bytes, &host);
    if (e != ERR_OK) {
        cuda_free(&c->base, device);
        return e;
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

enum err cuda_stage_settle(struct cuda_backend *c, struct cuda_stage *s)
{
    size_t bytes = 0;
    if (s->blocks <= 1)
        return ERR_OK;
    for (int i = 0; i < s->blocks; i++)
        bytes += s->size[i];
    cuda_stage_close(s);
    return add_block(c, s, bytes);
}

static enum err not_in_a_batch(void)
{
    return err_set(ERR_INTERNAL, "staging memory is a batch's");
}

enum err cuda_stage_op(struct backend *be, size_t bytes, void **host)
{
    struct cuda_backend *c = cuda_of(be);
    void *device;
    if (!c->current)
        return not_in_a_batch();
    return cuda_stage_get(c, &c->current->in, bytes, host, &device);
}

enum err cuda_staged_op(struct backend *be, const void *host, size_t bytes, const void **out)
{
    const struct cuda_stage *in = &cuda_of(be)->current->in;
    int last = in->blocks - 1;
    (void)bytes;
    *out = in->device[last] + ((const char *)host - in->host[last]);
    return ERR_OK;
}

enum err cuda_preprocess_op(struct backend *be, const uint8_t *pixels, ptrdiff_t stride,
                            struct pixel_format format, const struct resize_axis *rows,
                            const struct resize_axis *cols, float *out)
{
    struct cuda_backend *c = cuda_of(be);
    size_t line = pixels_row(format.layout, cols->src);
    size_t lines = pixels_rows(format.layout, rows->src);
    void *host, *device;
    if (!c->current)
        return not_in_a_batch();
    enum err e = cuda_stage_get(c, &c->current->in, line * lines, &host, &device);
    if (e != ERR_OK)
        return e;
    for (size_t y = 0; c->walk == CUDA_DRY && y < lines; y++)
        memcpy((char *)host + y * line, pixels + (ptrdiff_t)y * stride, line);
    cuda_axis r = cuda_axis_of(c, rows), x = cuda_axis_of(c, cols);
    if (OP(c, "preprocess", AT(device), format.layout, format.matrix, format.full, AXIS(r), AXIS(x),
           AT(out)))
        cuda_check(c, cuda_preprocess(device, format, r, x, out, c->stream), "preprocess");
    return cuda_result(c);
}

static enum err add_answer(struct cuda_flight *f, struct cuda_answer a)
{
    if (f->answer_count == f->answer_places) {
        size_t places = f->answer_places ? 2 * f->answer_places : 64;
        struct cuda_answer *grown = realloc(f->answers, places * sizeof *grown);
        if (!grown)
            return err_set(ERR_NOMEM, "out of memory for a batch");
        f->answers = grown;
        f->answer_places = places;
    }
    f->answers[f->answer_count++] = a;
    return ERR_OK;
}

enum err cuda_labels_op(struct backend *be, const float *logits, int classes,
                        const struct resize_axis *rows, const struct resize_axis *cols,
                        uint8_t *out)
{
    struct cuda_backend *c = cuda_of(be);
    size_t bytes = (size_t)rows->dst * (size_t)cols->dst;
    void *host, *device;
    if (!c->current)
        return not_in_a_batch();
    enum err e = cuda_stage_get(c, &c->current->out, bytes, &host, &device);
    if (e == ERR_OK && c->walk == CUDA_DRY)
        e = add_answer(c->current, (struct cuda_answer){host, out, bytes});
    if (e != ERR_OK)
        return e;
    cuda_axis r = cuda_axis_of(c, rows), x = cuda_axis_of(c, cols);
    if (OP(c, "labels", AT(logits), (unsigned)classes, AXIS(r), AXIS(x), AT(device)))
        cuda_check(c, cuda_labels(logits, classes, r, x, device, c->stream), "labels");
    return cuda_result(c);
}
