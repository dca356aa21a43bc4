/* Own CPU kernels, dispatched once at start: the operations no library gives us.
 *
 * Every kernel source is compiled once per instruction set (baseline, avx2, avx512) with a
 * different `-m` and name suffix, on top of kernels/cpu/simd.h; cpu_ops_get returns the table of
 * one set. All kernels:
 *   - are whole operations, parallel inside over OpenMP's threads, deterministic: the result does
 *     not depend on the number of threads or on how rows are batched;
 *   - take `bf16` where activations may be fp32 (false) or bfloat16 (true): such buffers are
 *     `void *`. Buffers typed `float *` are always fp32. Arithmetic is fp32 throughout.
 *   - allocate nothing, except thread-local scratch on the stack or the caller's `scratch`;
 *   - read and write no byte outside the stated shapes (rows need no padding, no alignment).
 * "rows" are tokens, channels-last: x[row * C + channel]. */
#ifndef TV3S_KERNELS_CPU_OPS_H
#define TV3S_KERNELS_CPU_OPS_H

#include "kernels/backend.h" /* resize_axis, scan_window, scan_weights */

enum {
    SCAN_MAX_STATES = 256,   /* n and R of selective_scan, at most */
    SOFTMAX_BIAS_MAX = 1024, /* n of softmax_bias_rows, at most: windows up to 32 x 32 */
};

struct cpu_ops {
    const char *name; /* "avx512_bf16", "avx512", "avx2", "baseline" */

    /* RGB24 to network input: resize (bilinear, rows then columns in fp32), (x - mean) / std.
     * out: [rows->dst, cols->dst, 3]. */
    void (*preprocess)(const uint8_t *rgb, ptrdiff_t stride, const struct resize_axis *rows,
                       const struct resize_axis *cols, float *out);

    /* Patches of an NHWC map as rows of a matrix, for convolutions as matrix products:
     * out[(oy * ow + ox) * ld + (ky * k + kx) * c + ch] = in[oy * stride - pad + ky, ...], zero
     * outside; columns k*k*c .. ld-1 are set to zero. in: [h, w, c]; element size 2 or 4. */
    void (*im2col)(const void *in, int h, int w, int c, int k, int stride, int pad, int oh, int ow,
                   int ld, int elem, void *out);

    /* out = LayerNorm(x) over c channels. in_bf16 / out_bf16 say what x and out are. out may be x
     * when both have one type. */
    void (*layernorm)(const void *x, bool in_bf16, size_t rows, int c, const float *gamma,
                      const float *beta, float eps, void *out, bool out_bf16);

    /* out = x / sqrt(mean(x^2) + eps) * weight. */
    void (*rmsnorm)(const float *x, size_t rows, int c, const float *weight, float eps, void *out,
                    bool out_bf16);

    /* out = GELU(dw3x3(x) + bias), exact GELU (erf), zero padding 1; x, out: [h, w, c], not
     * overlapping; weight: [9][c], tap ky * 3 + kx. */
    void (*dwconv3x3_gelu)(const void *x, int h, int w, int c, const float *weight,
                           const float *bias, void *out, bool bf16);

    /* Rows of attention scores to unnormalised probabilities, inside one thread (the caller is in
     * a parallel region): p[m][j] = exp(scale * (s[m][j] - max_j s)), inv_sum[m] = 1 / sum_j p
     * (the sum of the values as stored). s: [m][ld_s] fp32; p: [m][ld_p], columns n..ld_p-1 are
     * set to zero; p may be s when not bf16 and ld_p == ld_s. */
    void (*softmax_rows)(const float *s, int ld_s, int m, int n, float scale, void *p, int ld_p,
                         float *inv_sum, bool bf16);

    /* Swin: in place over [m][ld], normalised: softmax_j(scale * s + bias[m][j] + mask[m][j]);
     * bias [m][n] fp32; mask [m][n] fp32 or NULL; n <= SOFTMAX_BIAS_MAX. Output fp32 or bf16 to
     * p [m][ld_p]. One thread. */
    void (*softmax_bias_rows)(const float *s, int ld_s, int m, int n, float scale,
                              const float *bias, const float *mask, void *p, int ld_p, bool bf16);

