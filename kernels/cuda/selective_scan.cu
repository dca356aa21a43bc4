/* Selective scan: the recurrence of a window's hidden state, with everything around it fused
 * (MODEL.md 3.3).
 *
 *   dt = softplus(W_dt d + dt_bias),  u = dt * b                           [token][D]
 *   S[n] = exp2(dt * a_log2e[n]) S[n] + u * B[n],  y = sum_n S[n] C[n]     [n][D], every token
 *   y = (y + skip * b) * SiLU(z)
 *
 * A block is one window and a range of channels; the window's tokens go by in chunks of CHUNK, the
 * next chunk's b, z and (d, B, C) already on their way to shared memory while this one is computed.
 * Three phases a chunk: dt of every token (no chain from token to token); the recurrence, the 16
 * states of a channel in registers of SPLIT neighbouring lanes; skip and gate. y waits in dt's
 * place.
 *
 * SPLIT = 1 does the least work a channel and is for many windows; one stream has only 18 windows
 * of 512 channels, 288 warps on a card that wants 5,000, and each token's chain is then what a
 * layer takes: four lanes a channel have a quarter of it. y is (s0 + s1) + (s2 + s3), s_i four
 * states in order, whatever SPLIT is, so that results do not depend on what else is in the launch.
 *
 * Floors, 480p frame, bf16, H100. Memory: D * 6 + 192 bytes a token and the states, 197 MB for
 * eight layers, 59 us at 3.35 TB/s. But a token and channel needs 19 special functions (16
 * exponentials, softplus, gate), 560 M a frame, at 16 a cycle and multiprocessor 134 us at 1.98
 * GHz, and 160 instructions with them (of sm_90's code by nvcc 13.0: 35 for dt, 100 for the
 * recurrence, 25 for the gate), 141 us. Those are its floor, 2.4 times the memory's.
 *
 * n = 16 and R <= 16 are the published models; scan_any takes the rest, states in memory.
 *
 * nvcc 13.0: 96 registers; in bf16 8 bytes are spilled on sm_80, 86 and 89, nothing on sm_90; at
 * SPLIT = 1 30 KiB shared in bf16, 46 in fp32: five blocks of bf16 on a multiprocessor of an H100,
 * three on sm_86 and sm_89. Measured: not yet. */
#include "kernels/cuda/window.h"

#include <cuda_pipeline.h>

enum {
    STATES = 16,
    RANK = 16, /* at most */
    BLOCK = 128,
    CHUNK = 16,
    LOADERS = BLOCK / CHUNK, /* threads that load one token */
    DBC = RANK + 2 * STATES, /* a token's d, padded to RANK with zeros; B; C */
    BUSY = 4 * 132,          /* blocks from which on a launch fills a large card with SPLIT = 1 */
};

/* C: channels of a block. The next chunk is loaded into one `in` while the other is in use. */
template <typename T, int C> struct scan_shared {
    struct chunk {
        T b[CHUNK][C], z[CHUNK][C];
        float dbc[CHUNK][DBC];
        int row[CHUNK]; /* each token's: a division for every channel would be a tenth of the work
                         */
    } in[2];
    float dt[CHUNK][C]; /* then y */
};

/* What stays the same in a launch. */
template <typename T> struct scan {
    struct scan_weights w;
    cuda_windows windows;
    const T *b, *xz;
    const float *dbc;
    T *y;
    bool wide; /* rows of b and z allow 16-byte copies; and those of dbc */
    bool wide_dbc;
};

/* count elements to shared memory by the LOADERS threads of a token, asynchronously where wide. */
template <typename T>
__device__ __forceinline__ void load_row(T *to, const T *from, int count, bool wide)
{
    enum { PIECE = 16 / sizeof(T) };
    int lane = (int)threadIdx.x % LOADERS;
    if (wide)
        for (int i = lane * PIECE; i < count; i += LOADERS * PIECE)
            __pipeline_memcpy_async(to + i, from + i, 16);
    else
        for (int i = lane; i < count; i += LOADERS)
            to[i] = from[i];
}

/* The chunk from token t0 on; channels c0 .. c0 + count - 1. */
template <typename T, int C>
__device__ __forceinline__ void load_chunk(const scan<T> &k, const struct scan_window &win, int t0,
                                           int c0, int count, typename scan_shared<T, C>::chunk &to)
{
    int i = (int)threadIdx.x / LOADERS, rank = k.w.dt_rank;
    if (t0 + i < win.h * win.w) {
        size_t row = window_row(win, t0 + i), d = (size_t)k.w.inner;
        const float *dbc = k.dbc + row * (size_t)(rank + 2 * STATES);
        load_row(to.b[i], k.b + row * d + c0, count, k.wide);
        load_row(to.z[i], k.xz + row * 2 * d + d + c0, count, k.wide);
        load_row(to.dbc[i], dbc, rank, k.wide_dbc);
        load_row(to.dbc[i] + RANK, dbc + rank, 2 * STATES, k.wide_dbc);
        if (threadIdx.x % LOADERS == 0)
            to.row[i] = (int)row;
    }
    __pipeline_commit();
}

