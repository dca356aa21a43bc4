#include "tests/bench/op_wrap.h"
#include "tests/bench/op_trace.h"

#include <stdio.h>
#include <string.h>

#define COUNT(o) ((int)(sizeof(o) / sizeof *(o)))
#define ACT(p, n, use)                                                                             \
    {                                                                                              \
        (p), (n), OPERAND_ACT, (use)                                                               \
    }
#define F32(p, n, use)                                                                             \
    {                                                                                              \
        (p), (n), OPERAND_F32, (use)                                                               \
    }
#define AS(f32, p, n, use)                                                                         \
    {                                                                                              \
        (p), (n), (f32) ? OPERAND_F32 : OPERAND_ACT, (use)                                         \
    }
#define BYTES(p, n, use)                                                                           \
    {                                                                                              \
        (p), (n), OPERAND_BYTES, (use)                                                             \
    }

static const struct backend_ops *real;
static struct backend_ops traced;
static struct backend *cpu; /* NULL: nothing is checked */

/* A handle of the backend's and what goes with it. */
static struct handle {
    const void *of;
    struct linear_desc linear;
    struct attention_desc attention;
    struct linear *cpu_linear;
    struct attention *cpu_attention;
} handles[1024];
static int handle_count;

static struct handle *handle_of(const void *of)
{
    for (int i = handle_count; i-- > 0;)
        if (handles[i].of == of)
            return &handles[i];
    return NULL;
}

/* What `staged` was given: a table that the CPU must have too. */
static struct staged {
    const void *device;
    char *host;
    size_t bytes;
} staged_tables[64];
static int staged_next;

/* Labels, and what the CPU makes of the same logits, until they have come down. */
static struct answer {
    const uint8_t *labels;
    uint8_t *want;
    size_t pixels;
} answers[64];
static int answer_count;

/* ---- products ---- */

static bool is_bf16(const struct backend *be)
{
    return be->dtype == DT_BF16;
}

/* The CPU's fp32 product, of weights as the backend has them. */
static enum err open_on_cpu(const struct backend *be, struct handle *h)
{
    struct linear_desc d = h->linear;
    size_t n = (size_t)d.in * (size_t)d.out;
    float *weight = malloc(n * sizeof *weight);
    if (!weight)
        return ERR_NOMEM;
    for (size_t i = 0; i < n; i++)
        weight[i] = is_bf16(be) && !d.x_f32 ? bf16_to_f32(f32_to_bf16(d.weight[i])) : d.weight[i];
    d.weight = weight;
    enum err e = cpu->ops->linear_open(cpu, &d, &h->cpu_linear);
    free(weight);
    return e;
}

static enum err linear_open(struct backend *be, const struct linear_desc *d, struct linear **out)
{
    struct handle h = {.linear = *d};
    enum err e = real->linear_open(be, d, out);
    if (e == ERR_OK && cpu)
        e = open_on_cpu(be, &h);
    h.of = *out;
    if (e == ERR_OK)
        handles[handle_count++] = h;
    return e;
}

static void linear_close(struct backend *be, struct linear *l)
{
    struct handle *h = l ? handle_of(l) : NULL;
    if (h && cpu)
        cpu->ops->linear_close(cpu, h->cpu_linear);
    if (h)
        *h = handles[--handle_count];
    real->linear_close(be, l);
}

static enum err linear(struct backend *be, struct linear *l, const void *x, void *y, size_t rows)
{
    static const char *const kind[] = {"", ", GELU", ", fp32", ", +="};
    struct handle *h = handle_of(l);
    const struct linear_desc *d = &h->linear;
    size_t in = (size_t)d->in, out = (size_t)d->out;
    bool f32 = d->output == LINEAR_F32 || d->output == LINEAR_ADD_F32;
    int use = d->output == LINEAR_ADD_F32 ? OP_IN | OP_OUT : OP_OUT;
    const struct operand o[] = {AS(d->x_f32, x, rows * in, OP_IN), AS(f32, y, rows * out, use),
                                BYTES(l, in * out * (d->x_f32 ? 4 : backend_elem(be)), OP_IN)};
    op_begin(o, COUNT(o), 2e-9 * (double)rows * d->in * d->out, "linear %d -> %d%s", d->in, d->out,
             kind[d->output]);
    enum err e = real->linear(be, l, x, y, rows);
    if (op_end()) {
        e = e == ERR_OK ? cpu->ops->linear(cpu, h->cpu_linear, op_host(0), op_host(1), rows) : e;
        op_compare();
    }
    return e;
}

