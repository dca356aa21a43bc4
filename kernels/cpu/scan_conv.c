/* Causal depthwise convolution along a window's tokens, then SiLU: the scan's input.
 *
 *   b_t = SiLU(bias + sum_{j < k} w[j] * a_{t-k+1+j})           (MODEL.md 3.3)
 *
 * A task is one window and one block of channels; each vector of channels walks all the window's
 * tokens with the last k - 1 inputs in registers (k = 4, every published model) or, for other k,
 * in the window's own tail, which is a shift register in the first-level cache. Either way the tail
 * is up to date at the end, so that the next frame goes on where this one stopped. Moves one read
 * of a and one write of b. */
#include "kernels/cpu/simd.h"

enum { BLOCK = 64 }; /* channels of a task: whole cache lines of each token's row */

struct conv_task {
    const struct scan_weights *w;
    const struct scan_window *win;
    const void *a;
    size_t ld_a;
    void *b;
};

INLINE void conv4_vector(const struct conv_task *k, size_t c, size_t n, bool bf16)
{
    const struct scan_window *win = k->win;
    size_t d = (size_t)k->w->inner;
    vf w0 = vf_load_n(k->w->conv_w + c, n), w1 = vf_load_n(k->w->conv_w + d + c, n);
    vf w2 = vf_load_n(k->w->conv_w + 2 * d + c, n), w3 = vf_load_n(k->w->conv_w + 3 * d + c, n);
    vf bias = vf_load_n(k->w->conv_b + c, n);
    vf a0 = vf_load_n(win->tail + c, n), a1 = vf_load_n(win->tail + d + c, n);
    vf a2 = vf_load_n(win->tail + 2 * d + c, n);

    for (int y = 0; y < win->h; y++) {
        size_t row = (size_t)(win->row0 + y * win->row_stride);
        for (int x = 0; x < win->w; x++, row++) {
            vf a3 = act_load(k->a, row * k->ld_a + c, n, bf16);
            vf sum = vf_fma(w0, a0, bias);
            sum = vf_fma(w1, a1, sum);
            sum = vf_fma(w2, a2, sum);
            sum = vf_fma(w3, a3, sum);
            act_store(k->b, row * d + c, vf_silu(sum), n, bf16);
            a0 = a1;
            a1 = a2;
            a2 = a3;
        }
    }
    vf_store_n(win->tail + c, a0, n);
    vf_store_n(win->tail + d + c, a1, n);
    vf_store_n(win->tail + 2 * d + c, a2, n);
}

INLINE void conv_any_vector(const struct conv_task *k, size_t c, size_t n, bool bf16)
{
    const struct scan_window *win = k->win;
    size_t d = (size_t)k->w->inner, last = (size_t)k->w->conv - 1;
    const float *w = k->w->conv_w + c;
    float *tail = win->tail + c;

    for (int y = 0; y < win->h; y++) {
        size_t row = (size_t)(win->row0 + y * win->row_stride);
        for (int x = 0; x < win->w; x++, row++) {
            vf now = act_load(k->a, row * k->ld_a + c, n, bf16);
            vf sum = vf_load_n(k->w->conv_b + c, n);
            for (size_t j = 0; j < last; j++) {
                vf a = vf_load_n(tail + j * d, n);
                sum = vf_fma(vf_load_n(w + j * d, n), a, sum);
                if (j > 0)
                    vf_store_n(tail + (j - 1) * d, a, n);
            }
            sum = vf_fma(vf_load_n(w + last * d, n), now, sum);
            if (last > 0)
                vf_store_n(tail + (last - 1) * d, now, n);
            act_store(k->b, row * d + c, vf_silu(sum), n, bf16);
        }
    }
}

INLINE void conv_block(const struct conv_task *k, size_t begin, size_t end, bool bf16)
{
    for (size_t c = begin; c < end; c += VL) {
        size_t n = (size_t)lanes(end - c);
        if (k->w->conv != 4)
            conv_any_vector(k, c, n, bf16);
        else if (n == VL)
            conv4_vector(k, c, VL, bf16);
        else
            conv4_vector(k, c, n, bf16);
    }
}

void KERNEL(scan_conv)(const struct scan_weights *w, const struct scan_window *windows, int count,
                       const void *a, size_t ld_a, void *b, bool bf16)
{
    int blocks = (w->inner + BLOCK - 1) / BLOCK;
    long work = (long)count * w->inner * (count ? windows[0].h * windows[0].w : 0);

#pragma omp parallel for schedule(dynamic) if (work >= PARALLEL_MIN)
    for (int i = 0; i < count * blocks; i++) {
        struct conv_task k = {w, &windows[i / blocks], a, ld_a, b};
        size_t begin = (size_t)(i % blocks) * BLOCK, end = begin + BLOCK;
        if (end > (size_t)w->inner)
            end = (size_t)w->inner;
        if (bf16)
            conv_block(&k, begin, end, true);
        else
            conv_block(&k, begin, end, false);
    }
}
