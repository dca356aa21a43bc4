/* NV12's numbers to RGB, as swscale has them: plain C, so that a test can try all that there are.
 *
 * Pictures that stay on the host become RGB by swscale, bilinear chroma and exact rounding
 * (media/picture.c). A mask must not depend on which of the two it was, so this is the same
 * function, found by trying the library and held against it over every (Y, U, V), matrix and range
 * and over whole pictures (tests/unit/test_cuda_nv12.c): no level differs.
 *
 *   chroma of a pixel: 3/4 of the nearest column's and 1/4 of the next nearest's; of an odd row its
 *   own chroma row's, of an even row the mean of that and the one above. The first row has its own
 *   alone, the last is as even ones are. So it is a sum of eight bytes, 2^-3 each.
 *
 *   R = (y (Y - black) + rv (V - 128)) 2^-22, rounded, in 32 bits: Y, U, V have 9 bits behind
 *   the point, the factors 13. Beyond 2^31, which takes chroma that no camera gives, it is below 0.
 */
#ifndef TV3S_KERNELS_CUDA_YUV_H
#define TV3S_KERNELS_CUDA_YUV_H

#include "base/pixels.h"

#include <stdint.h>

#ifdef __CUDACC__
#define YUV_FUNCTION __device__ __forceinline__
#else
#define YUV_FUNCTION static inline
#endif

struct yuv {
    int black, y;       /* of luma, black with 9 bits behind the point */
    int rv, gv, gu, bu; /* what of V and U is in R, G, B */
};

static inline struct yuv yuv_of(struct pixel_format f)
{
    /* From the standards' Kr and Kb; narrow chroma spans 224 levels. */
    static const struct yuv table[YUV_MATRICES][2] = {
        {{8192, 9539, 13075, -6660, -3209, 16525}, {0, 8192, 11485, -5850, -2819, 14516}},
        {{8192, 9539, 14686, -4366, -1747, 17305}, {0, 8192, 12901, -3835, -1534, 15201}},
        {{8192, 9539, 13752, -5328, -1535, 17545}, {0, 8192, 12080, -4680, -1348, 15412}},
    };
    return table[f.matrix][f.full];
}

YUV_FUNCTION int yuv_level(int luma, int chroma)
{
    int v = (int)((unsigned)luma + (unsigned)chroma);
    return v < 0 ? 0 : v >> 22 > 255 ? 255 : v >> 22;
}

/* u, v: the sums of eight. */
YUV_FUNCTION void yuv_to_rgb(const struct yuv *m, int y, int u, int v, int rgb[3])
{
    int luma = (y * 512 - m->black) * m->y + (1 << 21);
    u = (u - 1024) * 64;
    v = (v - 1024) * 64;
    rgb[0] = yuv_level(luma, v * m->rv);
    rgb[1] = yuv_level(luma, v * m->gv + u * m->gu);
    rgb[2] = yuv_level(luma, u * m->bu);
}

/* Pixel (x, y) of an NV12 picture of packed rows. */
YUV_FUNCTION void yuv_pixel(const uint8_t *luma, int width, int height, const struct yuv *m, int y,
                            int x, int rgb[3])
{
    int row = y / 2, above = (y % 2 == 1 && y != height - 1) || row == 0 ? row : row - 1;
    int near = x / 2, last = width / 2 - 1;
    int next = x % 2 ? (near < last ? near + 1 : last) : (near > 0 ? near - 1 : 0);
    const uint8_t *chroma = luma + (size_t)height * (size_t)width;
    const uint8_t *a = chroma + (size_t)above * (size_t)width;
    const uint8_t *b = chroma + (size_t)row * (size_t)width;
    int u = 3 * (a[2 * near] + b[2 * near]) + a[2 * next] + b[2 * next];
    int v = 3 * (a[2 * near + 1] + b[2 * near + 1]) + a[2 * next + 1] + b[2 * next + 1];
    yuv_to_rgb(m, luma[(size_t)y * (size_t)width + (size_t)x], u, v, rgb);
}

#endif
