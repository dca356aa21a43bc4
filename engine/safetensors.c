/* Reading safetensors. Nothing in the file is believed:
 *   - the header length must fit the file and ST_MAX_HEADER, the JSON must be one object without
 *     duplicate keys (jansson bounds its own recursion);
 *   - a tensor's shape product must not overflow and must be exactly the size of its range;
 *   - sorted by offset, the ranges must tile the data section: no overlap, no hole, nothing left
 *     over. That one rule covers every bad offset there is, and leaves no place to hide bytes in.
 * After that every st_tensor points into the map, and its `bytes` can be read without a check.
 * Data is as aligned as the file has it, that is, possibly not at all: values go through memcpy,
 * which the compiler turns into plain unaligned loads. */
#include "engine/safetensors.h"
#include "engine/safetensors_parts.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct st_file {
    void *map; /* ours to unmap, or NULL */
    size_t map_len;
    json_t *root;              /* owns the names of a parsed file */
    json_t *metadata;          /* borrowed from root, or NULL */
    char *names;               /* owns the names of an assembled one */
    struct st_tensor *tensors; /* sorted by name */
    size_t count;
};

bool st_shape_bytes(enum dtype dtype, int ndim, const int64_t *shape, size_t *bytes)
{
    size_t n = dtype_size(dtype);
    bool ok = true, empty = false;
    for (int i = 0; i < ndim; i++) {
        if (shape[i] < 0)
            return false;
        if (shape[i] == 0)
            empty = true;
        else
            ok = ok && !__builtin_mul_overflow(n, (uint64_t)shape[i], &n);
    }
    *bytes = empty ? 0 : n;
    return ok && *bytes <= PTRDIFF_MAX;
}

const char *st_shape_text(int ndim, const int64_t *shape, char *text, size_t size)
{
    size_t used = (size_t)snprintf(text, size, "[");
    for (int i = 0; i < ndim && used < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%" PRId64, i ? ", " : "", shape[i]);
    if (used < size)
        snprintf(text + used, size - used, "]");
    return text;
}

static bool dtype_parse(const char *name, enum dtype *out)
{
    for (int t = 0; name && t < DT_COUNT; t++)
        if (strcmp(name, dtype_name((enum dtype)t)) == 0) {
            *out = (enum dtype)t;
            return true;
        }
    return false;
}

/* One header entry {dtype, shape, data_offsets}; `data` is the section of `len` bytes. */
static enum err parse_tensor(const char *name, const json_t *entry, const uint8_t *data, size_t len,
                             struct st_tensor *t)
{
    const char *dtype = json_string_value(json_object_get(entry, "dtype"));
    const json_t *shape = json_object_get(entry, "shape");
    const json_t *range = json_object_get(entry, "data_offsets");
    if (strlen(name) > ST_MAX_NAME)
        return err_set(ERR_FORMAT, "the name of tensor '%.60s...' is too long", name);
    if (!dtype_parse(dtype, &t->dtype))
        return err_set(ERR_UNSUPPORTED, "tensor '%s' has the unknown dtype '%.20s'", name,
                       dtype ? dtype : "none");
    if (!json_is_array(shape) || json_array_size(shape) > ST_MAX_DIMS)
        return err_set(ERR_FORMAT, "tensor '%s' has no shape of at most %d sides", name,
                       ST_MAX_DIMS);
    t->name = name;
    t->ndim = (int)json_array_size(shape);
    for (int i = 0; i < t->ndim; i++) {
        const json_t *side = json_array_get(shape, (size_t)i);
        if (!json_is_integer(side) || json_integer_value(side) < 0)
            return err_set(ERR_FORMAT, "tensor '%s' has a side that is not a whole number", name);
        t->shape[i] = json_integer_value(side);
    }

    const json_t *begin = json_array_get(range, 0), *end = json_array_get(range, 1);
    if (json_array_size(range) != 2 || !json_is_integer(begin) || !json_is_integer(end))
        return err_set(ERR_FORMAT, "tensor '%s' has no data_offsets", name);
    json_int_t from = json_integer_value(begin), to = json_integer_value(end);
    if (from < 0 || to < from || (uint64_t)to > len)
        return err_set(ERR_FORMAT,
                       "tensor '%s' lies at bytes %" JSON_INTEGER_FORMAT " to %" JSON_INTEGER_FORMAT
                       " of %zu bytes of data",
                       name, from, to, len);
    size_t need;
    char text[160];
    if (!st_shape_bytes(t->dtype, t->ndim, t->shape, &need) || need != (size_t)(to - from))
        return err_set(ERR_FORMAT, "tensor '%s' of shape %s and dtype %s does not fit %zu bytes",
                       name, st_shape_text(t->ndim, t->shape, text, sizeof text), dtype,
                       (size_t)(to - from));
    t->data = data + from;
    t->bytes = need;
    return ERR_OK;
}

static int by_offset(const void *a, const void *b)
{
    const struct st_tensor *x = a, *y = b;
    if (x->data != y->data)
        return (const char *)x->data < (const char *)y->data ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct st_tensor *)a)->name, ((const struct st_tensor *)b)->name);
}

