/* What the pickle machine (pickle.c) and its constructors (pickle_calls.c) share. */
#ifndef TV3S_ENGINE_IMPORT_PICKLE_PARTS_H
#define TV3S_ENGINE_IMPORT_PICKLE_PARTS_H

#include "engine/import/pickle.h"

enum {
    PK_MAX_INPUT = 64 << 20, /* a model's pickle has some 100 KB */
    PK_MAX_MEMORY = 256 << 20,
    PK_MAX_STACK = 1 << 18,
    PK_MAX_MEMO = 1 << 22,
    PK_MAX_MARKS = 1 << 12,
};

struct chunk {
    struct chunk *next;
    size_t used, size;
    _Alignas(16) uint8_t data[];
};

struct pickle {
    const uint8_t *at, *end; /* what is left of the input */
    size_t len;
    struct chunk *chunks;
    size_t memory; /* of all chunks */
    struct pk_value **stack;
    size_t depth, stack_room;
    struct pk_value **memo;
    size_t memo_count, memo_room;
    size_t marks[PK_MAX_MARKS]; /* stack depths */
    size_t mark_count;
    struct pk_value *root;
    enum err err; /* why pk_alloc returned NULL */
};

/* Memory of the machine: zeroed, 16-byte aligned, freed with it. NULL past PK_MAX_MEMORY, with
 * the error set and its code in p->err. */
void *pk_alloc(struct pickle *p, size_t size);

/* A new value of that type, or NULL with the error set. */
struct pk_value *pk_new(struct pickle *p, enum pk_type type);

/* Appends to a tuple, list or dict. */
enum err pk_push(struct pickle *p, struct pk_value *container, struct pk_value *item);

/* The stack. Values below the last mark are out of reach. */
enum err pk_stack(struct pickle *p, struct pk_value *v); /* pushes; NULL: p->err */
size_t pk_available(const struct pickle *p);
enum err pk_need(const struct pickle *p, size_t count);
struct pk_value *pk_top(const struct pickle *p); /* after pk_need */

/* Marks: pop gives the depth of the stack it was set at. */
enum err pk_push_mark(struct pickle *p);
enum err pk_pop_mark(struct pickle *p, size_t *from);

/* Everything from depth `from` becomes one container, or moves into the container below it. */
enum err pk_collect(struct pickle *p, enum pk_type type, size_t from);
enum err pk_extend(struct pickle *p, enum pk_type type, size_t from);

/* The memo: put remembers the top, get pushes what was remembered. */
enum err pk_memo_put(struct pickle *p, uint64_t index);
enum err pk_memo_get(struct pickle *p, uint64_t index);

/* Something that REDUCE may call: `call` gets a tuple of arguments. */
struct pk_callable {
    const char *module, *name;
    enum err (*call)(struct pickle *p, const struct pk_callable *self, const struct pk_value *args,
                     struct pk_value **out); /* NULL: a mere name, as torch.FloatStorage */
    enum dtype storage;                      /* of the torch.*Storage classes, else DT_COUNT */
};

/* NULL: not allowed. */
const struct pk_callable *pk_find_callable(const char *module, const char *name);

/* A persistent id: ("storage", torch.FloatStorage, key, location, numel). */
enum err pk_persistent(struct pickle *p, const struct pk_value *id, struct pk_value **out);

/* BUILD: object.__setstate__(state), for the few objects where that means something. */
enum err pk_build(struct pickle *p, struct pk_value *object, const struct pk_value *state);

#endif
