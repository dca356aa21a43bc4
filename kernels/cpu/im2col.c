/* Patches of a channels-last map as rows of a matrix: convolutions become matrix products.
 *
 * A patch row (ky fixed) is one contiguous run of k * c elements of the input, clipped at the map's
 * left and right edges: a copy, with zeros where it hangs over. Elements are only moved, so bf16
 * and fp32 differ in their size alone. */
#include "kernels/cpu/simd.h"

struct patches {
    const char *in;
    int h, w, k, stride, pad;
    size_t pixel; /* bytes of one position: c * elem */
};

static void patch(const struct patches *p, int oy, int ox, char *out)
{
    int x = ox * p->stride - p->pad, left = x < 0 ? -x : 0;
    int right = x + p->k > p->w ? x + p->k - p->w : 0;
    size_t run = (size_t)p->k * p->pixel;

    if (left > p->k || right > p->k) /* only a kernel wider than the map can get here */
        left = p->k, right = 0;
    for (int ky = 0; ky < p->k; ky++, out += run) {
        int y = oy * p->stride - p->pad + ky, inside = p->k - left - right;
        if (y < 0 || y >= p->h || inside <= 0) {
            memset(out, 0, run);
            continue;
        }
        const char *from = p->in + ((size_t)y * (size_t)p->w + (size_t)(x + left)) * p->pixel;
        memset(out, 0, (size_t)left * p->pixel);
        memcpy(out + (size_t)left * p->pixel, from, (size_t)inside * p->pixel);
        memset(out + (size_t)(p->k - right) * p->pixel, 0, (size_t)right * p->pixel);
    }
}

void KERNEL(im2col)(const void *in, int h, int w, int c, int k, int stride, int pad, int oh, int ow,
                    int ld, int elem, void *out)
{
    struct patches p = {in, h, w, k, stride, pad, (size_t)c * (size_t)elem};
    size_t used = (size_t)(k * k) * p.pixel, row = (size_t)ld * (size_t)elem;

#pragma omp parallel for schedule(static) if ((long)oh * ow * ld >= PARALLEL_MIN)
    for (int oy = 0; oy < oh; oy++)
        for (int ox = 0; ox < ow; ox++) {
            char *to = (char *)out + ((size_t)oy * (size_t)ow + (size_t)ox) * row;
            patch(&p, oy, ox, to);
            memset(to + used, 0, row - used);
        }
}