/* Sorts by offset; the ranges must follow each other from the first byte of data to the last. */
static enum err check_tiling(struct st_file *f, const uint8_t *data, size_t len)
{
    const uint8_t *at = data;
    if (f->count)
        qsort(f->tensors, f->count, sizeof *f->tensors, by_offset);
    for (size_t i = 0; i < f->count; i++) {
        const struct st_tensor *t = &f->tensors[i];
        if ((const uint8_t *)t->data < at)
            return err_set(ERR_FORMAT, "tensors '%s' and '%s' overlap", t[-1].name, t->name);
        if ((const uint8_t *)t->data > at)
            return err_set(ERR_FORMAT, "%td bytes before tensor '%s' belong to no tensor",
                           (const uint8_t *)t->data - at, t->name);
        at += t->bytes;
    }
    if (at != data + len)
        return err_set(ERR_FORMAT, "%td bytes at the end belong to no tensor", data + len - at);
    return ERR_OK;
}

static enum err parse_metadata(struct st_file *f, json_t *meta)
{
    const char *key;
    json_t *value;
    if (!json_is_object(meta))
        return err_set(ERR_FORMAT, "__metadata__ is not an object");
    json_object_foreach(meta, key, value) if (!json_is_string(value)) return err_set(
        ERR_FORMAT, "__metadata__ '%.60s' is not a string", key);
    f->metadata = meta;
    return ERR_OK;
}

static enum err parse_header(struct st_file *f, const uint8_t *data, size_t len)
{
    enum err err;
    const char *key;
    json_t *value;
    f->tensors = calloc(json_object_size(f->root) + 1, sizeof *f->tensors);
    if (!f->tensors)
        return err_set(ERR_NOMEM, "no memory for %zu tensors", json_object_size(f->root));
    json_object_foreach(f->root, key, value)
    {
        if (strcmp(key, "__metadata__") == 0)
            err = parse_metadata(f, value);
        else
            err = parse_tensor(key, value, data, len, &f->tensors[f->count++]);
        if (err)
            return err;
    }
    err = check_tiling(f, data, len);
    if (f->count)
        qsort(f->tensors, f->count, sizeof *f->tensors, by_name);
    return err;
}

enum err st_parse(const void *buf, size_t len, struct st_file **out)
{
    const uint8_t *bytes = buf;
    uint64_t header = 0;
    *out = NULL;
    if (len < 8)
        return err_set(ERR_FORMAT, "not a safetensors file: %zu bytes", len);
    for (int i = 7; i >= 0; i--)
        header = header << 8 | bytes[i];
    if (header > len - 8 && header > ST_MAX_HEADER)
        return err_set(ERR_FORMAT, "not a safetensors file");
    if (header > len - 8)
        return err_set(ERR_FORMAT,
                       "not a safetensors file, or cut off: a header of %" PRIu64
                       " bytes in a file of %zu",
                       header, len);
    if (header > ST_MAX_HEADER)
        return err_set(ERR_LIMIT, "a header of %" PRIu64 " bytes, more than %d", header,
                       ST_MAX_HEADER);

