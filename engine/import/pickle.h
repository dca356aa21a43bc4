/* A reader of the pickles inside PyTorch checkpoints.
 *
 * It builds plain values, tensors that name their storage, and nothing else. A pickle is a program;
 * this interpreter has no way to run anything but the handful of constructors in pickle_calls.c,
 * and refuses the file with the name of whatever else it wants to call. */
#ifndef TV3S_ENGINE_IMPORT_PICKLE_H
#define TV3S_ENGINE_IMPORT_PICKLE_H

#include "base/dtype.h"
#include "base/err.h"
#include "engine/safetensors.h"

#include <stdbool.h>

enum pk_type {
    PK_NONE,
    PK_BOOL,
    PK_INT,
    PK_FLOAT,
    PK_STRING, /* bytes that ought to be UTF-8; NUL-terminated, but may hold NULs */
    PK_BYTES,
    PK_TUPLE,
    PK_LIST,
    PK_DICT,
    PK_CALLABLE,
    PK_STORAGE,
    PK_TENSOR,
    PK_NP_DTYPE,
    PK_NP_ARRAY, /* one that is too large to be of interest; small ones become lists */
};

struct pk_value;

/* A list of bytes in the archive: `numel` elements of the file data/KEY. */
struct pk_storage {
    const char *key;
    enum dtype dtype;
    uint64_t numel;
};

/* A view of a storage. All of it lies inside: offset + sum((shape - 1) * stride) < numel. */
struct pk_tensor {
    const struct pk_storage *storage;
    uint64_t offset;
    int ndim;
    int64_t shape[ST_MAX_DIMS], stride[ST_MAX_DIMS]; /* in elements, none negative */
};

struct pk_items {
    struct pk_value **at; /* a dict has key, value, key, value, ... */
    size_t count, room;
};

struct pk_text {
    char *at;
    size_t len;
};

struct pk_np_dtype {
    char kind; /* 'f', 'i', 'u' or 'b' */
    int size;  /* bytes */
};

struct pk_value {
    enum pk_type type;
    union {
        int64_t integer; /* PK_BOOL, PK_INT */
        double real;
        struct pk_text text;   /* PK_STRING, PK_BYTES */
        struct pk_items items; /* PK_TUPLE, PK_LIST, PK_DICT */
        const struct pk_callable *callable;
        struct pk_storage *storage;
        struct pk_tensor *tensor;
        struct pk_np_dtype np;
    };
};

struct pickle;

/* Interprets `len` bytes. Values live until pickle_close. ERR_FORMAT for what is broken,
 * ERR_UNSUPPORTED for what is refused, ERR_LIMIT, ERR_NOMEM. Values may contain themselves: walk
 * them to a fixed depth. */
enum err pickle_open(const void *buf, size_t len, struct pickle **out);
void pickle_close(struct pickle *p); /* NULL is allowed */
const struct pk_value *pickle_root(const struct pickle *p);

/* The value of a string key, the last one where there are several; NULL: none, or no dict. */
const struct pk_value *pickle_get(const struct pk_value *dict, const char *key);

#endif
