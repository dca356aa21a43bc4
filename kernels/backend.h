/* The one header between engine and kernels: what a compute backend does.
 *
 * A backend is a table of whole operations on matrices of tokens, channels-last: x[row * C + ch].
 * "act" buffers hold activations in the backend's dtype (fp32 or bfloat16), `float *` buffers are
 * always fp32; the residual stream and the hidden state are fp32 in either dtype. Buffers are the
 * backend's own memory (alloc). Handles (linear, attention) hold packed weights and everything
 * that can be prepared early; after a shape's first batch no operation allocates.
 *
 * One thread, the engine thread, calls a backend. Operations return nothing where they cannot
 * fail; a device that fails asynchronously reports through `finish`, ERR_DEVICE, and is then of no
 * further use. */
#ifndef TV3S_KERNELS_BACKEND_H
#define TV3S_KERNELS_BACKEND_H

#include "base/dtype.h"
#include "base/err.h"
#include "base/pixels.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One axis of a resize, for every destination index i:
 *   dst[i] = sum_{t < taps} weight[i * taps + t] * src[index[i] + t]
 * with index[i] + taps <= src always. A bilinear resize has up to 2 taps, composed ones more.
 * Made once per plan (engine/resize.c). */
struct resize_axis {
    int dst, src, taps;
    int *index;    /* [dst] first source position */
    float *weight; /* [dst * taps] */
};

/* Selective scan: one window of one stream's frame. Token (y, x) of the window, y < h, x < w, is
 * row  row0 + y * row_stride + x  of the activation matrices; order is row by row. */
struct scan_window {
    int row0, h, w, row_stride;
    float *state; /* [n][D] hidden state S, n outermost; read, then overwritten */
    float *tail;  /* [k - 1][D] the last k - 1 values of a, oldest first; read, overwritten */
};

/* A hidden state's way into a batch: a copy of the stream's, or zeros where src is NULL. */
struct state_move {
    void *dst;
    const void *src;
    size_t bytes; /* a multiple of 4 */
};

struct scan_weights {
    int inner;      /* D (any) */
    int state;      /* n */
    int conv;       /* k */
    int dt_rank;    /* R */
    float *conv_w;  /* [k][D] */
    float *conv_b;  /* [D] */
    float *dt_w;    /* [R][D]  dt_proj's weight, transposed */
    float *dt_bias; /* [D] */
    float *a_log2e; /* [n][D]  A * log2(e), A = -exp(A_log) */
    float *skip;    /* [D]  D_skip */
};

struct backend;
struct linear;
struct attention;

/* What a linear does with its product. */
enum linear_output {
    LINEAR_ACT,      /* y (act)  = W x + b */
    LINEAR_ACT_GELU, /* y (act)  = GELU(W x + b), exact */
    LINEAR_F32,      /* y (fp32) = W x + b */
    LINEAR_ADD_F32,  /* y (fp32) += W x + b */
};

struct linear_desc {
    int in, out;
    const float *weight; /* host, [out][in]; not kept */
    const float *bias;   /* host, [out], or NULL; not kept */
    enum linear_output output;
    bool x_f32; /* x is fp32, and W stays so, whatever the backend's dtype */
};

/* Attention of `queries` rows per image over `keys` rows of kv per image (MiT). */
struct attention_desc {
    int channels, heads;
    int queries, keys;
};

/* Attention inside windows (Swin): rows are grouped window by window, window^2 rows each, each
 * row holding [q | k | v], 3 * channels. */
struct window_attention {
    int channels, heads, window;
    int windows;        /* of one image */
    const float *bias;  /* device, [heads][window^2][window^2]: relative position bias */
    const float *mask;  /* device, [distinct masks][window^2][window^2], or NULL */
    const int *mask_of; /* a table, [windows] index of each window's mask, -1 none; or NULL */
};

struct backend_ops {
    const char *name; /* "cpu avx512", ... */
    void (*close)(struct backend *be);
    /* The calling thread is about to use the backend (which another may have opened). */
    void (*enter)(struct backend *be);
    /* The calling thread uses the backend for good and does nothing else: see engine.h. NULL: there
     * is nothing to do. */
    void (*own_cores)(struct backend *be);