    struct st_file *f = calloc(1, sizeof *f);
    if (!f)
        return err_set(ERR_NOMEM, "no memory");
    json_error_t why;
    f->root = json_loadb((const char *)bytes + 8, header, JSON_REJECT_DUPLICATES, &why);
    enum err err;
    if (!json_is_object(f->root))
        err = err_set(ERR_FORMAT, "the safetensors header is not a JSON object: %s",
                      f->root ? "another value" : why.text);
    else
        err = parse_header(f, bytes + 8 + header, len - 8 - (size_t)header);
    if (err) {
        st_close(f);
        return err;
    }
    *out = f;
    return ERR_OK;
}

enum err st_open(const char *path, struct st_file **out)
{
    enum err err = ERR_OK;
    struct stat info;
    void *map = MAP_FAILED;
    *out = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) < 0) {
        err = err_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: %s", path, strerror(errno));
        goto done;
    }
    if (!S_ISREG(info.st_mode)) {
        err = err_set(ERR_IO, "%s: not a file", path);
        goto done;
    }
    size_t len = (size_t)info.st_size;
    if (len < 8) {
        err = err_set(ERR_FORMAT, "%s: not a safetensors file: %zu bytes", path, len);
        goto done;
    }
    map = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
    if (map == MAP_FAILED) {
        err = err_set(ERR_IO, "%s: %s", path, strerror(errno));
        goto done;
    }
    err = st_parse(map, len, out);
    if (err) {
        munmap(map, len);
        err = err_context(err, "%s", path);
        goto done;
    }
    (*out)->map = map;
    (*out)->map_len = len;
done:
    if (fd >= 0)
        close(fd);
    return err;
}

enum err st_assemble(const struct st_tensor *tensors, size_t count, struct st_file **out)
{
    size_t room = 0;
    *out = NULL;
    for (size_t i = 0; i < count; i++)
        room += strlen(tensors[i].name) + 1;
    struct st_file *f = calloc(1, sizeof *f);
    if (!f)
        return err_set(ERR_NOMEM, "no memory");
    f->names = malloc(room + 1);
    f->tensors = calloc(count + 1, sizeof *f->tensors);
    if (!f->names || !f->tensors) {
        st_close(f);
        return err_set(ERR_NOMEM, "no memory for %zu tensors", count);
    }
    char *name = f->names;
    for (size_t i = 0; i < count; i++) {
        f->tensors[i] = tensors[i];
        f->tensors[i].name = strcpy(name, tensors[i].name);
        name += strlen(name) + 1;
    }
    f->count = count;
    if (count)
        qsort(f->tensors, count, sizeof *f->tensors, by_name);
    for (size_t i = 1; i < count; i++)
        if (strcmp(f->tensors[i - 1].name, f->tensors[i].name) == 0) {
            enum err err = err_set(ERR_FORMAT, "two tensors are named '%s'", f->tensors[i].name);
            st_close(f);
            return err;
        }
    *out = f;
    return ERR_OK;
}

void st_close(struct st_file *f)
{
    if (!f)
        return;
    if (f->map)
        munmap(f->map, f->map_len);
    json_decref(f->root);
    free(f->names);
    free(f->tensors);
    free(f);
}

size_t st_count(const struct st_file *f)
{
    return f->count;
}

const struct st_tensor *st_at(const struct st_file *f, size_t i)
{
    return &f->tensors[i];
}

const struct st_tensor *st_find(const struct st_file *f, const char *name)
{
    struct st_tensor key = {.name = name};
    return f->count ? bsearch(&key, f->tensors, f->count, sizeof *f->tensors, by_name) : NULL;
}

const char *st_metadata(const struct st_file *f, const char *key)
{
    return json_string_value(json_object_get(f->metadata, key));
}
