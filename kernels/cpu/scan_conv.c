/* Causal depthwise convolution along a window's tokens, then SiLU: the scan's input.
 *
 *   b_t = SiLU(bias + sum_{j < k} w[j] * a_{t-k+1+j})           (MODEL.md 3.3)
 *
 * A task is one window and one block of channels. It walks the window's rows, and in a row each
 * vector of channels walks the tokens with the last k - 1 inputs in registers (k = 4, every
 * published model) or, for other k, in the window's own tail, which is a shift register in the
 * first-level cache. Either way the tail is up to date at the end of every row, so that the next
 * row, or frame, goes on where this one stopped. Moves one read of a and one write of b.
 *
 * Tokens go side by side through SiLU, which is a long chain: 7200 x 512 in bf16 take a Zen 5 core
 * 0.74 ms, token by token 1.04. */
#include "kernels/cpu/simd.h"

enum {
    BLOCK = 64, /* channels of a task: whole cache lines of each token's row */
    SIDE = 4,   /* tokens side by side */
};

struct conv_task {
    const struct scan_weights *w;
    const struct scan_window *win;
    const void *a;
    size_t ld_a;
    void *b;
};

/* What slides along a row of one vector of channels: the weights, the last three inputs. */
struct slide {
    vf w[4], bias, a[3];
};

/* `count` tokens from `row` on, channels c..c + n - 1; the next row's lie `ahead` elements on. */
INLINE void conv4(const struct conv_task *k, struct slide *s, size_t row, size_t c, size_t n,
                  int count, size_t ahead, bool bf16)
{
    size_t at = row * k->ld_a + c, to = row * (size_t)k->w->inner + c;
    vf sum[SIDE];
    for (int i = 0; i < count; i++, at += k->ld_a) {
        vf now = act_load(k->a, at, n, bf16);
        act_prefetch(k->a, at + ahead, bf16);
        sum[i] = vf_fma(s->w[0], s->a[0], s->bias);
        sum[i] = vf_fma(s->w[1], s->a[1], sum[i]);
        sum[i] = vf_fma(s->w[2], s->a[2], sum[i]);
        sum[i] = vf_fma(s->w[3], now, sum[i]);
        s->a[0] = s->a[1];
        s->a[1] = s->a[2];
        s->a[2] = now;
    }
    vfs_silu(sum, count, bf16);
    for (int i = 0; i < count; i++, to += (size_t)k->w->inner)
        act_store(k->b, to, sum[i], n, bf16);
}

/* Window row y, channels c..c + n - 1. */
INLINE void conv4_row(const struct conv_task *k, int y, size_t c, size_t n, bool bf16)
{
    const struct scan_window *win = k->win;
    size_t d = (size_t)k->w->inner, row = (size_t)(win->row0 + y * win->row_stride);
    size_t ahead = y + 1 < win->h ? (size_t)win->row_stride * k->ld_a : 0;
    float *tail = win->tail + c;
    struct slide s;
    int x = 0;
    for (size_t i = 0; i < 4; i++)
        s.w[i] = vf_load_n(k->w->conv_w + i * d + c, n);
    s.bias = vf_load_n(k->w->conv_b + c, n);
    for (size_t i = 0; i < 3; i++)
        s.a[i] = vf_load_n(tail + i * d, n);
    for (; x + SIDE <= win->w; x += SIDE)
        conv4(k, &s, row + (size_t)x, c, n, SIDE, ahead, bf16);
    for (; x < win->w; x++)
        conv4(k, &s, row + (size_t)x, c, n, 1, ahead, bf16);
    for (size_t i = 0; i < 3; i++)
        vf_store_n(tail + i * d, s.a[i], n);
}

INLINE void conv_any_row(const struct conv_task *k, int y, size_t c, size_t n, bool bf16)
{
    const struct scan_window *win = k->win;
    size_t d = (size_t)k->w->inner, row = (size_t)(win->row0 + y * win->row_stride);
    size_t last = (size_t)k->w->conv - 1;
    const float *w = k->w->conv_w + c;
    float *tail = win->tail + c;

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
        vfs_silu(&sum, 1, bf16);
        act_store(k->b, row * d + c, sum, n, bf16);
    }
}

/* Channels begin..end - 1 of the task's window. */
INLINE void conv_block(const struct conv_task *k, size_t begin, size_t end, bool bf16)
{
    for (int y = 0; y < k->win->h; y++)
        for (size_t c = begin; c < end; c += VL) {
            size_t n = (size_t)lanes(end - c);
            if (k->w->conv != 4)
                conv_any_row(k, y, c, n, bf16);
            else if (n == VL)
                conv4_row(k, y, c, VL, bf16);
            else
                conv4_row(k, y, c, n, bf16);
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