    /* 64-byte aligned memory of the backend, contents undefined. ERR_NOMEM. */
    enum err (*alloc)(struct backend *be, size_t bytes, void **out);
    void (*free)(struct backend *be, void *p);
    /* The memory of states and features, which change hands at every batch: taken and given back
     * without a call of the device. 64-byte aligned. `give` gets the bytes of `take`; NULL is
     * allowed. `reserve` makes room for `bytes` of it now; beyond that it grows. ERR_NOMEM. */
    enum err (*reserve)(struct backend *be, size_t bytes);
    enum err (*take)(struct backend *be, size_t bytes, void **out);
    void (*give)(struct backend *be, void *p, size_t bytes);
    /* Host memory that the device copies from and to at its full speed, for spilled states. */
    enum err (*host_take)(struct backend *be, size_t bytes, void **out);
    void (*host_give)(struct backend *be, void *p, size_t bytes);
    /* Host memory to backend memory, and back; complete on return. */
    enum err (*upload)(struct backend *be, void *dst, const void *src, size_t bytes);
    enum err (*download)(struct backend *be, void *dst, const void *src, size_t bytes);
    /* Tables that a plan owns and operations read (a resize_axis' arrays, an index): what they hold
     * does not change until table_drop, so a device may keep a copy. NULL is allowed. ERR_NOMEM. */
    enum err (*table_add)(struct backend *be, const void *host, size_t bytes);
    void (*table_drop)(struct backend *be, const void *host);

    /* A batch: `walk(arg)` calls the operations, from the table's `stage` on, in the same order and
     * with the same arguments however often it is called. A device calls it first without any
     * arithmetic, to see what it needs and whether it knows the batch already (kernels/cuda/
     * batch.c), and again only where it does not. When `start` returns, what the batch read of the
     * host's is the caller's again; labels are there after `finish`, and until then pixels on a
     * device are read. Up to `depth` batches are under way at once; `finish` ends the oldest. Where
     * `start` fails nothing is under way. */
    enum err (*start)(struct backend *be, enum err (*walk)(void *arg), void *arg);
    enum err (*finish)(struct backend *be);

    /* Host memory to fill, then its backend address with what it held when `staged` was called.
     * Both are valid until the next `stage` or the batch's end. ERR_NOMEM. */
    enum err (*stage)(struct backend *be, size_t bytes, void **host);
    enum err (*staged)(struct backend *be, const void *host, size_t bytes, const void **out);
    /* moves: staged; `most`: the largest of their bytes. */
    void (*move_states)(struct backend *be, const struct state_move *moves, int count, size_t most);
    void (*copy)(struct backend *be, void *dst, const void *src, size_t bytes);
    void (*zero)(struct backend *be, void *dst, size_t bytes);
    /* Measured rate of a large matrix product in the backend's dtype, GFLOP/s. */
    enum err (*peak)(struct backend *be, double *gflops);

    enum err (*linear_open)(struct backend *be, const struct linear_desc *d, struct linear **out);
    void (*linear_close)(struct backend *be, struct linear *l);
    /* x: act, or fp32 by x_f32, [rows][in]; y by the linear's output kind, [rows][out]. A row's
     * result does not depend on the other rows. */
    enum err (*linear)(struct backend *be, struct linear *l, const void *x, void *y, size_t rows);

    enum err (*attention_open)(struct backend *be, const struct attention_desc *d,
                               struct attention **out);
    void (*attention_close)(struct backend *be, struct attention *a);
    /* q: [images * queries][C], kv: [images * keys][2C] (k then v), out: [images * queries][C],
     * all act: softmax(q k^T / sqrt(C / heads)) v, head by head. */
    enum err (*attention)(struct backend *be, struct attention *a, const void *q, const void *kv,
                          void *out, int images);
    /* qkv: [images * windows * window^2][3C] -> out: [same rows][C], act. */
    enum err (*window_attention)(struct backend *be, const struct window_attention *a,
                                 const void *qkv, void *out, int images);