static enum err attention_open(struct backend *be, const struct attention_desc *d,
                               struct attention **out)
{
    struct handle h = {.attention = *d};
    enum err e = real->attention_open(be, d, out);
    if (e == ERR_OK && cpu)
        e = cpu->ops->attention_open(cpu, d, &h.cpu_attention);
    h.of = *out;
    if (e == ERR_OK)
        handles[handle_count++] = h;
    return e;
}

static void attention_close(struct backend *be, struct attention *a)
{
    struct handle *h = a ? handle_of(a) : NULL;
    if (h && cpu)
        cpu->ops->attention_close(cpu, h->cpu_attention);
    if (h)
        *h = handles[--handle_count];
    real->attention_close(be, a);
}

static enum err attention(struct backend *be, struct attention *a, const void *q, const void *kv,
                          void *out, int images)
{
    struct handle *h = handle_of(a);
    const struct attention_desc *d = &h->attention;
    size_t rows = (size_t)images * (size_t)d->queries, c = (size_t)d->channels;
    size_t keys = (size_t)images * (size_t)d->keys;
    const struct operand o[] = {ACT(q, rows * c, OP_IN), ACT(kv, keys * 2 * c, OP_IN),
                                ACT(out, rows * c, OP_OUT)};
    op_begin(o, COUNT(o), 4e-9 * (double)rows * d->keys * d->channels, "attention %d, %d keys",
             d->channels, d->keys);
    enum err e = real->attention(be, a, q, kv, out, images);
    if (op_end()) {
        e = e == ERR_OK ? cpu->ops->attention(cpu, h->cpu_attention, op_host(0), op_host(1),
                                              op_host(2), images)
                        : e;
        op_compare();
    }
    return e;
}

static enum err window_attention(struct backend *be, const struct window_attention *a,
                                 const void *qkv, void *out, int images)
{
    size_t n = (size_t)a->window * (size_t)a->window, c = (size_t)a->channels, masks = 0;
    size_t rows = (size_t)images * (size_t)a->windows * n;
    for (int i = 0; a->mask && i < a->windows; i++)
        masks = a->mask_of[i] >= (int)masks ? (size_t)a->mask_of[i] + 1 : masks;
    const struct operand o[] = {ACT(qkv, rows * 3 * c, OP_IN), ACT(out, rows * c, OP_OUT),
                                F32(a->bias, (size_t)a->heads * n * n, OP_IN),
                                F32(masks ? a->mask : NULL, masks * n * n, OP_IN)};
    op_begin(o, COUNT(o), 4e-9 * (double)rows * (double)n * a->channels, "window attention %d%s",
             a->channels, a->mask ? ", masked" : "");
    enum err e = real->window_attention(be, a, qkv, out, images);
    if (op_end()) {
        struct window_attention on_cpu = *a;
        on_cpu.bias = op_host(2);
        on_cpu.mask = op_host(3);
        on_cpu.mask_of = on_cpu.mask ? a->mask_of : NULL;
        e = e == ERR_OK ? cpu->ops->window_attention(cpu, &on_cpu, op_host(0), op_host(1), images)
                        : e;
        op_compare();
    }
    return e;
}

/* ---- rows and maps ---- */

