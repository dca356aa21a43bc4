/* What goes between host and device while frames run: pixels and tables up, labels down.
 *
 * Copies that do not wait need pinned memory, so everything goes through `struct cuda_stage`, of
 * which each batch under way has its own. The dry walk fills it, one copy sends all of it up
 * (batch.c); a later walk of the same batch finds the same places, since it asks in the same order.
 * Labels are collected in another one, come down in one copy, and are given to the caller by
 * `finish`.
 *
 * Pictures that a decoder made on a device are copied too, to a third that the device has alone: a
 * graph then finds them at addresses that repeat, and those on another device are here before a
 * kernel wants them. The dry walk notes them, the copies are made with that of the rest. */
#include "kernels/cuda/cuda.h"

#include "base/try.h"

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
    if (!s->device_alone)
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

/* `bytes` of both memories; *host is NULL where the device has it alone. ERR_NOMEM. */
static enum err get(struct cuda_backend *c, struct cuda_stage *s, size_t bytes, void **host,
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
    *host = s->device_alone ? NULL : s->host[last] + s->used;
    *device = s->device[last] + s->used;
    s->used += bytes;
    return ERR_OK;
}

static void close_stage(struct cuda_stage *s)
{
    for (int i = 0; i < s->blocks; i++) {
        if (!s->device_alone)
            cudaFreeHost(s->host[i]);
        cudaFree(s->device[i]);
    }
    s->blocks = 0;
    s->used = 0;
}

static enum err settle(struct cuda_backend *c, struct cuda_stage *s)
{
    size_t bytes = 0;
    if (s->blocks <= 1)
        return ERR_OK;
    for (int i = 0; i < s->blocks; i++)
        bytes += s->size[i];
    close_stage(s);
    return add_block(c, s, bytes);
}

void cuda_stages_open(struct cuda_flight *f)
{
    f->decoded.device_alone = true;
}

void cuda_stages_rewind(struct cuda_flight *f)
{
    f->in.used = f->out.used = f->decoded.used = 0;
}

enum err cuda_stages_settle(struct cuda_backend *c, struct cuda_flight *f)
{
    TRY(settle(c, &f->in));
    TRY(settle(c, &f->out));
    return settle(c, &f->decoded);
}

void cuda_stages_close(struct cuda_flight *f)
{
    close_stage(&f->in);
    close_stage(&f->out);
    close_stage(&f->decoded);
    free(f->pictures);
    free(f->answers);
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
    return get(c, &c->current->in, bytes, host, &device);
}

enum err cuda_staged_op(struct backend *be, const void *host, size_t bytes, const void **out)
{
    const struct cuda_stage *in = &cuda_of(be)->current->in;
    int last = in->blocks - 1;
    (void)bytes;
    *out = in->device[last] + ((const char *)host - in->host[last]);
    return ERR_OK;
}

static enum err place_pixels(struct cuda_backend *c, const uint8_t *pixels, ptrdiff_t stride,
                             size_t line, size_t lines, void **device)
{
    void *host;
    TRY(get(c, &c->current->in, line * lines, &host, device));
    for (size_t y = 0; c->walk == CUDA_DRY && y < lines; y++)
        memcpy((char *)host + y * line, pixels + (ptrdiff_t)y * stride, line);
    return ERR_OK;
}

/* Room for one more of `size` bytes behind `count`. */
static enum err grow(void **list, size_t count, size_t *places, size_t size)
{
    if (count < *places)
        return ERR_OK;
    size_t more = *places ? 2 * *places : 64;
    void *grown = realloc(*list, more * size);
    if (!grown)
        return err_set(ERR_NOMEM, "out of memory for a batch");
    *list = grown;
    *places = more;
    return ERR_OK;
}

static enum err add_picture(struct cuda_backend *c, struct cuda_picture p)
{
    struct cuda_flight *f = c->current;
    struct cudaPointerAttributes where = {.type = cudaMemoryTypeUnregistered};
    cudaError_t e = cudaPointerGetAttributes(&where, p.from);
    if (e == cudaErrorInvalidValue || (e == cudaSuccess && where.type != cudaMemoryTypeDevice)) {
        cudaGetLastError();
        return err_set(ERR_ARG, "a frame is not on the GPU where it is said to be");
    }
    cuda_check(c, e, "cudaPointerGetAttributes");
    TRY(cuda_result(c));
    void *list = f->pictures;
    TRY(grow(&list, f->picture_count, &f->picture_places, sizeof p));
    f->pictures = list;
    p.device = where.device;
    f->pictures[f->picture_count++] = p;
    return ERR_OK;
}

static enum err place_picture(struct cuda_backend *c, const uint8_t *pixels, size_t bytes,
                              void **device)
{
    void *none;
    TRY(get(c, &c->current->decoded, bytes, &none, device));
    return c->walk == CUDA_DRY
               ? add_picture(c,
                             (struct cuda_picture){.from = pixels, .to = *device, .bytes = bytes})
               : ERR_OK;
}

enum err cuda_preprocess_op(struct backend *be, const uint8_t *pixels, ptrdiff_t stride,
                            bool on_device, struct pixel_format format,
                            const struct resize_axis *rows, const struct resize_axis *cols,
                            float *out)
{
    struct cuda_backend *c = cuda_of(be);
    size_t line = pixels_row(format.layout, cols->src);
    size_t lines = pixels_rows(format.layout, rows->src);
    void *device;
    if (!c->current)
        return not_in_a_batch();
    TRY(on_device ? place_picture(c, pixels, line * lines, &device)
                  : place_pixels(c, pixels, stride, line, lines, &device));
    cuda_axis r = cuda_axis_of(c, rows), x = cuda_axis_of(c, cols);
    if (OP(c, "preprocess", AT(device), format.layout, format.matrix, format.full, AXIS(r), AXIS(x),
           AT(out)))
        cuda_check(c, cuda_preprocess(device, format, r, x, out, c->stream), "preprocess");
    return cuda_result(c);
}

static enum err add_answer(struct cuda_flight *f, struct cuda_answer a)
{
    void *list = f->answers;
    TRY(grow(&list, f->answer_count, &f->answer_places, sizeof a));
    f->answers = list;
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
    enum err e = get(c, &c->current->out, bytes, &host, &device);
    if (e == ERR_OK && c->walk == CUDA_DRY)
        e = add_answer(c->current, (struct cuda_answer){host, out, bytes});
    if (e != ERR_OK)
        return e;
    cuda_axis r = cuda_axis_of(c, rows), x = cuda_axis_of(c, cols);
    if (OP(c, "labels", AT(logits), (unsigned)classes, AXIS(r), AXIS(x), AT(device)))
        cuda_check(c, cuda_labels(logits, classes, r, x, device, c->stream), "labels");
    return cuda_result(c);
}