    /* Pixels to network input, fp32 [rows->dst, cols->dst, 3]: resize, then normalise. On the host
     * they are read on the spot, rows of all planes `stride` bytes apart; on a CUDA device
     * (on_device, where the backend takes NV12) their rows are packed, and ERR_ARG says that they
     * are not there. NV12 only where the backend takes it: its RGB is what is resized, bit for bit
     * as swscale makes it (kernels/cuda/yuv.h). The axes are tables here and below. fp32 in either
     * dtype: rounding what everything else is computed from to bf16 costs more than all other
     * roundings together. */
    enum err (*preprocess)(struct backend *be, const uint8_t *pixels, ptrdiff_t stride,
                           bool on_device, struct pixel_format format,
                           const struct resize_axis *rows, const struct resize_axis *cols,
                           float *out);
    /* Patches of maps [images][h, w, c] as rows of a matrix [images * oh * ow][ld]; columns
     * (ky, kx, ch), zero outside the map and from column k * k * c on. `elem` bytes a channel. */
    void (*im2col)(struct backend *be, const void *in, int images, int h, int w, int c, int k,
                   int stride, int pad, int oh, int ow, int ld, int elem, void *out);
    /* Rows of `out` are rows of `in`, image by image: out[i] = in[index[i]], i < rows, or zero
     * where index[i] < 0. `elem` bytes a channel. in has in_rows rows an image; index: a table. */
    void (*gather)(struct backend *be, const void *in, const int *index, int images, size_t in_rows,
                   size_t rows, int c, int elem, void *out);
    /* y[index[i]] += in[i] for index[i] >= 0 (distinct), image by image; fp32. */
    void (*scatter_add)(struct backend *be, const float *in, const int *index, int images,
                        size_t y_rows, size_t rows, int c, float *y);
    void (*layernorm)(struct backend *be, const void *x, bool x_f32, size_t rows, int c,
                      const float *gamma, const float *beta, float eps, void *out, bool out_f32);
    /* act out = x / sqrt(mean(x^2) + eps) * weight. */
    void (*rmsnorm)(struct backend *be, const float *x, size_t rows, int c, const float *weight,
                    float eps, void *out);
    /* act [images][h, w, c] -> GELU(depthwise 3x3 + bias); weight [9][c]. */
    void (*dwconv_gelu)(struct backend *be, const void *x, int images, int h, int w, int c,
                        const float *weight, const float *bias, void *out);
    /* MODEL.md 3.1 folded, and 3.2: g[i] act [h_i, w_i, e]; out fp32 grid [h, w', e], or, without
     * grid axes, act f [h1, w1, e]. */
    void (*fuse)(struct backend *be, const void *const g[4],
                 const struct resize_axis *const rows[4], const struct resize_axis *const cols[4],
                 int e, const float *bias, const struct resize_axis *grid_rows,
                 const struct resize_axis *grid_cols, void *out);
    /* act out = fp32 in. */
    void (*to_act)(struct backend *be, const float *in, size_t count, void *out);

    /* windows: staged. xz: act [row][2D], a = first half; b: act [row][D]. Updates the windows'
     * tails. */
    void (*scan_conv)(struct backend *be, const struct scan_weights *w,
                      const struct scan_window *windows, int count, const void *xz, void *b);
    /* b: act [row][D]; dbc: fp32 [row][R + 2n]; z = second half of xz; y: act [row][D], may be b.
     * Updates the windows' states. */
    void (*selective_scan)(struct backend *be, const struct scan_weights *w,
                           const struct scan_window *windows, int count, const void *b,
                           const float *dbc, const void *xz, void *y);
    /* logits fp32 [rows->src, cols->src, classes] -> host bytes [rows->dst, cols->dst], which are
     * there after `finish`. */
    enum err (*labels)(struct backend *be, const float *logits, int classes,
                       const struct resize_axis *rows, const struct resize_axis *cols,
                       uint8_t *out);
};

struct backend {
    const struct backend_ops *ops;
    enum dtype dtype; /* of activations: DT_F32 or DT_BF16 */
    /* How much work at a time suits the device: stride-4 tokens encoded together, grid tokens of a
     * pass through the head, tokens of a scan. One frame, or band of windows, may be more. */
    size_t encoder_rows, pass_rows, scan_rows;
    int depth;       /* batches that may be under way at once */
    bool takes_nv12; /* preprocess does, and pixels on a CUDA device */
};

static inline size_t backend_elem(const struct backend *be)
{
    return dtype_size(be->dtype);
}

/* The CPU backend. threads: 0 = what OpenMP gives; isa as in kernels/cpu/ops.h. ERR_UNSUPPORTED
 * for a dtype or isa that this CPU has not. */
enum err cpu_backend_open(enum dtype dtype, int threads, const char *isa, struct backend **out);

/* The CUDA backend on device number `device`. tf32: of DT_F32, linear's products take their factors
 * in TF32 (10 bits of mantissa), on tensor cores, and sum in fp32. ERR_UNSUPPORTED where the build
 * has none, or the machine no such device. */
enum err cuda_backend_open(int device, enum dtype dtype, bool tf32, struct backend **out);
/* How many devices there are; 0 where the build or the machine has none. */
int cuda_backend_devices(void);

#endif
