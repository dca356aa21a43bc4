/* Selective scan: the recurrence of a window's hidden state, with everything around it fused.
 *
 *   dt = softplus(W_dt d + dt_bias),  u = dt * b                          [token][D]
 *   S[n] = exp2(dt * a_log2e[n]) S[n] + u * B[n],  y = sum_n S[n] C[n]    [n][D], every token
 *   y = (y + skip * b) * SiLU(z)
 *
 * This is the head's largest cost: 472 M exponentials for a 480p frame. Channels are independent,
 * so a task is one window and one block of channels. It copies its columns of W_dt, a_log2e and S
 * into small arrays, a vector of channels after the other, and walks the window's rows in chunks of
 * tokens; for every vector of a chunk first dt and u, then the recurrence, then skip and gate. The
 * first and the last have no chain from token to token and keep their constants out of the
 * recurrence's registers. With AVX-512 and n = 16 the recurrence holds all of S in registers and
 * costs, per 16 states of one channel vector, nine operations on the multipliers (one for
 * dt * a, five for the polynomial, three for S and y) and three on the adders, beside them.
 *
 * Neither chunks nor tasks change the order of any sum: y adds its terms in four partial sums by
 * n mod 4, each in order. */
#include "kernels/cpu/simd.h"

enum {
    BLOCK = 64,        /* channels of a task: whole cache lines of each token's row */
    BLOCK_WIDE_N = 16, /* the same where n or R exceeds 64 */
    CHUNK = 32,        /* tokens between phases */
    PACKED = BLOCK_WIDE_N * SCAN_MAX_STATES / VL, /* vectors of S in a task, at most */
};

struct scan_task {
    const struct scan_weights *w;
    const struct scan_window *win;
    const void *b, *z;
    const float *dbc;
    size_t ld_dbc, ld_z;
    void *y;
};

/* A task's columns of W_dt, a_log2e and S: [vector of channels][R or n]. */
struct packed {
    vf dt_w[PACKED], a[PACKED], s[PACKED];
};

/* One vector of channels of a chunk: dt, u = dt * b, and y of each token. */
struct chunk {
    vf dt[CHUNK], u[CHUNK], y[CHUNK];
};

/* dt = softplus(W_dt d + bias) of `count` tokens; sums in order of R. */
INLINE void project(vf *dt, int count, const float *d, size_t ld, int rank, const vf *w, vf bias)
{
    vf sum[4];
    for (int t = 0; t < count; t++)
        sum[t] = bias;
    for (int i = 0; i < rank; i++)
        for (int t = 0; t < count; t++)
            sum[t] = vf_fma(w[i], vf_set(d[(size_t)t * ld + (size_t)i]), sum[t]);
    for (int t = 0; t < count; t++)
        dt[t] = vf_softplus(sum[t]);
}

INLINE void recur_any(struct chunk *k, int tokens, const float *bc, size_t ld_bc, int states,
                      const vf *a, vf *s)
{
    for (int t = 0; t < tokens; t++, bc += ld_bc) {
        vf dt = k->dt[t], u = k->u[t], y[4] = {{0}};
        for (int i = 0; i < states; i++) {
            s[i] = vf_fma(vf_exp2(dt * a[i]), s[i], u * vf_set(bc[i]));
            y[i & 3] = vf_fma(s[i], vf_set(bc[states + i]), y[i & 3]);
        }
        k->y[t] = (y[0] + y[1]) + (y[2] + y[3]);
    }
}

#if defined(__AVX512F__)
#define EACH_STATE(X)                                                                              \
    X(0, y0)                                                                                       \
    X(1, y1)                                                                                       \
    X(2, y2)                                                                                       \
    X(3, y3)                                                                                       \
    X(4, y0)                                                                                       \
    X(5, y1)                                                                                       \
    X(6, y2)                                                                                       \
    X(7, y3)                                                                                       \
    X(8, y0)                                                                                       \
    X(9, y1)                                                                                       \
    X(10, y2)                                                                                      \
    X(11, y3)                                                                                      \
    X(12, y0)                                                                                      \
    X(13, y1)                                                                                      \
    X(14, y2)                                                                                      \
    X(15, y3)
