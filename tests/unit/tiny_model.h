/* Models of a few thousand random weights, and frames, for tests that need an engine but no
 * checkpoint. The values follow tests/parity/cases.py: activations stay near 1 through all layers,
 * the state forgets over some tens of tokens. */
#ifndef TV3S_TESTS_TINY_MODEL_H
#define TV3S_TESTS_TINY_MODEL_H

#include "engine/model.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

/* splitmix64 */
static inline uint64_t tiny_next(uint64_t *s)
{
    uint64_t z = *s += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Mean 0, variance 1: the sum of four uniform numbers. */
static inline float tiny_normal(uint64_t *s)
{
    float sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (float)(tiny_next(s) >> 40) * 0x1p-24f - 0.5f;
    return sum * 1.7320508f;
}

static inline struct arch tiny_arch(enum encoder_kind encoder, enum head_kind head)
{
    bool mit = encoder == ENCODER_MIT;
    struct arch a = {.encoder = encoder,
                     .dims = {16, 32, 48, 64},
                     .depths = {1, 1, 1, 1},
                     .heads = {1, 2, 3, 4},
                     .mlp = {32, 64, 96, 128},
                     .sr = {8, 4, 2, 1},
                     .swin_window = 7,
                     .eps_block = mit ? 1e-6f : 1e-5f,
                     .eps_embed = 1e-5f,
                     .head = head,
                     .embed = 32,
                     .classes = 7,
                     .layers = 4,
                     .window = 5,
                     .shift = 2,
                     .inner = 64,
                     .state = 16,
                     .conv = 4,
                     .dt_rank = 2,
                     .resize = {.kind = RESIZE_NATIVE}};
    if (!mit) {
        a.dims[2] = 64, a.dims[3] = 128; /* a merge doubles the channels */
        a.heads[2] = 4, a.heads[3] = 8;
        a.depths[2] = 2; /* one rolled block */
    }
    for (int i = 0; i < a.classes; i++)
        snprintf(a.class_names[i], ARCH_CLASS_NAME, "class %d", i);
    return a;
}

static inline bool tiny_ends(const char *name, const char *tail)
{
    size_t n = strlen(name), t = strlen(tail);
    return n >= t && strcmp(name + n - t, tail) == 0;
}

static inline float tiny_value(const char *name, int ndim, const int64_t *shape, size_t i, float z,
                               float fan_in)
{
    if (tiny_ends(name, "A_log"))
        return logf((float)(i % (size_t)shape[1] + 1)) + 0.2f * z;
    if (tiny_ends(name, "dt_proj.bias"))
        return -3.5f + z;
    if (tiny_ends(name, "running_var"))
        return fabsf(1 + 0.3f * z) + 0.1f;
    if (tiny_ends(name, "relative_position_bias_table"))
        return 0.5f * z;
    if (tiny_ends(name, ".D") || (ndim == 1 && tiny_ends(name, "weight")))
        return 1 + 0.2f * z;
    if (ndim == 1)
        return 0.1f * z;
    return z * 1.2f / sqrtf(fan_in);
}

struct tiny_weights {
    struct st_writer *writer;
    uint64_t seed;
    float *tensor[512]; /* borrowed by the writer until it has written */
    int tensors;
};

static inline enum err tiny_add(void *ctx, const char *name, int ndim, const int64_t *shape)
{
    struct tiny_weights *w = ctx;
    size_t n = 1;
    for (int i = 0; i < ndim; i++)
        n *= (size_t)shape[i];
    assert_true(w->tensors < 512);
    float *v = malloc(n * sizeof *v);
    assert_non_null(v);
    for (size_t i = 0; i < n; i++)
        v[i] = tiny_value(name, ndim, shape, i, tiny_normal(&w->seed), (float)n / (float)shape[0]);
    w->tensor[w->tensors++] = v;
    return st_writer_add(w->writer, name, DT_F32, ndim, shape, v);
}

/* Writes a model file with random weights. */
static inline void tiny_write(const struct arch *a, uint64_t seed, const char *path)
{
    struct tiny_weights w = {.seed = seed};
    assert_int_equal(st_writer_open(&w.writer), ERR_OK);
    assert_int_equal(arch_write(a, w.writer), ERR_OK);
    assert_int_equal(arch_visit(a, tiny_add, &w), ERR_OK);
    assert_int_equal(st_write_file(w.writer, path), ERR_OK);
    st_writer_close(w.writer);
    while (w.tensors)
        free(w.tensor[--w.tensors]);
}

/* Writes a model file and opens it; the file is gone when this returns. */
static inline struct model *tiny_open(const struct arch *a, uint64_t seed)
{
    struct model *m = NULL;
    char path[] = "/tmp/tv3s-tiny-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    tiny_write(a, seed, path);
    if (model_open(path, &m) != ERR_OK)
        fail_msg("%s", err_text());
    unlink(path);
    return m;
}

/* Frame t of clip `seed`: waves that drift, and noise. rgb: [height][width][3] */
static inline void tiny_frame(uint8_t *rgb, int width, int height, int seed, int t)
{
    uint64_t noise = (uint64_t)seed * 1000003u + (uint64_t)t;
    for (int y = 0; y < height; y++)
        for (int x = 0; x < width; x++)
            for (int c = 0; c < 3; c++) {
                float wave = sinf(0.07f * (float)(x + 3 * t) * (float)(1 + (seed + c) % 4)) +
                             cosf(0.05f * (float)(y - 2 * t) * (float)(1 + (seed + 2 * c) % 5));
                *rgb++ = (uint8_t)(128 + 50 * wave + (float)(tiny_next(&noise) % 24));
            }
}

#endif
