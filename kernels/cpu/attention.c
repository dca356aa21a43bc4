/* Attention of MiT: softmax(q k^T / sqrt(d)) v with few keys (spatial reduction) and many queries.
 *
 * One image at a time: every head's K and V are packed for oneDNN once (they are small: 405 keys at
 * 864x480), then tiles of TILE queries go through product, softmax, product without leaving the
 * core's cache:
 *
 *     s [TILE, keys] = q_tile k^T        fp32, thread-local
 *     p [TILE, keys] = exp((s - max) / sqrt(d))   act, unnormalised, 1 / sum kept
 *     o [TILE, d]    = p v               fp32
 *     out_tile       = o / sum           act, at its head's columns
 *
 * so the scores, 10 million a stage-1 layer, are never in memory. Keys are padded with zeros to
 * whole vectors: their scores are left out of the softmax, their weights are zero. On a Zen 5 core
 * in bf16 128 rows of a head and 405 keys take 14 us for scores, 6 for the softmax and 13 for the
 * values; with 405 columns instead of 416 the scores took 16, or fell to oneDNN's slower gemm. */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>

enum {
    TILE = 128,
    KEYS_STEP = 32, /* whole vectors, and what oneDNN's kernels take without a tail */
};

struct attention {
    struct attention_desc d;
    int head_dim;
    int keys;                         /* d.keys, padded to a multiple of KEYS_STEP */
    struct gemm *score[2], *value[2]; /* [0] full tiles, [1] the last, shorter tile or NULL */
    struct repack *pack_k, *pack_v;
    size_t bytes_k, bytes_v; /* packed, one head */
    size_t bytes_thread;     /* s, p, o, inverse sums of one thread */
};

static size_t align64(size_t n)
{
    return (n + 63) / 64 * 64;
}

static enum err tile_open(struct backend *be, struct attention *a, int which, int height)
{
    struct gemm_context *c = &cpu_of(be)->gemm;
    struct gemm_desc score = {.m = height,
                              .n = a->keys,
                              .k = a->head_dim,
                              .ld_src = a->d.channels,
                              .ld_dst = a->keys,
                              .src = cpu_act_type(be),
                              .dst = dnnl_f32,
                              .weights = which ? gemm_weights(a->score[0]) : NULL};
    struct gemm_desc value = {.m = height,
                              .n = a->head_dim,
                              .k = a->keys,
                              .ld_src = a->keys,
                              .ld_dst = a->head_dim,
                              .src = cpu_act_type(be),
                              .dst = dnnl_f32,
                              .weights = which ? gemm_weights(a->value[0]) : NULL};
    enum err e = gemm_open(c, &score, &a->score[which]);
    return e == ERR_OK ? gemm_open(c, &value, &a->value[which]) : e;
}

enum err cpu_attention_open(struct backend *be, const struct attention_desc *d,
                            struct attention **out)
{
    struct gemm_context *c = &cpu_of(be)->gemm;
    struct attention *a = calloc(1, sizeof *a);
    *out = NULL;
    if (!a)
        return err_set(ERR_NOMEM, "out of memory");
    a->d = *d;
    a->head_dim = d->channels / d->heads;
    a->keys = (d->keys + KEYS_STEP - 1) / KEYS_STEP * KEYS_STEP;
    enum err e = tile_open(be, a, 0, TILE);
    if (e == ERR_OK && d->queries % TILE)
        e = tile_open(be, a, 1, d->queries % TILE);
    /* k^T: element (channel, key); v: element (key, channel); rows of kv are 2C long */
    if (e == ERR_OK)
        e = repack_open(c, a->head_dim, a->keys, 1, 2 * d->channels, cpu_act_type(be),
                        gemm_weights(a->score[0]), &a->pack_k);
    if (e == ERR_OK)
        e = repack_open(c, a->keys, a->head_dim, 2 * d->channels, 1, cpu_act_type(be),
                        gemm_weights(a->value[0]), &a->pack_v);
    if (e != ERR_OK) {
        cpu_attention_close(be, a);
        return e;
    }
    a->bytes_k = align64(dnnl_memory_desc_get_size(gemm_weights(a->score[0])));
    a->bytes_v = align64(dnnl_memory_desc_get_size(gemm_weights(a->value[0])));
    a->bytes_thread = align64(sizeof(float) * TILE * (size_t)a->keys) +
                      align64(backend_elem(be) * TILE * (size_t)a->keys) +
                      align64(sizeof(float) * TILE * (size_t)a->head_dim) +
                      align64(sizeof(float) * TILE);
    *out = a;
    return ERR_OK;
}

