#include "engine/arena.h"

#include <string.h>

enum { BLOCK = 1 << 20 };

void arena_open(struct arena *a, struct backend *be)
{
    memset(a, 0, sizeof *a);
    a->be = be;
}

void arena_close(struct arena *a)
{
    for (int i = 0; i < a->blocks; i++)
        a->be->ops->free(a->be, a->block[i]);
    arena_open(a, a->be);
}

enum err arena_get(struct arena *a, size_t bytes, void **out)
{
    bytes = (bytes + 63) / 64 * 64;
    while (a->current < a->blocks && a->used + bytes > a->size[a->current]) {
        a->before += a->used;
        a->used = 0;
        a->current++;
    }
    if (a->current == a->blocks) {
        if (a->blocks == ARENA_BLOCKS)
            return err_set(ERR_INTERNAL, "the arena has too many blocks");
        size_t size = bytes > BLOCK ? bytes : BLOCK;
        size = size > a->high ? size : a->high; /* doubles what there is: few blocks always do */
        enum err e = a->be->ops->alloc(a->be, size, &a->block[a->blocks]);
        if (e != ERR_OK)
            return e;
        a->size[a->blocks++] = size;
    }
    *out = (char *)a->block[a->current] + a->used;
    a->used += bytes;
    if (a->before + a->used > a->high)
        a->high = a->before + a->used;
    return ERR_OK;
}

struct arena_mark arena_mark(const struct arena *a)
{
    return (struct arena_mark){a->current, a->used, a->before};
}

void arena_release(struct arena *a, struct arena_mark m)
{
    a->current = m.current;
    a->used = m.used;
    a->before = m.before;
}

void arena_settle(struct arena *a)
{
    if (a->blocks <= 1)
        return;
    size_t high = a->high;
    arena_close(a);
    a->high = high;
    if (a->be->ops->alloc(a->be, high, &a->block[0]) != ERR_OK)
        return; /* the next arena_get tries again, and reports */
    a->size[0] = high;
    a->blocks = 1;
}