/* dt of one channel for the tokens first, first + step, ... of a chunk. */
template <typename T, int C>
__device__ __forceinline__ void project(scan_shared<T, C> &s, const float (*dbc)[DBC], int tokens,
                                        int first, int step, int c, const float dt_w[RANK],
                                        float bias)
{
    for (int t = first; t < tokens; t += step) {
        float sum = bias;
#pragma unroll
        for (int i = 0; i < RANK; i += 4) {
            float4 d = load4(&dbc[t][i]);
            sum = fmaf(dt_w[i], d.x, sum);
            sum = fmaf(dt_w[i + 1], d.y, sum);
            sum = fmaf(dt_w[i + 2], d.z, sum);
            sum = fmaf(dt_w[i + 3], d.w, sum);
        }
        s.dt[t][c] = softplus(sum);
    }
}

/* One step of four states: S, and their share of y. */
__device__ __forceinline__ float step4(float s[4], const float a[4], float dt, float u, float4 b,
                                       float4 c)
{
    s[0] = fmaf(exp2_approx(dt * a[0]), s[0], u * b.x);
    s[1] = fmaf(exp2_approx(dt * a[1]), s[1], u * b.y);
    s[2] = fmaf(exp2_approx(dt * a[2]), s[2], u * b.z);
    s[3] = fmaf(exp2_approx(dt * a[3]), s[3], u * b.w);
    return fmaf(s[3], c.w, fmaf(s[2], c.z, fmaf(s[1], c.y, __fmul_rn(s[0], c.x))));
}

/* The recurrence of channel c's states [part], a chunk's tokens one after the other. */
template <int SPLIT, typename T, int C>
__device__ __forceinline__ void recur(scan_shared<T, C> &sh,
                                      const typename scan_shared<T, C>::chunk &in, int tokens,
                                      int c, int part, float s[STATES / SPLIT],
                                      const float a[STATES / SPLIT])
{
    enum { MINE = STATES / SPLIT };
#pragma unroll(SPLIT == 1 ? 2 : 4)
    for (int t = 0; t < tokens; t++) {
        const float *bc = in.dbc[t] + RANK + part * MINE;
        float dt = sh.dt[t][c], u = dt * to_f32(in.b[t][c]), y[4];
#pragma unroll
        for (int i = 0; i < MINE; i += 4)
            y[i / 4] = step4(s + i, a + i, dt, u, load4(bc + i), load4(bc + STATES + i));
        if (SPLIT == 1) {
            y[0] = __fadd_rn(__fadd_rn(y[0], y[1]), __fadd_rn(y[2], y[3]));
        } else {
            y[0] = __fadd_rn(y[0], __shfl_xor_sync(FULL_WARP, y[0], 1));
            y[0] = __fadd_rn(y[0], __shfl_xor_sync(FULL_WARP, y[0], 2));
        }
        if (part == 0) /* all lanes of the channel have read dt: it went into what they summed */
            sh.dt[t][c] = y[0];
    }
}