#define LOAD(i, y) vf s##i = s[i];
#define STEP(i, y)                                                                                 \
    s##i = vf_fma(vf_exp2_table(dt * a[i]), s##i, u * vf_set(bc[i]));                              \
    y = vf_fma(s##i, vf_set(bc[16 + i]), y);
#define STORE(i, y) s[i] = s##i;

/* recur_any for 16 states: the same operations in the same order, S in registers. */
INLINE void recur_16(struct chunk *k, int tokens, const float *bc, size_t ld_bc, const vf *a, vf *s)
{
    EACH_STATE(LOAD)
    for (int t = 0; t < tokens; t++, bc += ld_bc) {
        vf dt = k->dt[t], u = k->u[t], y0 = {0}, y1 = {0}, y2 = {0}, y3 = {0};
        EACH_STATE(STEP)
        k->y[t] = (y0 + y1) + (y2 + y3);
    }
    EACH_STATE(STORE)
}
#endif

/* A chunk of `tokens` rows from `row` on, channels c..c + n - 1. The next chunk of these channels
 * lies `ahead` rows further: a token's rows are kilobytes apart, so the hardware would not fetch
 * them in time. */
INLINE void scan_chunk(const struct scan_task *k, size_t row, int tokens, size_t ahead, size_t c,
                       size_t n, const vf *dt_w, const vf *a, vf *s, bool bf16)
{
    struct chunk chunk;
    size_t channels = (size_t)k->w->inner, ld = k->ld_dbc;
    int rank = k->w->dt_rank, t;
    const float *d = k->dbc + row * ld, *bc = d + rank;

    vf bias = vf_load_n(k->w->dt_bias + c, n);
    for (t = 0; t + 4 <= tokens; t += 4)
        project(chunk.dt + t, 4, d + (size_t)t * ld, ld, rank, dt_w, bias);
    for (; t < tokens; t++)
        project(chunk.dt + t, 1, d + (size_t)t * ld, ld, rank, dt_w, bias);
    for (t = 0; t < tokens; t++) {
        size_t at = (row + (size_t)t) * channels + c;
        chunk.u[t] = chunk.dt[t] * act_load(k->b, at, n, bf16);
        act_prefetch(k->b, at + ahead * channels, bf16);
        act_prefetch(k->z, (row + (size_t)t + ahead) * k->ld_z + c, bf16);
    }
#if defined(__AVX512F__)
    if (k->w->state == 16)
        recur_16(&chunk, tokens, bc, ld, a, s);
    else
#endif
        recur_any(&chunk, tokens, bc, ld, k->w->state, a, s);
    vf skip = vf_load_n(k->w->skip + c, n);
    for (t = 0; t < tokens; t++) {
        size_t at = (row + (size_t)t) * channels + c;
        vf y = vf_fma(skip, act_load(k->b, at, n, bf16), chunk.y[t]);
        vf z = act_load(k->z, (row + (size_t)t) * k->ld_z + c, n, bf16);
        act_store(k->y, at, y * vf_silu(z), n, bf16);
    }
}

/* Columns begin..end - 1 of a matrix [count][channels] into vectors, [vector][count]; and back. */
INLINE void pack(const float *from, size_t count, size_t channels, size_t begin, size_t end, vf *to)
{
    for (size_t c = begin; c < end; c += VL)
        for (size_t i = 0; i < count; i++)
            *to++ = vf_load_n(from + i * channels + c, (size_t)lanes(end - c));
}

INLINE void unpack(const vf *from, size_t count, size_t channels, size_t begin, size_t end,
                   float *to)
{
    for (size_t c = begin; c < end; c += VL)
        for (size_t i = 0; i < count; i++)
            vf_store_n(to + i * channels + c, *from++, (size_t)lanes(end - c));
}

/* Channels begin..end - 1 of the task's window. */
INLINE void scan_block(const struct scan_task *k, size_t begin, size_t end, bool bf16)
{
    const struct scan_window *win = k->win;
    size_t channels = (size_t)k->w->inner, states = (size_t)k->w->state;
    size_t rank = (size_t)k->w->dt_rank;
    struct packed p;

    pack(k->w->dt_w, rank, channels, begin, end, p.dt_w);
    pack(k->w->a_log2e, states, channels, begin, end, p.a);
    pack(win->state, states, channels, begin, end, p.s);
    for (int y = 0; y < win->h; y++)
        for (int x = 0; x < win->w; x += CHUNK) {
            int tokens = win->w - x < CHUNK ? win->w - x : CHUNK;
            int ahead = x + tokens < win->w ? CHUNK : y + 1 < win->h ? win->row_stride - x : 0;
            size_t row = (size_t)(win->row0 + y * win->row_stride + x), c = begin, v = 0;
            for (; c + VL <= end; c += VL, v++)
                scan_chunk(k, row, tokens, (size_t)ahead, c, VL, p.dt_w + v * rank,
                           p.a + v * states, p.s + v * states, bf16);
            if (c < end)
                scan_chunk(k, row, tokens, (size_t)ahead, c, end - c, p.dt_w + v * rank,
                           p.a + v * states, p.s + v * states, bf16);
        }
    unpack(p.s, states, channels, begin, end, win->state);
}

void KERNEL(selective_scan)(const struct scan_weights *w, const struct scan_window *windows,
                            int count, const void *b, const float *dbc, size_t ld_dbc,
                            const void *z, size_t ld_z, void *y, bool bf16)
{
    int wide = w->state > w->dt_rank ? w->state : w->dt_rank;
    int block = wide * BLOCK <= SCAN_MAX_STATES * BLOCK_WIDE_N ? BLOCK : BLOCK_WIDE_N;
    int blocks = (w->inner + block - 1) / block;
    long work = count ? (long)count * w->inner * w->state * windows[0].h * windows[0].w : 0;

#pragma omp parallel for schedule(dynamic) if (work >= PARALLEL_MIN)
    for (int i = 0; i < count * blocks; i++) {
        struct scan_task k = {w, &windows[i / blocks], b, z, dbc, ld_dbc, ld_z, y};
        int begin = i % blocks * block, end = begin + block < w->inner ? begin + block : w->inner;
        if (bf16)
            scan_block(&k, (size_t)begin, (size_t)end, true);
        else
            scan_block(&k, (size_t)begin, (size_t)end, false);
    }
}
