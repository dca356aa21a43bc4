/* Where a frame's time goes: every operation of the backend timed, one line each.
 *
 *   op_profile MODEL WxH FRAMES f32|bf16
 *
 * The engine's backend table is replaced by one whose functions time the real ones. Linears are
 * listed by shape. Not a test: figures for the essays and for tuning. */
#include "engine/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SLOTS = 256 };

static struct slot {
    char name[64];
    double seconds, gflop;
    long calls;
} slots[SLOTS];
static int slot_count;

static const struct backend_ops *real;
static struct backend_ops timed;

static struct shape {
    struct linear *l;
    int in, out;
} shapes[1024];
static int shape_count;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void add(const char *name, double seconds, double gflop)
{
    int i = 0;
    while (i < slot_count && strcmp(slots[i].name, name) != 0)
        i++;
    if (i == SLOTS)
        return;
    if (i == slot_count)
        snprintf(slots[slot_count++].name, sizeof slots[0].name, "%s", name);
    slots[i].seconds += seconds;
    slots[i].gflop += gflop;
    slots[i].calls++;
}

static enum err linear_open(struct backend *be, const struct linear_desc *d, struct linear **out)
{
    enum err e = real->linear_open(be, d, out);
    if (e == ERR_OK && shape_count < 1024)
        shapes[shape_count++] = (struct shape){*out, d->in, d->out};
    return e;
}

static enum err linear(struct backend *be, struct linear *l, const void *x, void *y, size_t rows)
{
    char name[64];
    double t = now();
    enum err e = real->linear(be, l, x, y, rows);
    t = now() - t;
    for (int i = 0; i < shape_count; i++)
        if (shapes[i].l == l) {
            snprintf(name, sizeof name, "linear %d -> %d", shapes[i].in, shapes[i].out);
            add(name, t, 2e-9 * (double)rows * shapes[i].in * shapes[i].out);
        }
    return e;
}

static enum err attention(struct backend *be, struct attention *a, const void *q, const void *kv,
                          void *out, int images)
{
    double t = now();
    enum err e = real->attention(be, a, q, kv, out, images);
    add("attention", now() - t, 0);
    return e;
}

