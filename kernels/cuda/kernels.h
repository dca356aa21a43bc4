/* The CUDA kernels' launchers: one per operation that no library does for us.
 *
 * How kernels/cuda fits together:
 *   kernels.h    this file: what backend.c calls. Plain C.
 *   device.h     what kernel sources share (C++): activation types, warp sums, the tensor-core
 *                tile.
 *   OP.cu        one operation each: essay, kernel, launcher. C++, written as C.
 *   *.c          the backend behind kernels/backend.h (cuda.h): plain C on the CUDA runtime and
 *                cuBLASLt; no kernel code, so any C compiler takes them.
 *
 * Two builds of the same sources: nvcc's, and a host build in which tests/cuda_host comes first on
 * the include path. There <cuda_runtime.h>, <cuda_bf16.h> and <cublasLt.h> are stand-ins that run a
 * grid thread by thread, so that every kernel and the whole backend run under the sanitizers on a
 * machine without a GPU. Hence three rules for a .cu file: launches go through LAUNCH, dynamic
 * shared memory through SHARED_BYTES, and what has no C++ form (inline PTX, cp.async, ...) sits in
 * device.h behind `#ifdef __CUDACC__` with a plain form beside it. All threads of a block reach
 * every __syncthreads, all lanes of a warp every warp function.
 *
 * Launchers enqueue on `stream` and return: no allocation, no synchronisation, no host memory read
 * after return; pointers are device memory. They return the launch's error. Results do not depend
 * on other rows, images or windows of the call: sums have one order, and no kernel adds atomically.
 * Sizes: products of dimensions may pass 2^31, so row offsets are size_t. Nothing outside the
 * stated shapes is read or written. Rows have no alignment beyond the element's own unless said:
 * wide loads need a check of `c` and the pointer, and a narrow form. No launch has more than 48 KiB
 * of shared memory, at any shape, so nothing has to be asked for and every card from sm_80 on takes
 * all: attention 36 KiB in bf16 (20 at head dimension 32) and 16 in fp32, the scan 30 and 46,
 * labels 48 at most. Of those a multiprocessor of sm_86 or sm_89, with 100 KiB, holds two or three
 * blocks.
 *
 * "act" is `void *`, fp32 or bfloat16 by `bf16`. Arithmetic is fp32 throughout. Maps are
 * channels-last. `images` equal pictures follow each other directly in `in` and `out`. */
#ifndef TV3S_KERNELS_CUDA_KERNELS_H
#define TV3S_KERNELS_CUDA_KERNELS_H

#include "kernels/backend.h"

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A struct resize_axis whose index and weight are device memory; passed to kernels by value. */
typedef struct resize_axis cuda_axis;

/* A struct scan_window array in device memory, its state and tail in device memory too. */
typedef const struct scan_window *cuda_windows;

/* pixels: packed, [rows.src][cols.src], of a pixels_nv12_size where they are NV12; out: fp32
 * [rows.dst][cols.dst][3] = (resize(rgb) - mean) / std, rows before columns (MODEL.md section 1).
 */
cudaError_t cuda_preprocess(const uint8_t *pixels, struct pixel_format format, cuda_axis rows,
                            cuda_axis cols, float *out, cudaStream_t stream);

/* in: [images][h][w][c], `elem` bytes (2 or 4) an element; out: [images * oh * ow][ld], columns
 * (ky, kx, ch): in[oy * stride - pad + ky][ox * stride - pad + kx][ch], zero outside the map and in
 * columns k * k * c .. ld - 1. */
cudaError_t cuda_im2col(const void *in, int images, int h, int w, int c, int k, int step, int pad,
                        int oh, int ow, int ld, int elem, void *out, cudaStream_t stream);

/* out[image][i] = in[image][index[i]], zero where index[i] < 0; in: [images][in_rows][c], out:
 * [images][rows][c], `elem` bytes (2 or 4) an element. */
cudaError_t cuda_gather(const void *in, const int *index, int images, size_t in_rows, size_t rows,
                        int c, int elem, void *out, cudaStream_t stream);

/* y[image][index[i]] += in[image][i] where index[i] >= 0 (distinct); in: [images][rows][c], y:
 * [images][y_rows][c], fp32. */
cudaError_t cuda_scatter_add(const float *in, const int *index, int images, size_t y_rows,
                             size_t rows, int c, float *y, cudaStream_t stream);

/* out = (x - mean) / sqrt(variance + eps) * gamma + beta over c channels (variance / c); x and out
 * fp32 or bf16 each; out may be x when both have one type. c: 1..4096; 32 to 1024 are usual. */
cudaError_t cuda_layernorm(const void *x, bool x_bf16, size_t rows, int c, const float *gamma,
                           const float *beta, float eps, void *out, bool out_bf16,
                           cudaStream_t stream);

