#include "kernels/cuda/pool.h"

#include "base/try.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { POOL_SLAB = 64 << 20, POOL_ALIGN = 256 };

static size_t rounded(size_t bytes)
{
    return (bytes + !bytes + POOL_ALIGN - 1) / POOL_ALIGN * POOL_ALIGN;
}

/* The first free extent behind `at`. */
static size_t behind(const struct cuda_pool *p, const char *at)
{
    size_t low = 0, high = p->frees;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((uintptr_t)p->free[middle].at > (uintptr_t)at)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static void insert(struct cuda_pool *p, size_t i, struct pool_extent x)
{
    memmove(&p->free[i + 1], &p->free[i], (p->frees++ - i) * sizeof *p->free);
    p->free[i] = x;
}

static void drop(struct cuda_pool *p, size_t i)
{
    memmove(&p->free[i], &p->free[i + 1], (--p->frees - i) * sizeof *p->free);
}

/* Places for every extent there can be: pieces and slabs together, and some on the way. */
static enum err grow(struct cuda_pool *p)
{
    size_t most = p->pieces + p->slabs + 4;
    if (most <= p->places)
        return ERR_OK;
    struct pool_extent *grown = realloc(p->free, 2 * most * sizeof *grown);
    if (!grown)
        return err_set(ERR_NOMEM, "out of memory for a pool");
    p->free = grown;
    p->places = 2 * most;
    return ERR_OK;
}

static enum err add_slab(struct cuda_pool *p, size_t bytes, bool stays)
{
    void *at;
    struct pool_slab *grown = realloc(p->slab, (p->slabs + 1) * sizeof *grown);
    if (!grown)
        return err_set(ERR_NOMEM, "out of memory for a pool");
    p->slab = grown;
    TRY(grow(p));
    TRY(p->get(p->owner, bytes, &at));
    p->slab[p->slabs++] = (struct pool_slab){{at, bytes}, stays};
    insert(p, behind(p, at), (struct pool_extent){at, bytes});
    return ERR_OK;
}

enum err cuda_pool_reserve(struct cuda_pool *p, size_t bytes)
{
    return bytes ? add_slab(p, rounded(bytes), true) : ERR_OK;
}

/* The smallest extent with room; `frees` for none. */
static size_t best(const struct cuda_pool *p, size_t bytes)
{
    size_t found = p->frees;
    for (size_t i = 0; i < p->frees; i++)
        if (p->free[i].bytes >= bytes &&
            (found == p->frees || p->free[i].bytes < p->free[found].bytes))
            found = i;
    return found;
}

enum err cuda_pool_take(struct cuda_pool *p, size_t bytes, void **out)
{
    bytes = rounded(bytes);
    *out = NULL;
    TRY(grow(p));
    size_t i = best(p, bytes);
    if (i == p->frees) {
        if (bytes >= POOL_SLAB || add_slab(p, POOL_SLAB, false) != ERR_OK)
            TRY(add_slab(p, bytes, false));
        i = best(p, bytes);
    }
    *out = p->free[i].at;
    p->free[i].at += bytes;
    p->free[i].bytes -= bytes;
    if (p->free[i].bytes == 0)
        drop(p, i);
    p->pieces++;
    return ERR_OK;
}

/* Slabs of which nothing is handed out, but for those that stay: all but one go. */
static void trim(struct cuda_pool *p, struct pool_slab *emptied)
{
    for (size_t i = 0; i < p->slabs; i++) {
        struct pool_slab *s = &p->slab[i];
        size_t at = behind(p, s->all.at) - 1; /* the extent at or before its start */
        if (s == emptied || s->stays || at >= p->frees || p->free[at].at != s->all.at ||
            p->free[at].bytes != s->all.bytes)
            continue;
        drop(p, at);
        p->put(p->owner, s->all.at);
        *s = p->slab[--p->slabs];
        return; /* there was one at most */
    }
}

void cuda_pool_give(struct cuda_pool *p, void *piece, size_t bytes)
{
    struct pool_slab *s = p->slab;
    char *at = piece;
    if (!at)
        return;
    bytes = rounded(bytes);
    while ((uintptr_t)at < (uintptr_t)s->all.at ||
           (uintptr_t)at - (uintptr_t)s->all.at >= s->all.bytes)
        s++;
    size_t i = behind(p, at);
    p->pieces--;
    insert(p, i, (struct pool_extent){at, bytes});
    char *end = at + bytes;
    if (i + 1 < p->frees && p->free[i + 1].at == end && end != s->all.at + s->all.bytes) {
        p->free[i].bytes += p->free[i + 1].bytes;
        drop(p, i + 1);
    }
    if (i > 0 && p->free[i - 1].at + p->free[i - 1].bytes == at && at != s->all.at) {
        p->free[i - 1].bytes += p->free[i].bytes;
        drop(p, i--);
    }
    if (!s->stays && p->free[i].bytes == s->all.bytes)
        trim(p, s);
}

void cuda_pool_close(struct cuda_pool *p)
{
    for (size_t i = 0; i < p->slabs; i++)
        p->put(p->owner, p->slab[i].all.at);
    free(p->slab);
    free(p->free);
    p->slab = NULL;
    p->free = NULL;
    p->slabs = p->frees = p->places = p->pieces = 0;
}
