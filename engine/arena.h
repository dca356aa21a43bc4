/* Scratch memory of the engine: bump allocation, released in reverse, the same frame after frame.
 *
 * The first pass of a new shape may need a second block; arena_settle then merges all blocks into
 * one of the high-water size, so that from the next pass on nothing is allocated. */
#ifndef TV3S_ENGINE_ARENA_H
#define TV3S_ENGINE_ARENA_H

#include "kernels/backend.h"

enum { ARENA_BLOCKS = 64 };

struct arena {
    struct backend *be;
    void *block[ARENA_BLOCKS];
    size_t size[ARENA_BLOCKS];
    int blocks, current;
    size_t used;   /* of the current block */
    size_t before; /* bytes used in the blocks before it */
    size_t high;
};

struct arena_mark {
    int current;
    size_t used, before;
};

void arena_open(struct arena *a, struct backend *be);
void arena_close(struct arena *a);
/* 64-byte aligned, uninitialised; valid until a release to an earlier mark. ERR_NOMEM. */
enum err arena_get(struct arena *a, size_t bytes, void **out);
struct arena_mark arena_mark(const struct arena *a);
void arena_release(struct arena *a, struct arena_mark m);
/* Everything is released already; merges the blocks. */
void arena_settle(struct arena *a);

#endif