/* out (act) = x / sqrt(mean(x^2) + eps) * weight; x: fp32 [rows][c]. c = E = 256 is usual. */
cudaError_t cuda_rmsnorm(const float *x, size_t rows, int c, const float *weight, float eps,
                         void *out, bool bf16, cudaStream_t stream);

/* out = GELU(depthwise 3x3(x) + bias), exact GELU, zero padding 1; x, out: act [images][h][w][c],
 * not overlapping; weight: [9][c], tap ky * 3 + kx; bias [c]. */
cudaError_t cuda_dwconv_gelu(const void *x, int images, int h, int w, int c, const float *weight,
                             const float *bias, void *out, bool bf16, cudaStream_t stream);

/* y = GELU(y), exact, in place: the epilogue that cuBLASLt has only as an approximation. */
cudaError_t cuda_gelu(void *y, size_t count, bool bf16, cudaStream_t stream);

/* One picture. g[i]: act [rows[i].src][cols[i].src][e], resized by rows[i], cols[i] to stage 1's
 * size [h1][w1] (rows[0], cols[0]: taps 1, the identity). f = ReLU(sum_i resize(g_i) + bias),
 * [h1][w1][e]. grid_rows, grid_cols: host structs, or both NULL: then out is act f; else out is
 * fp32 [grid_rows->dst][grid_cols->dst][e], f resized (f itself in fp32 throughout). Axes are
 * bilinear, taps 1 or 2, but enlarging or shrinking. e = 256 is usual, any is allowed. */
cudaError_t cuda_fuse(const void *const g[4], const cuda_axis rows[4], const cuda_axis cols[4],
                      int e, const float *bias, const cuda_axis *grid_rows,
                      const cuda_axis *grid_cols, void *out, bool bf16, cudaStream_t stream);

/* Attention of MiT: q: act [images * queries][C], kv: act [images * keys][2C] (k then v), heads
 * split C evenly (head_dim 32 or 64 usual, up to 256 allowed): out act [images * queries][C] =
 * softmax(q k^T / sqrt(head_dim)) v. keys: 405 at 864x480, up to some thousands. bf16 multiplies
 * on tensor cores with fp32 sums; fp32 in fp32. */
cudaError_t cuda_attention(const void *q, const void *kv, int images, int queries, int keys,
                           int channels, int heads, void *out, bool bf16, cudaStream_t stream);

/* Attention inside Swin's windows: qkv: act [images * windows * n^2][3C] -> out [same rows][C],
 * n^2 = window * window tokens (49 usual, window up to 32): softmax(q k^T / sqrt(head_dim) +
 * bias[head] + mask[mask_of[window]]) v. bias: [heads][n^2][n^2]; mask: [..][n^2][n^2] or NULL;
 * mask_of: device [windows], -1 none; NULL without mask. */
cudaError_t cuda_window_attention(const void *qkv, int images, int windows, int window,
                                  int channels, int heads, const float *bias, const float *mask,
                                  const int *mask_of, void *out, bool bf16, cudaStream_t stream);

/* dst = src, or zeros; moves: device memory, `most` the largest of their bytes; count <= 65535. */
cudaError_t cuda_move_states(const struct state_move *moves, int count, size_t most,
                             cudaStream_t stream);

/* out = in, to act. */
cudaError_t cuda_to_act(const float *in, size_t count, void *out, bool bf16, cudaStream_t stream);

/* MODEL.md 3.3, b_t; w's pointers are device memory. xz: act [row][2D], a = its first half; b: act
 * [row][D]. Reads and updates the windows' tails ([k - 1][D], oldest first, fp32). A window may
 * have fewer tokens than k - 1. k = 4 is usual, up to 16. */
cudaError_t cuda_scan_conv(const struct scan_weights *w, cuda_windows windows, int count,
                           const void *xz, void *b, bool bf16, cudaStream_t stream);

/* MODEL.md 3.3, y_t = (S_t C_t + D_skip * b_t) * SiLU(z_t), dt_proj and softplus inside: b: act
 * [row][D]; dbc: fp32 [row][R + 2n] (d, B, C); z = xz's second half; y: act [row][D], may be b
 * itself. Reads and updates the windows' states ([n][D] fp32). n = R = 16 usual, up to 256 each.
 * Sequences are long (100 to 400 tokens) and windows x D / (channels of a block) blocks few for a
 * single stream: both the latency of a token's step and the throughput matter. */
cudaError_t cuda_selective_scan(const struct scan_weights *w, cuda_windows windows, int count,
                                const void *b, const float *dbc, const void *xz, void *y, bool bf16,
                                cudaStream_t stream);

/* logits: fp32 [rows.src][cols.src][classes] resized by the composed maps (rows before columns,
 * taps 1 to about 4), argmax over classes, ties to the lower class: out: bytes [rows.dst]
 * [cols.dst]. classes: 1..255. */
cudaError_t cuda_labels(const float *logits, int classes, cuda_axis rows, cuda_axis cols,
                        uint8_t *out, cudaStream_t stream);

#ifdef __cplusplus
}
#endif

#endif