static void copy(struct backend *be, void *dst, const void *src, size_t bytes)
{
    const struct operand o[] = {F32(src, bytes / 4, OP_IN), F32(dst, bytes / 4, OP_OUT)};
    op_begin(o, COUNT(o), 0, "copy");
    real->copy(be, dst, src, bytes);
    if (op_end()) {
        memcpy(op_host(1), op_host(0), bytes / 4 * 4);
        op_compare();
    }
}

static void zero(struct backend *be, void *dst, size_t bytes)
{
    const struct operand o[] = {F32(dst, bytes / 4, OP_OUT)};
    op_begin(o, COUNT(o), 0, "zero");
    real->zero(be, dst, bytes);
    if (op_end())
        op_compare(); /* op_host begins as zeros */
}

static enum err preprocess(struct backend *be, const uint8_t *pixels, ptrdiff_t stride,
                           bool on_device, struct pixel_format format,
                           const struct resize_axis *rows, const struct resize_axis *cols,
                           float *out)
{
    size_t bytes = pixels_row(format.layout, cols->src) * pixels_rows(format.layout, rows->src);
    const struct operand o[] = {BYTES(pixels, bytes, OP_IN),
                                F32(out, 3 * (size_t)rows->dst * (size_t)cols->dst, OP_OUT)};
    op_begin(o, COUNT(o), 0, "preprocess");
    enum err e = real->preprocess(be, pixels, stride, on_device, format, rows, cols, out);
    if (op_end()) {
        e = e == ERR_OK ? cpu->ops->preprocess(cpu, pixels, stride, on_device, format, rows, cols,
                                               op_host(1))
                        : e;
        op_compare();
    }
    return e;
}

static void im2col(struct backend *be, const void *in, int images, int h, int w, int c, int k,
                   int stride, int pad, int oh, int ow, int ld, int elem, void *out)
{
    bool f32 = elem == 4;
    const struct operand o[] = {
        AS(f32, in, (size_t)images * (size_t)h * (size_t)w * (size_t)c, OP_IN),
        AS(f32, out, (size_t)images * (size_t)oh * (size_t)ow * (size_t)ld, OP_OUT)};
    op_begin(o, COUNT(o), 0, "im2col %dx%d / %d, %d", k, k, stride, c);
    real->im2col(be, in, images, h, w, c, k, stride, pad, oh, ow, ld, elem, out);
    if (op_end()) {
        cpu->ops->im2col(cpu, op_host(0), images, h, w, c, k, stride, pad, oh, ow, ld, 4,
                         op_host(1));
        op_compare();
    }
}

static void gather(struct backend *be, const void *in, const int *index, int images, size_t in_rows,
                   size_t rows, int c, int elem, void *out)
{
    bool f32 = elem == 4;
    const struct operand o[] = {AS(f32, in, (size_t)images * in_rows * (size_t)c, OP_IN),
                                AS(f32, out, (size_t)images * rows * (size_t)c, OP_OUT)};
    op_begin(o, COUNT(o), 0, "gather %d", c);
    real->gather(be, in, index, images, in_rows, rows, c, elem, out);
    if (op_end()) {
        cpu->ops->gather(cpu, op_host(0), index, images, in_rows, rows, c, 4, op_host(1));
        op_compare();
    }
}

static void scatter_add(struct backend *be, const float *in, const int *index, int images,
                        size_t y_rows, size_t rows, int c, float *y)
{
    const struct operand o[] = {F32(in, (size_t)images * rows * (size_t)c, OP_IN),
                                F32(y, (size_t)images * y_rows * (size_t)c, OP_IN | OP_OUT)};
    op_begin(o, COUNT(o), 0, "scatter_add %d", c);
    real->scatter_add(be, in, index, images, y_rows, rows, c, y);
    if (op_end()) {
        cpu->ops->scatter_add(cpu, op_host(0), index, images, y_rows, rows, c, op_host(1));
        op_compare();
    }
}

