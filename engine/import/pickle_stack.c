/* Memory, stack, marks and memo of the pickle machine: each operation checks that what it takes is
 * there, and that what it adds is within the limits of pickle_parts.h. */
#include "engine/import/pickle_parts.h"

#include <inttypes.h>
#include <stdlib.h>

/* ---- memory -------------------------------------------------------------------------------------
 */

void *pk_alloc(struct pickle *p, size_t size)
{
    size = (size + 15) & ~(size_t)15;
    if (!p->chunks || size > p->chunks->size - p->chunks->used) {
        size_t room = size > 65536 ? size : 65536;
        if (room > PK_MAX_MEMORY || p->memory > PK_MAX_MEMORY - room) {
            p->err = err_set(ERR_LIMIT, "pickle needs more than %d MiB", PK_MAX_MEMORY >> 20);
            return NULL;
        }
        struct chunk *c = calloc(1, sizeof *c + room);
        if (!c) {
            p->err = err_set(ERR_NOMEM, "no memory for a pickle");
            return NULL;
        }
        c->size = room;
        c->next = p->chunks;
        p->chunks = c;
        p->memory += room;
    }
    void *block = p->chunks->data + p->chunks->used;
    p->chunks->used += size;
    return block;
}

struct pk_value *pk_new(struct pickle *p, enum pk_type type)
{
    struct pk_value *v = pk_alloc(p, sizeof *v);
    if (v)
        v->type = type;
    return v;
}

/* Room for `more` pointers; doubling keeps what the arena loses below what it holds. */
static enum err reserve(struct pickle *p, struct pk_items *items, size_t more)
{
    if (more <= items->room - items->count)
        return ERR_OK;
    size_t room = items->count + more > 2 * items->room ? items->count + more : 2 * items->room;
    struct pk_value **at = pk_alloc(p, room * sizeof *at);
    if (!at)
        return p->err;
    if (items->count)
        memcpy(at, items->at, items->count * sizeof *at);
    items->at = at;
    items->room = room;
    return ERR_OK;
}

enum err pk_push(struct pickle *p, struct pk_value *container, struct pk_value *item)
{
    enum err err = reserve(p, &container->items, 1);
    if (!err)
        container->items.at[container->items.count++] = item;
    return err;
}

/* ---- the stack ----------------------------------------------------------------------------------
 */

enum err pk_stack(struct pickle *p, struct pk_value *v)
{
    if (!v)
        return p->err;
    if (p->depth == p->stack_room) {
        size_t room = p->stack_room ? 2 * p->stack_room : 1024;
        if (room > PK_MAX_STACK)
            return err_set(ERR_LIMIT, "pickle stacks more than %d values", PK_MAX_STACK);
        struct pk_value **more = realloc(p->stack, room * sizeof *more);
        if (!more)
            return err_set(ERR_NOMEM, "no memory for a pickle");
        p->stack = more;
        p->stack_room = room;
    }
    p->stack[p->depth++] = v;
    return ERR_OK;
}

/* Values above the last mark: below it nothing may be popped. */
size_t pk_available(const struct pickle *p)
{
    return p->depth - (p->mark_count ? p->marks[p->mark_count - 1] : 0);
}

enum err pk_need(const struct pickle *p, size_t count)
{
    if (pk_available(p) < count)
        return err_set(ERR_FORMAT, "pickle is broken: it takes more values than there are");
    return ERR_OK;
}

struct pk_value *pk_top(const struct pickle *p)
{
    return p->stack[p->depth - 1];
}

/* Removes the last mark: *from is the depth it stood at. */
enum err pk_pop_mark(struct pickle *p, size_t *from)
{
    if (!p->mark_count)
        return err_set(ERR_FORMAT, "pickle is broken: it looks for a mark that is not there");
    *from = p->marks[--p->mark_count];
    return ERR_OK;
}

/* Replaces everything from depth `from` by one container of it. */
enum err pk_collect(struct pickle *p, enum pk_type type, size_t from)
{
    size_t count = p->depth - from;
    struct pk_value *v = pk_new(p, type);
    if (!v)
        return p->err;
    if (type == PK_DICT && count % 2)
        return err_set(ERR_FORMAT, "pickle is broken: a key without a value");
    if (count) {
        enum err err = reserve(p, &v->items, count);
        if (err)
            return err;
        memcpy(v->items.at, p->stack + from, count * sizeof *p->stack);
        v->items.count = count;
    }
    p->depth = from;
    return pk_stack(p, v);
}

/* Moves everything from depth `from` into the container below it. */
enum err pk_extend(struct pickle *p, enum pk_type type, size_t from)
{
    size_t count = p->depth - from;
    p->depth = from;
    enum err err = pk_need(p, 1);
    if (err)
        return err;
    struct pk_value *into = pk_top(p);
    if (into->type != type || (type == PK_DICT && count % 2))
        return err_set(ERR_FORMAT, "pickle is broken: it adds to what is no %s",
                       type == PK_DICT ? "dict" : "list");
    if (!count)
        return ERR_OK;
    err = reserve(p, &into->items, count);
    if (err)
        return err;
    memcpy(into->items.at + into->items.count, p->stack + from, count * sizeof *p->stack);
    into->items.count += count;
    return ERR_OK;
}

enum err pk_push_mark(struct pickle *p)
{
    if (p->mark_count == PK_MAX_MARKS)
        return err_set(ERR_LIMIT, "pickle nests deeper than %d", PK_MAX_MARKS);
    p->marks[p->mark_count++] = p->depth;
    return ERR_OK;
}

/* ---- the memo -----------------------------------------------------------------------------------
 */

enum err pk_memo_put(struct pickle *p, uint64_t index)
{
    enum err err = pk_need(p, 1);
    if (err)
        return err;
    if (index >= p->len || index >= PK_MAX_MEMO)
        return err_set(ERR_LIMIT, "pickle is broken: memo index %" PRIu64, index);
    if (index >= p->memo_room) {
        size_t room = 2 * p->memo_room > index ? 2 * p->memo_room : (size_t)index + 1024;
        struct pk_value **more = realloc(p->memo, room * sizeof *more);
        if (!more)
            return err_set(ERR_NOMEM, "no memory for a pickle");
        memset(more + p->memo_room, 0, (room - p->memo_room) * sizeof *more);
        p->memo = more;
        p->memo_room = room;
    }
    p->memo_count += p->memo[index] == NULL;
    p->memo[index] = pk_top(p);
    return ERR_OK;
}

enum err pk_memo_get(struct pickle *p, uint64_t index)
{
    if (index >= p->memo_room || !p->memo[index])
        return err_set(ERR_FORMAT, "pickle is broken: nothing at memo index %" PRIu64, index);
    return pk_stack(p, p->memo[index]);
}

void pickle_close(struct pickle *p)
{
    if (!p)
        return;
    while (p->chunks) {
        struct chunk *c = p->chunks;
        p->chunks = c->next;
        free(c);
    }
    free(p->stack);
    free(p->memo);
    free(p);
}

const struct pk_value *pickle_get(const struct pk_value *dict, const char *key)
{
    size_t len = strlen(key);
    if (!dict || dict->type != PK_DICT)
        return NULL;
    for (size_t i = dict->items.count; i >= 2; i -= 2) {
        const struct pk_value *k = dict->items.at[i - 2];
        if (k->type == PK_STRING && k->text.len == len && memcmp(k->text.at, key, len) == 0)
            return dict->items.at[i - 1];
    }
    return NULL;
}