#define TIMED_VOID(op, params, args)                                                               \
    static void op params                                                                          \
    {                                                                                              \
        double start_ = now();                                                                     \
        real->op args;                                                                             \
        add(#op, now() - start_, 0);                                                               \
    }
TIMED_VOID(copy, (struct backend * be, void *d, const void *s, size_t n), (be, d, s, n))
TIMED_VOID(zero, (struct backend * be, void *d, size_t n), (be, d, n))
TIMED_VOID(im2col,
           (struct backend * be, const void *in, int n, int h, int w, int c, int k, int s, int p,
            int oh, int ow, int ld, void *out),
           (be, in, n, h, w, c, k, s, p, oh, ow, ld, out))
TIMED_VOID(gather,
           (struct backend * be, const void *in, const int *i, int n, size_t f, size_t r, int c,
            int e, void *o),
           (be, in, i, n, f, r, c, e, o))
TIMED_VOID(scatter_add,
           (struct backend * be, const float *in, const int *i, int n, size_t f, size_t r, int c,
            float *y),
           (be, in, i, n, f, r, c, y))
TIMED_VOID(layernorm,
           (struct backend * be, const void *x, bool f, size_t r, int c, const float *g,
            const float *b, float eps, void *out, bool of),
           (be, x, f, r, c, g, b, eps, out, of))
TIMED_VOID(rmsnorm,
           (struct backend * be, const float *x, size_t r, int c, const float *w, float eps,
            void *out),
           (be, x, r, c, w, eps, out))
TIMED_VOID(dwconv_gelu,
           (struct backend * be, const void *x, int n, int h, int w, int c, const float *wt,
            const float *b, void *out),
           (be, x, n, h, w, c, wt, b, out))
TIMED_VOID(fuse,
           (struct backend * be, const void *const g[4], const struct resize_axis *const r[4],
            const struct resize_axis *const c[4], int e, const float *b,
            const struct resize_axis *gr, const struct resize_axis *gc, void *out),
           (be, g, r, c, e, b, gr, gc, out))
TIMED_VOID(scan_conv,
           (struct backend * be, const struct scan_weights *w, const struct scan_window *v, int n,
            const void *xz, void *b),
           (be, w, v, n, xz, b))
TIMED_VOID(selective_scan,
           (struct backend * be, const struct scan_weights *w, const struct scan_window *v, int n,
            const void *b, const float *dbc, const void *xz, void *y),
           (be, w, v, n, b, dbc, xz, y))

static enum err preprocess(struct backend *be, const uint8_t *rgb, ptrdiff_t stride,
                           const struct resize_axis *r, const struct resize_axis *c, void *out)
{
    double t = now();
    enum err e = real->preprocess(be, rgb, stride, r, c, out);
    add("preprocess", now() - t, 0);
    return e;
}

static enum err window_attention(struct backend *be, const struct window_attention *a,
                                 const void *qkv, void *out, int images)
{
    double t = now();
    enum err e = real->window_attention(be, a, qkv, out, images);
    add("window_attention", now() - t, 0);
    return e;
}

static enum err labels(struct backend *be, const float *logits, int classes,
                       const struct resize_axis *r, const struct resize_axis *c, uint8_t *out)
{
    double t = now();
    enum err e = real->labels(be, logits, classes, r, c, out);
    add("labels", now() - t, 0);
    return e;
}

static void time_backend(struct backend *be)
{
    real = be->ops;
    timed = *real;
    timed.copy = copy;
    timed.zero = zero;
    timed.linear = linear;
    timed.attention = attention;
    timed.window_attention = window_attention;
    timed.preprocess = preprocess;
    timed.im2col = im2col;
    timed.gather = gather;
    timed.scatter_add = scatter_add;
    timed.layernorm = layernorm;
    timed.rmsnorm = rmsnorm;
    timed.dwconv_gelu = dwconv_gelu;
    timed.fuse = fuse;
    timed.scan_conv = scan_conv;
    timed.selective_scan = selective_scan;
    timed.labels = labels;
    timed.linear_open = linear_open;
    be->ops = &timed;
}

static int by_time(const void *a, const void *b)
{
    double x = ((const struct slot *)a)->seconds, y = ((const struct slot *)b)->seconds;
    return (x < y) - (x > y);
}

static void print(int frames, double total)
{
    double sum = 0;
    qsort(slots, (size_t)slot_count, sizeof *slots, by_time);
    printf("%-28s %9s %7s %9s\n", "operation", "ms/frame", "calls", "GFLOP/s");
    for (int i = 0; i < slot_count; i++) {
        const struct slot *s = &slots[i];
        sum += s->seconds;
        printf("%-28s %9.3f %7ld", s->name, 1e3 * s->seconds / frames, s->calls / frames);
        if (s->gflop > 0)
            printf(" %9.1f", s->gflop / s->seconds);
        puts("");
    }
    printf("%-28s %9.3f\n", "everything else", 1e3 * (total - sum) / frames);
    printf("%-28s %9.3f\n", "frame", 1e3 * total / frames);
}

static enum err run(const char *path, int width, int height, int frames, enum dtype dtype)
{
    struct model *m;
    struct engine *e;
    struct stream *s;
    struct engine_config ec = {.dtype = dtype};
    struct stream_config sc = {.mode = MODE_STREAM};
    size_t pixels = (size_t)width * (size_t)height;
    uint8_t *rgb = malloc(pixels * 3), *labels_out = malloc(pixels);
    enum err r = rgb && labels_out ? model_open(path, &m) : ERR_NOMEM;
    if (r == ERR_OK)
        r = engine_open(m, &ec, &e);
    if (r != ERR_OK)
        return r;
    /* opened once for its backend, then again with the timing table in place */
    encoder_close(&e->loader, e->encoder);
    head_close(&e->loader, e->head);
    time_backend(e->be);
    r = encoder_open(&e->loader, &e->encoder);
    if (r == ERR_OK)
        r = head_open(&e->loader, &e->head);
    if (r == ERR_OK)
        r = stream_open(e, &sc, &s);
    for (size_t i = 0; i < pixels * 3; i++)
        rgb[i] = (uint8_t)(i * 7919 >> 5);
    struct image image = {rgb, width, height, 3 * (ptrdiff_t)width};
    uint8_t *out[1] = {labels_out};
    struct engine_run one = {s, 1, &image, out, NULL};
    double t = 0;
    for (int i = -3; r == ERR_OK && i < frames; i++) {
        if (i == 0) {
            slot_count = 0;
            memset(slots, 0, sizeof slots);
            t = now();
        }
        r = engine_step(e, &one, 1);
    }
    print(frames, now() - t);
    stream_close(s);
    engine_close(e);
    model_close(m);
    free(rgb);
    free(labels_out);
    return r;
}

int main(int argc, char **argv)
{
    int width, height;
    if (argc != 5 || sscanf(argv[2], "%dx%d", &width, &height) != 2) {
        fprintf(stderr, "usage: op_profile MODEL WxH FRAMES f32|bf16\n");
        return 2;
    }
    enum err r =
        run(argv[1], width, height, atoi(argv[3]), strcmp(argv[4], "bf16") == 0 ? DT_BF16 : DT_F32);
    if (r != ERR_OK)
        fprintf(stderr, "op_profile: %s\n", err_text());
    return r != ERR_OK;
}