void cpu_attention_close(struct backend *be, struct attention *a)
{
    (void)be;
    if (!a)
        return;
    for (int i = 0; i < 2; i++) {
        gemm_close(a->score[i]);
        gemm_close(a->value[i]);
    }
    repack_close(a->pack_k);
    repack_close(a->pack_v);
    free(a);
}

/* One tile of one head. q, out: at the tile's first row and the head's first channel. */
static enum err tile_run(struct backend *be, struct attention *a, int last, const void *q,
                         const void *k, const void *v, void *out, char *scratch, int thread)
{
    const struct cpu_ops *ops = cpu_of(be)->ops;
    int keys = a->d.keys, ld = a->keys, height = last ? a->d.queries % TILE : TILE;
    float *s = (float *)scratch;
    void *p = scratch += align64(sizeof(float) * TILE * (size_t)ld);
    float *o = (float *)(scratch += align64(backend_elem(be) * TILE * (size_t)ld));
    float *inv = (float *)(scratch + align64(sizeof(float) * TILE * (size_t)a->head_dim));
    float scale = 1.0f / sqrtf((float)a->head_dim);

    enum err e = gemm_run(a->score[last], thread, q, k, NULL, s);
    if (e != ERR_OK)
        return e;
    ops->softmax_rows(s, ld, height, keys, scale, p, ld, inv, cpu_is_bf16(be));
    e = gemm_run(a->value[last], thread, p, v, NULL, o);
    if (e != ERR_OK)
        return e;
    ops->scale_rows(o, a->head_dim, height, a->head_dim, inv, out, a->d.channels, cpu_is_bf16(be));
    return ERR_OK;
}

enum err cpu_attention(struct backend *be, struct attention *a, const void *q, const void *kv,
                       void *out, int images)
{
    struct cpu_backend *c = cpu_of(be);
    int heads = a->d.heads, tiles = (a->d.queries + TILE - 1) / TILE;
    size_t elem = backend_elem(be), row = (size_t)a->d.channels * elem;
    size_t head_bytes = (size_t)a->head_dim * elem;
    size_t packed = (size_t)heads * (a->bytes_k + a->bytes_v);
    enum err result = ERR_OK;
    void *scratch;
    size_t padded = (size_t)a->keys * 2 * row, used = (size_t)a->d.keys * 2 * row;
    enum err e = cpu_scratch(
        c, align64(packed + padded) + (size_t)c->gemm.threads * a->bytes_thread, &scratch);
    if (e != ERR_OK)
        return e;
    char *pk = scratch, *pv = pk + (size_t)heads * a->bytes_k, *kvi = pk + packed;
    char *threads = pk + align64(packed + padded);
    memset(kvi + used, 0, padded - used);

    for (int i = 0; i < images; i++) {
        const char *qi = (const char *)q + (size_t)i * (size_t)a->d.queries * row;
        memcpy(kvi, (const char *)kv + (size_t)i * used, used);
        char *oi = (char *)out + (size_t)i * (size_t)a->d.queries * row;
#pragma omp parallel if (heads * tiles > 1)
        {
            int t = omp_get_thread_num();
            enum err mine = ERR_OK;
#pragma omp for schedule(static)
            for (int h = 0; h < 2 * heads; h++) {
                const char *src = kvi + (h < heads ? 0 : row) + (size_t)(h % heads) * head_bytes;
                enum err r = h < heads ? repack_run(a->pack_k, t, src, pk + (size_t)h * a->bytes_k)
                                       : repack_run(a->pack_v, t, src,
                                                    pv + (size_t)(h - heads) * a->bytes_v);
                mine = r == ERR_OK ? mine : r;
            }
#pragma omp for schedule(dynamic, 1)
            for (int j = 0; j < heads * tiles; j++) {
                int h = j / tiles, tile = j % tiles;
                size_t at = (size_t)tile * TILE * row + (size_t)h * head_bytes;
                int last = tile == tiles - 1 && a->d.queries % TILE;
                enum err r = tile_run(be, a, last, qi + at, pk + (size_t)h * a->bytes_k,
                                      pv + (size_t)h * a->bytes_v, oi + at,
                                      threads + (size_t)t * a->bytes_thread, t);
                mine = r == ERR_OK ? mine : r;
            }
            if (mine != ERR_OK) {
#pragma omp atomic write
                result = mine;
            }
        }
    }
    return result == ERR_OK ? ERR_OK : err_set(result, "attention failed");
}
