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
 * recurrence's registers. With AVX-512 and n = 16 the recurrence goes over a chunk twice, with half
 * of S in registers each time, four states side by side: all 16 leave too few registers for more
 * than one at a time, and a core does not look far enough ahead to find the next by itself. It
 * costs, per state of a channel vector, seven operations on the multipliers (one for dt * a, three
 * for the exponential, three for S and y) and six on other units beside them. That is where the
 * chunk has no dt * a beyond 100, which is looked up before; elsewhere recur_any does it.
 *
 * On a Zen 5 core in bf16 a token's vector of channels takes about 62 cycles in the recurrence, 21
 * before and 10 after it; a state after the other, with all 16 in registers, it was 71, 30 and 15.
 *
 * Neither chunks nor tasks change the order of any sum; which way a chunk goes, its own values say.
 */
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

/* dt = softplus(W_dt d + bias) of `count` <= MANY tokens; sums in order of R. */
INLINE void project(vf *dt, int count, const float *d, size_t ld, int rank, const vf *w, vf bias,
                    bool bf16)
{
    vf sum[MANY];
    EACH (t, count)
        sum[t] = bias;
    for (int i = 0; i < rank; i++)
        EACH (t, count)
            sum[t] = vf_fma(w[i], vf_set(d[(size_t)t * ld + (size_t)i]), sum[t]);
    vfs_softplus(sum, count, bf16);
    EACH (t, count)
        dt[t] = sum[t];
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
enum { FOUR = 4, HALF = 8 }; /* states side by side, states in registers */

/* e = 2^(dt * a) of four states, for |dt * a| <= 100: 2^(i / 32) of a table and degree 2. The error
 * is 3e-7 at most, but that of rounding near 0, where the table gives 1 and the polynomial has the
 * slope of 2^x: a slow decay multiplies a state a thousand times, so an error of one sign adds up
 * (cut downwards instead of to the nearest 32nd, its 8e-8 made the logits' error four times as
 * large). The table lacks i in its bits from 18 on, where a float's exponent follows the first five
 * bits of its mantissa: the whole count of 32nds added there makes it 2^(count / 32) in one step,
 * on the integers' units. */
INLINE void decay(vf *e, vf dt, const vf *a)
{
    const vi low = {0x3f800000, 0x3f7ecd87, 0x3f7daac3, 0x3f7c980f, 0x3f7b95c2, 0x3f7aa43a,
                    0x3f79c3d3, 0x3f78f4f0, 0x3f7837f0, 0x3f778d3a, 0x3f76f532, 0x3f767043,
                    0x3f75fed7, 0x3f75a15b, 0x3f75583f, 0x3f7523f6};
    const vi high = {0x3f7504f3, 0x3f74fbaf, 0x3f7508a4, 0x3f752c4d, 0x3f75672a, 0x3f75b9be,
                     0x3f76248c, 0x3f76a81e, 0x3f7744fd, 0x3f77fbb8, 0x3f78ccdf, 0x3f79b907,
                     0x3f7ac0c7, 0x3f7be4ba, 0x3f7d257d, 0x3f7e83b3};
    const vf shift = vf_set(0x1.8p18f); /* x + shift: the last bits count 32nds */
    vf x[FOUR], n[FOUR], t[FOUR], p[FOUR];
    EACH (i, FOUR)
        x[i] = dt * a[i];
    EACH (i, FOUR)
        n[i] = x[i] + shift;
    EACH (i, FOUR)
        t[i] = (vf)((vi)_mm512_permutex2var_epi32((__m512i)low, (__m512i)n[i], (__m512i)high) +
                    ((vi)n[i] << 18)); /* the bits above shift out */
    EACH (i, FOUR)
        x[i] -= n[i] - shift;
    EACH (i, FOUR)
        p[i] = vf_fma(x[i], vf_set(0x1.ebfbe0p-3f), vf_set(0x1.62e430p-1f));
    EACH (i, FOUR)
        e[i] = vf_fma(x[i] * t[i], p[i], t[i]);
}

/* Half of the 16 states, in registers; y: what the other half gave, or zeros. */
INLINE void recur_half(struct chunk *k, int tokens, const float *bc, size_t ld_bc, const vf *a,
                       vf *states, bool add)
{
    vf s[HALF], e[FOUR], u[FOUR];
    EACH (i, HALF)
        s[i] = states[i];
    for (int t = 0; t < tokens; t++, bc += ld_bc) {
        vf y[2] = {add ? k->y[t] : vf_set(0.0f), {0}};
        for (int j = 0; j < HALF; j += FOUR) {
            decay(e, k->dt[t], a + j);
            EACH (i, FOUR)
                u[i] = k->u[t] * vf_set(bc[i + j]);
            EACH (i, FOUR)
                s[i + j] = vf_fma(e[i], s[i + j], u[i]);
            EACH (i, FOUR)
                y[i & 1] = vf_fma(s[i + j], vf_set(bc[2 * HALF + i + j]), y[i & 1]);
        }
        k->y[t] = y[0] + y[1];
    }
    EACH (i, HALF)
        states[i] = s[i];
}

/* Whether |dt * a| <= 100 for all tokens and 16 states; false where dt is not a number. */
INLINE bool decay_holds(const struct chunk *k, int tokens, const vf *a)
{
    vf dt = {0}, most = {0};
    EACH (i, 2 * HALF)
        most = vf_max(most, vf_max(a[i], -a[i]));
    EACH (t, tokens)
        dt = vf_max(dt, k->dt[t]);
    return _mm512_cmp_ps_mask((__m512)(dt * most), _mm512_set1_ps(100.0f), _CMP_LE_OQ) == 0xffff;
}
#endif

/* S and y of a chunk. */
INLINE void recur(struct chunk *k, int tokens, const float *bc, size_t ld_bc, int states,
                  const vf *a, vf *s)
{
#if defined(__AVX512F__)
    if (states == 2 * HALF && decay_holds(k, tokens, a)) {
        recur_half(k, tokens, bc, ld_bc, a, s, false);
        recur_half(k, tokens, bc + HALF, ld_bc, a + HALF, s + HALF, true);
        return;
    }
#endif
    recur_any(k, tokens, bc, ld_bc, states, a, s);
}

/* Skip and gate: what a chunk's `count` <= MANY tokens from the t-th on give. */
INLINE void gate(const struct scan_task *k, const struct chunk *chunk, int t, int count, size_t row,
                 size_t c, size_t n, bool bf16)
{
    vf z[MANY], skip = vf_load_n(k->w->skip + c, n);
    size_t channels = (size_t)k->w->inner, at = (row + (size_t)t) * channels + c;
    EACH (i, count)
        z[i] = act_load(k->z, (row + (size_t)(t + i)) * k->ld_z + c, n, bf16);
    vfs_silu(z, count, bf16);
    EACH (i, count) {
        vf y = vf_fma(skip, act_load(k->b, at + (size_t)i * channels, n, bf16), chunk->y[t + i]);
        act_store(k->y, at + (size_t)i * channels, y * z[i], n, bf16);
    }
}

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
    for (t = 0; t + 8 <= tokens; t += 8)
        project(chunk.dt + t, 8, d + (size_t)t * ld, ld, rank, dt_w, bias, bf16);
    for (; t + 4 <= tokens; t += 4)
        project(chunk.dt + t, 4, d + (size_t)t * ld, ld, rank, dt_w, bias, bf16);
    for (; t < tokens; t++)
        project(chunk.dt + t, 1, d + (size_t)t * ld, ld, rank, dt_w, bias, bf16);
    for (t = 0; t < tokens; t++) {
        size_t at = (row + (size_t)t) * channels + c;
        chunk.u[t] = chunk.dt[t] * act_load(k->b, at, n, bf16);
        act_prefetch(k->b, at + ahead * channels, bf16);
        act_prefetch(k->z, (row + (size_t)t + ahead) * k->ld_z + c, bf16);
    }
    recur(&chunk, tokens, bc, ld, k->w->state, a, s);
    for (t = 0; t + 4 <= tokens; t += 4)
        gate(k, &chunk, t, 4, row, c, n, bf16);
    for (; t < tokens; t++)
        gate(k, &chunk, t, 1, row, c, n, bf16);
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