/* grid: x windows, y ranges of C = BLOCK / SPLIT channels */
template <int SPLIT, typename T>
static __global__ void __launch_bounds__(BLOCK, 5) scan_kernel(scan<T> k)
{
    enum { C = BLOCK / SPLIT, MINE = STATES / SPLIT };
    SHARED_BYTES(bytes);
    scan_shared<T, C> &sh = *reinterpret_cast<scan_shared<T, C> *>(bytes);
    const struct scan_window win = k.windows[blockIdx.x];
    int d = k.w.inner, c0 = (int)blockIdx.y * C, count = min((int)C, d - c0);
    int tokens = win.h * win.w;

    /* First and last phase: channel `col`, every SPLIT-th token. Recurrence: channel c, states of
     * `part`. Columns behind the last channel compute the last one again and write nothing. */
    int col = (int)threadIdx.x % C, first = (int)threadIdx.x / C;
    int c = (int)threadIdx.x / SPLIT, part = (int)threadIdx.x % SPLIT;
    size_t at = (size_t)(c0 + min(col, count - 1)), state_at = (size_t)(c0 + min(c, count - 1));
    float dt_w[RANK], s[MINE], a[MINE];
    float bias = k.w.dt_bias[at], skip = k.w.skip[at];
    for (int i = 0; i < RANK; i++)
        dt_w[i] = i < k.w.dt_rank ? k.w.dt_w[(size_t)i * (size_t)d + at] : 0.0f;
    for (int i = 0; i < MINE; i++) {
        size_t n = (size_t)(part * MINE + i) * (size_t)d + state_at;
        a[i] = k.w.a_log2e[n];
        s[i] = win.state[n];
    }
    for (int i = (int)threadIdx.x; i < 2 * CHUNK * RANK; i += BLOCK)
        if (i % RANK >= k.w.dt_rank)
            sh.in[i / RANK / CHUNK].dbc[i / RANK % CHUNK][i % RANK] = 0.0f;

    load_chunk<T, C>(k, win, 0, c0, count, sh.in[0]);
    for (int t0 = 0, now = 0; t0 < tokens; t0 += CHUNK, now ^= 1) {
        typename scan_shared<T, C>::chunk &in = sh.in[now];
        int n = min((int)CHUNK, tokens - t0);
        load_chunk<T, C>(k, win, t0 + CHUNK, c0, count, sh.in[now ^ 1]);
        __pipeline_wait_prior(1);
        __syncthreads(); /* everybody's share of the chunk is there */
        project<T, C>(sh, in.dbc, n, first, SPLIT, col, dt_w, bias);
        __syncthreads();
        recur<SPLIT, T, C>(sh, in, n, c, part, s, a);
        __syncthreads();
#pragma unroll 4
        for (int t = first; t < n && col < count; t += SPLIT) {
            float y = fmaf(skip, to_f32(in.b[t][col]), sh.dt[t][col]);
            k.y[(size_t)in.row[t] * (size_t)d + at] = from_f32<T>(y * silu(to_f32(in.z[t][col])));
        }
        __syncthreads(); /* before the chunk after next overwrites this one, and dt */
    }
    if (c < count)
        for (int i = 0; i < MINE; i++)
            win.state[(size_t)(part * MINE + i) * (size_t)d + state_at] = s[i];
}

/* Any n and R: a thread a channel, its states in memory, no shared memory. */
template <typename T> static __global__ void __launch_bounds__(BLOCK) scan_any(scan<T> k)
{
    const struct scan_window win = k.windows[blockIdx.x];
    int d = k.w.inner, c = (int)(blockIdx.y * BLOCK + threadIdx.x);
    int n = k.w.state, rank = k.w.dt_rank;
    if (c >= d)
        return;
    struct window_walk at = window_from(win, 0);
    for (int t = 0; t < win.h * win.w; t++, window_next(win, at)) {
        const float *dbc = k.dbc + at.row * (size_t)(rank + 2 * n);
        float dt = k.w.dt_bias[c], b = to_f32(k.b[at.row * (size_t)d + c]), y = 0;
        for (int i = 0; i < rank; i++)
            dt = fmaf(k.w.dt_w[(size_t)i * (size_t)d + c], dbc[i], dt);
        dt = softplus(dt);
        for (int i = 0; i < n; i++) {
            size_t j = (size_t)i * (size_t)d + c;
            float s = fmaf(exp2_approx(dt * k.w.a_log2e[j]), win.state[j], dt * b * dbc[rank + i]);
            win.state[j] = s;
            y = fmaf(s, dbc[rank + n + i], y);
        }
        y = fmaf(k.w.skip[c], b, y);
        float z = to_f32(k.xz[at.row * 2 * (size_t)d + d + c]);
        k.y[at.row * (size_t)d + c] = from_f32<T>(y * silu(z));
    }
}

template <int SPLIT, typename T>
static void launch(const scan<T> &k, int count, cudaStream_t stream)
{
    enum { C = BLOCK / SPLIT };
    dim3 grid((unsigned)count, blocks_of((size_t)k.w.inner, C));
    LAUNCH((scan_kernel<SPLIT, T>), grid, BLOCK, sizeof(scan_shared<T, C>), stream, k);
}

cudaError_t cuda_selective_scan(const struct scan_weights *w, cuda_windows windows, int count,
                                const void *b, const float *dbc, const void *xz, void *y, bool bf16,
                                cudaStream_t stream)
{
    size_t d = (size_t)w->inner;
    WITH_ACT(bf16, {
        scan<T> k = {*w, windows, (const T *)b, (const T *)xz, dbc, (T *)y, false, false};
        k.wide = d * sizeof(T) % 16 == 0 && ((uintptr_t)b | (uintptr_t)xz) % 16 == 0;
        k.wide_dbc = w->dt_rank % 4 == 0 && (uintptr_t)dbc % 16 == 0;
        if (w->state != STATES || w->dt_rank > RANK)
            LAUNCH((scan_any<T>), dim3((unsigned)count, blocks_of(d, BLOCK)), BLOCK, 0, stream, k);
        else if ((size_t)count * blocks_of(d, BLOCK) >= BUSY)
            launch<1>(k, count, stream);
        else
            launch<4>(k, count, stream);
    });
    return cudaGetLastError();
}