static void layernorm(struct backend *be, const void *x, bool x_f32, size_t rows, int c,
                      const float *gamma, const float *beta, float eps, void *out, bool out_f32)
{
    size_t count = rows * (size_t)c;
    const struct operand o[] = {AS(x_f32, x, count, OP_IN), F32(gamma, (size_t)c, OP_IN),
                                F32(beta, (size_t)c, OP_IN), AS(out_f32, out, count, OP_OUT)};
    op_begin(o, COUNT(o), 0, "layernorm %d", c);
    real->layernorm(be, x, x_f32, rows, c, gamma, beta, eps, out, out_f32);
    if (op_end()) {
        cpu->ops->layernorm(cpu, op_host(0), true, rows, c, op_host(1), op_host(2), eps, op_host(3),
                            true);
        op_compare();
    }
}

static void rmsnorm(struct backend *be, const float *x, size_t rows, int c, const float *weight,
                    float eps, void *out)
{
    const struct operand o[] = {F32(x, rows * (size_t)c, OP_IN), F32(weight, (size_t)c, OP_IN),
                                ACT(out, rows * (size_t)c, OP_OUT)};
    op_begin(o, COUNT(o), 0, "rmsnorm %d", c);
    real->rmsnorm(be, x, rows, c, weight, eps, out);
    if (op_end()) {
        cpu->ops->rmsnorm(cpu, op_host(0), rows, c, op_host(1), eps, op_host(2));
        op_compare();
    }
}

static void dwconv_gelu(struct backend *be, const void *x, int images, int h, int w, int c,
                        const float *weight, const float *bias, void *out)
{
    size_t count = (size_t)images * (size_t)h * (size_t)w * (size_t)c;
    const struct operand o[] = {ACT(x, count, OP_IN), F32(weight, 9 * (size_t)c, OP_IN),
                                F32(bias, (size_t)c, OP_IN), ACT(out, count, OP_OUT)};
    op_begin(o, COUNT(o), 0, "dwconv_gelu %d", c);
    real->dwconv_gelu(be, x, images, h, w, c, weight, bias, out);
    if (op_end()) {
        cpu->ops->dwconv_gelu(cpu, op_host(0), images, h, w, c, op_host(1), op_host(2), op_host(3));
        op_compare();
    }
}

static void fuse(struct backend *be, const void *const g[4],
                 const struct resize_axis *const rows[4], const struct resize_axis *const cols[4],
                 int e, const float *bias, const struct resize_axis *grid_rows,
                 const struct resize_axis *grid_cols, void *out)
{
    size_t n = (size_t)e;
    size_t to = grid_rows ? (size_t)grid_rows->dst * (size_t)grid_cols->dst
                          : (size_t)rows[0]->dst * (size_t)cols[0]->dst;
    struct operand o[6] = {[4] = F32(bias, n, OP_IN), [5] = AS(grid_rows, out, to * n, OP_OUT)};
    for (int i = 0; i < 4; i++)
        o[i] = (struct operand)ACT(g[i], (size_t)rows[i]->src * (size_t)cols[i]->src * n, OP_IN);
    op_begin(o, COUNT(o), 0, "fuse %d", e);
    real->fuse(be, g, rows, cols, e, bias, grid_rows, grid_cols, out);
    if (op_end()) {
        const void *on_cpu[4] = {op_host(0), op_host(1), op_host(2), op_host(3)};
        cpu->ops->fuse(cpu, on_cpu, rows, cols, e, op_host(4), grid_rows, grid_cols, op_host(5));
        op_compare();
    }
}

static void to_act(struct backend *be, const float *in, size_t count, void *out)
{
    const struct operand o[] = {F32(in, count, OP_IN), ACT(out, count, OP_OUT)};
    op_begin(o, COUNT(o), 0, "to_act");
    real->to_act(be, in, count, out);
    if (op_end()) {
        memcpy(op_host(1), op_host(0), count * sizeof(float));
        op_compare();
    }
}

/* ---- scans ---- */

