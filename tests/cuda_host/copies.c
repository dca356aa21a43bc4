/* Of the stand-in (cuda_runtime_api.h): copies in a stream's order. streams.h says what they ask.
 */
#include "cuda_runtime_api.h"

#include <stdlib.h>
#include <string.h>

enum { DEVICES_NOT_NAMED = -1 };

struct copy {
    void *dst;
    const void *src; /* NULL: memset */
    size_t dst_pitch, src_pitch, width, height;
    int value;
    int from, to; /* devices, where the call names them */
};

static void copy_rows(const struct copy *c)
{
    for (size_t y = 0; y < c->height; y++)
        memmove((char *)c->dst + y * c->dst_pitch, (const char *)c->src + y * c->src_pitch,
                c->width);
}

/* By way of the host: one device's memory is accessible at a time. */
static void copy_between(const struct copy *c)
{
    void *between = malloc(c->width);
    if (!between)
        abort();
    cuda_host_open_memory(c->from);
    memcpy(between, c->src, c->width);
    cuda_host_open_memory(c->to);
    memcpy(c->dst, between, c->width);
    free(between);
}

static void run_copy(void *args)
{
    const struct copy *c = args;
    if (!c->src)
        memset(c->dst, c->value, c->width);
    else if (c->from != DEVICES_NOT_NAMED)
        copy_between(c);
    else
        copy_rows(c);
}

/* ---- the default stream's, whose source is read at once and whose end is later ---- */

static struct late {
    void *dst, *bytes;
    size_t count;
    int device;
    struct late *next;
} * late;

void cuda_host_end_late_copies(void)
{
    while (late) {
        struct late *l = late;
        late = l->next;
        cuda_host_open_memory(l->device);
        memcpy(l->dst, l->bytes, l->count);
        free(l->bytes);
        free(l);
    }
}

static void add_late(void *dst, const void *src, size_t bytes)
{
    struct late *l = malloc(sizeof *l), **end = &late;
    void *copy = malloc(bytes + !bytes);
    if (!l || !copy)
        abort();
    memcpy(copy, src, bytes);
    while (*end)
        end = &(*end)->next;
    *l = (struct late){dst, copy, bytes, cuda_host_device(), NULL};
    *end = l;
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind)
{
    CUDA_HOST_LOCKED;
    int device;
    cudaError_t e = cuda_host_call();
    if (e == cudaSuccess)
        e = cuda_host_not_while_capturing();
    if (e != cudaSuccess)
        return cuda_host_set_error(e);
    if (kind == cudaMemcpyHostToDevice &&
        cuda_host_place(src, bytes, &device) != CUDA_HOST_PINNED) {
        add_late(dst, src, bytes);
        return cudaSuccess;
    }
    cuda_host_end_late_copies();
    cuda_host_open_memory(cuda_host_device());
    memmove(dst, src, bytes);
    return cudaSuccess;
}

/* ---- in a stream ---- */

static cudaError_t enqueue(struct copy c, cudaStream_t s)
{
    cudaError_t e = cuda_host_call();
    if (e != cudaSuccess)
        return e;
    struct copy *args = malloc(sizeof *args);
    if (!args)
        abort();
    *args = c;
    cuda_host_enqueue(s, run_copy, free, args);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t s)
{
    (void)kind;
    return enqueue((struct copy){dst, src, .width = bytes, .height = 1, .from = DEVICES_NOT_NAMED},
                   s);
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t bytes, cudaStream_t s)
{
    return enqueue((struct copy){p, NULL, .width = bytes, .value = value}, s);
}

cudaError_t cudaMemcpyPeerAsync(void *dst, int dst_device, const void *src, int src_device,
                                size_t bytes, cudaStream_t s)
{
    int to, from;
    if (!cuda_host_device_there(dst_device) || !cuda_host_device_there(src_device))
        return cudaErrorInvalidDevice;
    if (cuda_host_place(dst, bytes, &to) != CUDA_HOST_DEVICE || to != dst_device ||
        cuda_host_place(src, bytes, &from) != CUDA_HOST_DEVICE || from != src_device)
        return cudaErrorInvalidValue;
    return enqueue((struct copy){dst, src, .width = bytes, .from = from, .to = to}, s);
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch,
                              size_t width, size_t height, enum cudaMemcpyKind kind, cudaStream_t s)
{
    int device;
    if (dst_pitch < width || src_pitch < width)
        return cudaErrorInvalidPitchValue;
    if (kind != cudaMemcpyDeviceToDevice || width == 0 || height == 0)
        return cudaErrorInvalidValue; /* nobody makes others here */
    size_t to = (height - 1) * dst_pitch + width, from = (height - 1) * src_pitch + width;
    if (cuda_host_place(dst, to, &device) != CUDA_HOST_DEVICE || device != cuda_host_device())
        return cudaErrorInvalidValue;
    enum cuda_host_place place = cuda_host_place(src, from, &device);
    if (place == CUDA_HOST_PINNED || place == CUDA_HOST_BEYOND)
        return cudaErrorInvalidValue;
    return enqueue(
        (struct copy){dst, src, dst_pitch, src_pitch, width, height, .from = DEVICES_NOT_NAMED}, s);
}
