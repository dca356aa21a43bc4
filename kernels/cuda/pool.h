/* A pool: pieces of a few large slabs, handed out and taken back by host book-keeping alone.
 *
 * The pieces are hidden states and features. Every batch takes a buffer for each state it makes
 * and gives the old one back, so neither may be a call of the runtime, which waits for the device.
 * A piece is cut from the smallest free extent that has room; what comes back joins its
 * neighbours. Sizes are few (one for a frame size), so what is free fits what is asked for next.
 *
 * A slab made by cuda_pool_reserve stays. When all are full another is made; of those the last
 * empty one stays too, so that a pool at its edge does not make and free one in turn. */
#ifndef TV3S_KERNELS_CUDA_POOL_H
#define TV3S_KERNELS_CUDA_POOL_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

struct pool_extent {
    char *at;
    size_t bytes;
};

struct pool_slab {
    struct pool_extent all;
    bool stays;
};

struct cuda_pool {
    /* Where slabs come from. `get` reports ERR_NOMEM. */
    enum err (*get)(void *owner, size_t bytes, void **out);
    void (*put)(void *owner, void *p);
    void *owner;

    struct pool_slab *slab;
    size_t slabs;
    struct pool_extent *free; /* by address; never two that touch, but in two slabs */
    size_t frees, places;
    size_t pieces; /* handed out: `free` has places for all that may come back */
};

enum err cuda_pool_reserve(struct cuda_pool *p, size_t bytes);
/* Aligned to 256 bytes. */
enum err cuda_pool_take(struct cuda_pool *p, size_t bytes, void **out);
/* bytes: as taken. */
void cuda_pool_give(struct cuda_pool *p, void *piece, size_t bytes);
void cuda_pool_close(struct cuda_pool *p);

#endif