static enum err staged(struct backend *be, const void *host, size_t bytes, const void **out)
{
    enum err e = real->staged(be, host, bytes, out);
    struct staged *s = &staged_tables[staged_next++ % 64];
    if (e != ERR_OK)
        return e;
    free(s->host);
    *s = (struct staged){*out, malloc(bytes + 1), bytes};
    if (!s->host)
        return ERR_NOMEM;
    memcpy(s->host, host, bytes);
    return ERR_OK;
}

/* The windows at `at`, which lies in a staged table. */
static const struct scan_window *host_windows(const struct scan_window *at)
{
    for (int i = staged_next; i-- > 0 && i >= staged_next - 64;) {
        const struct staged *s = &staged_tables[i % 64];
        size_t offset = (size_t)((uintptr_t)at - (uintptr_t)s->device);
        if (offset < s->bytes)
            return (const void *)(s->host + offset);
    }
    abort();
}

/* Rows of the activations that windows lie in. */
static size_t rows_of(const struct scan_window *w, int count)
{
    size_t rows = 0;
    for (int i = 0; i < count; i++) {
        size_t last =
            (size_t)w[i].row0 + (size_t)(w[i].h - 1) * (size_t)w[i].row_stride + (size_t)w[i].w;
        rows = last > rows ? last : rows;
    }
    return rows;
}

/* Copies of the windows with tail and state, as they are now, in host memory. */
static struct scan_window *windows_on_cpu(const struct scan_weights *w,
                                          const struct scan_window *from, int count)
{
    struct scan_window *to = malloc((size_t)count * sizeof *to);
    size_t d = (size_t)w->inner;
    if (!to)
        abort();
    for (int i = 0; i < count; i++) {
        to[i] = from[i];
        to[i].tail = op_download(from[i].tail, (size_t)(w->conv - 1) * d);
        to[i].state = op_download(from[i].state, (size_t)w->state * d);
    }
    return to;
}

/* Holds what the device left against what the CPU did; frees `windows`. */
static void compare_windows(const struct scan_weights *w, const struct scan_window *device,
                            struct scan_window *windows, int count)
{
    size_t d = (size_t)w->inner, tail = (size_t)(w->conv - 1) * d, state = (size_t)w->state * d;
    struct scan_window *now = windows_on_cpu(w, device, count);
    for (int i = 0; i < count; i++) {
        op_compare_with(now[i].tail, windows[i].tail, tail);
        op_compare_with(now[i].state, windows[i].state, state);
        free(now[i].tail);
        free(now[i].state);
        free(windows[i].tail);
        free(windows[i].state);
    }
    free(now);
    free(windows);
}

/* Traffic of the windows' tails or states. */
static struct operand carried(int count, size_t floats)
{
    return (struct operand){"", (size_t)count * floats * 4, OPERAND_BYTES, OP_IN | OP_OUT};
}

static void scan_conv(struct backend *be, const struct scan_weights *w,
                      const struct scan_window *windows, int count, const void *xz, void *b)
{
    const struct scan_window *host = host_windows(windows);
    size_t d = (size_t)w->inner, rows = rows_of(host, count);
    struct scan_window *on_cpu = NULL;
    const struct operand o[] = {ACT(xz, rows * 2 * d, OP_IN), ACT(b, rows * d, OP_OUT),
                                F32(w->conv_w, (size_t)w->conv * d, OP_IN),
                                F32(w->conv_b, d, OP_IN),
                                carried(count, (size_t)(w->conv - 1) * d)};
    op_begin(o, COUNT(o), 0, "scan_conv %d", w->inner);
    if (op_checking())
        on_cpu = windows_on_cpu(w, host, count);
    real->scan_conv(be, w, windows, count, xz, b);
    if (op_end()) {
        struct scan_weights weights = *w;
        weights.conv_w = op_host(2);
        weights.conv_b = op_host(3);
        cpu->ops->scan_conv(cpu, &weights, on_cpu, count, op_host(0), op_host(1));
        compare_windows(w, host, on_cpu, count);
        op_compare();
    }
}