    /* out[m][j] = x[m][j] * factor[m], j < n. One thread. x: [m][ld_x] fp32. */
    void (*scale_rows)(const float *x, int ld_x, int m, int n, const float *factor, void *out,
                       int ld_out, bool bf16);

    /* Fuse (MODEL.md 3.1 after the folding of section 5, and 3.2): for i = 0..3, g[i] is
     * [h_i, w_i, e], to be resized by rows[i], cols[i] to the size of stage 1 (rows[0], cols[0]
     * are the identity: taps 1). f = ReLU(sum_i resize(g_i) + bias), [h1, w1, e].
     * If grid_rows is NULL, f itself goes to `out` ([h1, w1, e]), else f resized by grid_rows and
     * grid_cols ([h, w', e]). g: bf16 or fp32 by `bf16`; out by `out_bf16`. */
    void (*fuse)(const void *const g[4], const struct resize_axis *const rows[4],
                 const struct resize_axis *const cols[4], int e, const float *bias,
                 const struct resize_axis *grid_rows, const struct resize_axis *grid_cols,
                 void *out, bool bf16, bool out_bf16);

    /* Causal depthwise convolution along each window's token order, then SiLU (MODEL.md 3.3):
     * a[row][j] for j < D lies at a + row * ld_a (the first half of in_proj's output); b gets
     * [row][D]. Reads and updates each window's tail. Windows never share a row. */
    void (*scan_conv)(const struct scan_weights *w, const struct scan_window *windows, int count,
                      const void *a, size_t ld_a, void *b, bool bf16);

    /* Selective scan with dt_proj, softplus, skip and gate fused (MODEL.md 3.3): for every token
     *   dt = softplus(W_dt d + dt_bias);  S = exp2(dt * a_log2e) S + (dt * b) B^T
     *   y = (S C + skip * b) * SiLU(z)
     * b: [row][D]; dbc: [row][ld_dbc] fp32, d in columns 0..R-1, B in R..R+n-1, C in
     * R+n..R+2n-1 (x_proj's output); z: [row] at z + row * ld_z; y: [row][D], may be b itself.
     * dt_proj is here because its K is only R = 16: as a matrix product of its own it would write
     * and read D floats a token for 2 % of the scan's arithmetic. Parallel over (window, channel
     * block). */
    void (*selective_scan)(const struct scan_weights *w, const struct scan_window *windows,
                           int count, const void *b, const float *dbc, size_t ld_dbc, const void *z,
                           size_t ld_z, void *y, bool bf16);

    /* Labels: logits [rows->src, cols->src, classes] fp32 resized by the composed maps, argmax
     * over classes, ties to the lower class; out: [rows->dst, cols->dst] bytes, classes <= 255.
     * `scratch` holds at least cpu_labels_scratch() floats. */
    void (*labels)(const float *logits, int classes, const struct resize_axis *rows,
                   const struct resize_axis *cols, uint8_t *out, float *scratch);

    /* out = in converted, count elements. */
    void (*to_bf16)(const float *in, size_t count, uint16_t *out);
    void (*to_f32)(const uint16_t *in, size_t count, float *out);
    /* y += x (fp32). */
    void (*add)(const float *x, size_t count, float *y);
};

/* The table of an instruction set by name, or of the best one this CPU has (NULL). NULL when the
 * CPU does not have it or the name is unknown. */
const struct cpu_ops *cpu_ops_get(const char *isa);

/* Whether the CPU multiplies bfloat16 natively (AVX512_BF16 or AMX; Arm: BF16). */
bool cpu_has_bf16(void);

/* Floats of one position's classes in the scratch of `labels`: whole vectors of any set. */
#define CPU_LABELS_LD(classes) (((size_t)(classes) + 15) / 16 * 16)

/* Floats of scratch that `labels` needs for `threads` threads: the most that OpenMP may use when it
 * is called. */
size_t cpu_labels_scratch(int threads, int classes, const struct resize_axis *rows,
                          const struct resize_axis *cols);

#endif
