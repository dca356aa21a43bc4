/* NV12 pictures in memory of a device, as a decoder there leaves them: shared by
 * test_cuda_device_*.c. */
#ifndef TV3S_TESTS_DEVICE_PICTURES_H
#define TV3S_TESTS_DEVICE_PICTURES_H

#include "kernels/device_memory.h"

#include <cuda_runtime_api.h>

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <setjmp.h>

#include <cmocka.h>

enum { WIDTH = 64, HEIGHT = 48, NV12 = WIDTH * HEIGHT * 3 / 2 };

/* A picture of clip `seed`: noise that differs from frame to frame. */
static inline void picture(uint8_t *nv12, int seed, int t)
{
    unsigned x = (unsigned)(seed * 100 + t) * 2654435761u + 12345;
    for (int i = 0; i < NV12; i++) {
        x = x * 1664525u + 1013904223u;
        nv12[i] = (uint8_t)(x >> 24);
    }
}

static inline void said(enum err got, enum err want)
{
    if (got != want)
        fail_msg("%d instead of %d: %s", (int)got, (int)want, got == ERR_OK ? "" : err_text());
}

static inline struct device_memory *memory(int device, size_t bytes, int *fd)
{
    struct device_memory *m;
    said(device_memory_open(device, bytes, fd, &m), ERR_OK);
    assert_int_equal(device_memory_bytes(m), bytes);
    return m;
}

/* A decoder's surface: rows further apart than they are long, the planes apart too. */
struct surface {
    uint8_t *at;
    struct device_nv12 nv12;
};

static inline struct surface surface_of(int device, const uint8_t *nv12)
{
    enum { PITCH = 96, CHROMA_PITCH = 80 };
    struct surface s;
    assert_int_equal(cudaSetDevice(device), cudaSuccess);
    assert_int_equal(cudaMalloc((void **)&s.at, PITCH * HEIGHT + 128 + CHROMA_PITCH * HEIGHT / 2),
                     cudaSuccess);
    uint8_t *chroma = s.at + PITCH * HEIGHT + 128;
    s.nv12 = (struct device_nv12){{s.at, chroma}, {PITCH, CHROMA_PITCH}, WIDTH, HEIGHT};
    for (int y = 0; y < HEIGHT; y++)
        assert_int_equal(
            cudaMemcpy(s.at + y * PITCH, nv12 + y * WIDTH, WIDTH, cudaMemcpyHostToDevice),
            cudaSuccess);
    for (int y = 0; y < HEIGHT / 2; y++)
        assert_int_equal(cudaMemcpy(chroma + y * CHROMA_PITCH, nv12 + (HEIGHT + y) * WIDTH, WIDTH,
                                    cudaMemcpyHostToDevice),
                         cudaSuccess);
    return s;
}

static inline void put(struct device_memory *m, int device, size_t offset, const uint8_t *nv12)
{
    struct surface s = surface_of(device, nv12);
    said(device_memory_put(m, offset, &s.nv12), ERR_OK);
    assert_int_equal(cudaFree(s.at), cudaSuccess);
}

#endif