static void selective_scan(struct backend *be, const struct scan_weights *w,
                           const struct scan_window *windows, int count, const void *b,
                           const float *dbc, const void *xz, void *y)
{
    const struct scan_window *host = host_windows(windows);
    size_t d = (size_t)w->inner, n = (size_t)w->state, r = (size_t)w->dt_rank;
    size_t rows = rows_of(host, count);
    struct scan_window *on_cpu = NULL;
    const struct operand o[] = {ACT(b, rows * d, OP_IN),      F32(dbc, rows * (r + 2 * n), OP_IN),
                                ACT(xz, rows * 2 * d, OP_IN), /* half of it is read: */
                                ACT(y, rows * d, OP_OUT),     F32(w->dt_w, r * d, OP_IN),
                                F32(w->dt_bias, d, OP_IN),    F32(w->a_log2e, n * d, OP_IN),
                                F32(w->skip, d, OP_IN),       carried(count, n * d)};
    op_begin(o, COUNT(o), 0, "selective_scan %d", w->inner);
    if (op_checking())
        on_cpu = windows_on_cpu(w, host, count);
    real->selective_scan(be, w, windows, count, b, dbc, xz, y);
    if (op_end()) {
        struct scan_weights weights = *w;
        weights.dt_w = op_host(4);
        weights.dt_bias = op_host(5);
        weights.a_log2e = op_host(6);
        weights.skip = op_host(7);
        cpu->ops->selective_scan(cpu, &weights, on_cpu, count, op_host(0), op_host(1), op_host(2),
                                 op_host(3));
        compare_windows(w, host, on_cpu, count);
        op_compare();
    }
}

/* ---- labels ---- */

static enum err labels(struct backend *be, const float *logits, int classes,
                       const struct resize_axis *rows, const struct resize_axis *cols, uint8_t *out)
{
    size_t from = (size_t)rows->src * (size_t)cols->src * (size_t)classes;
    size_t pixels = (size_t)rows->dst * (size_t)cols->dst;
    const struct operand o[] = {F32(logits, from, OP_IN), BYTES(out, pixels, OP_OUT)};
    op_begin(o, COUNT(o), 0, "labels");
    enum err e = real->labels(be, logits, classes, rows, cols, out);
    if (op_end() && answer_count < 64) { /* the labels are not there before the step ends */
        uint8_t *want = malloc(pixels);
        e = e == ERR_OK && want ? cpu->ops->labels(cpu, op_host(0), classes, rows, cols, want) : e;
        answers[answer_count++] = (struct answer){out, want, pixels};
        op_compare();
    }
    return e;
}

void op_wrap_step_done(void)
{
    for (int i = 0; i < answer_count; i++) {
        size_t differ = 0;
        for (size_t j = 0; j < answers[i].pixels; j++)
            differ += answers[i].labels[j] != answers[i].want[j];
        op_compare_as("labels", (double)differ / (double)answers[i].pixels);
        free(answers[i].want);
    }
    answer_count = 0;
    op_step_done();
}

void op_wrap(struct backend *be, struct backend *check)
{
    real = be->ops;
    cpu = check;
    traced = *real;
    traced.linear_open = linear_open;
    traced.linear_close = linear_close;
    traced.linear = linear;
    traced.attention_open = attention_open;
    traced.attention_close = attention_close;
    traced.attention = attention;
    traced.window_attention = window_attention;
    traced.copy = copy;
    traced.zero = zero;
    traced.preprocess = preprocess;
    traced.im2col = im2col;
    traced.gather = gather;
    traced.scatter_add = scatter_add;
    traced.layernorm = layernorm;
    traced.rmsnorm = rmsnorm;
    traced.dwconv_gelu = dwconv_gelu;
    traced.fuse = fuse;
    traced.to_act = to_act;
    traced.staged = staged;
    traced.scan_conv = scan_conv;
    traced.selective_scan = selective_scan;
    traced.labels = labels;
    be->ops = &traced;
    op_trace_open(be, check);
}
