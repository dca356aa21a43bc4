/* Writing safetensors. Tensors go out widest element first and then by name, packed, behind a
 * header padded with spaces to a multiple of 64: so every tensor is aligned to its own element,
 * the file depends on its content alone, not on the order of the calls, and every reader of the
 * format accepts it. */
#include "base/outfile.h"
#include "engine/safetensors.h"
#include "engine/safetensors_parts.h"

#include <jansson.h>
#include <stdlib.h>

struct st_writer {
    json_t *metadata;
    struct st_tensor *tensors; /* names are ours, data is borrowed */
    size_t count, room;
};

enum err st_writer_open(struct st_writer **out)
{
    struct st_writer *w = calloc(1, sizeof *w);
    *out = NULL;
    if (w)
        w->metadata = json_object();
    if (!w || !w->metadata) {
        st_writer_close(w);
        return err_set(ERR_NOMEM, "no memory");
    }
    *out = w;
    return ERR_OK;
}

void st_writer_close(struct st_writer *w)
{
    if (!w)
        return;
    for (size_t i = 0; i < w->count; i++)
        free((char *)w->tensors[i].name);
    free(w->tensors);
    json_decref(w->metadata);
    free(w);
}

enum err st_writer_metadata(struct st_writer *w, const char *key, const char *value)
{
    if (json_object_set_new(w->metadata, key, json_string(value)) < 0)
        return err_set(ERR_ARG, "metadata '%s' is not valid UTF-8, or memory ran out", key);
    return ERR_OK;
}

enum err st_writer_add(struct st_writer *w, const char *name, enum dtype dtype, int ndim,
                       const int64_t *shape, const void *data)
{
    struct st_tensor t = {.dtype = dtype, .ndim = ndim, .data = data};
    if (ndim < 0 || ndim > ST_MAX_DIMS || !st_shape_bytes(dtype, ndim, shape, &t.bytes) ||
        strlen(name) > ST_MAX_NAME || strcmp(name, "__metadata__") == 0)
        return err_set(ERR_ARG, "tensor '%.60s' cannot be stored", name);
    if (ndim)
        memcpy(t.shape, shape, (size_t)ndim * sizeof *shape);
    if (w->count == w->room) {
        size_t room = w->room ? 2 * w->room : 64;
        struct st_tensor *more = realloc(w->tensors, room * sizeof *more);
        if (!more)
            return err_set(ERR_NOMEM, "no memory for %zu tensors", room);
        w->tensors = more;
        w->room = room;
    }
    t.name = strdup(name);
    if (!t.name)
        return err_set(ERR_NOMEM, "no memory for tensor '%s'", name);
    w->tensors[w->count++] = t;
    return ERR_OK;
}

static int by_width_then_name(const void *a, const void *b)
{
    const struct st_tensor *x = a, *y = b;
    size_t wx = dtype_size(x->dtype), wy = dtype_size(y->dtype);
    return wx != wy ? (wx < wy) - (wx > wy) : strcmp(x->name, y->name);
}

static json_t *header_entry(const struct st_tensor *t, size_t offset)
{
    json_t *shape = json_array();
    for (int i = 0; i < t->ndim; i++)
        json_array_append_new(shape, json_integer(t->shape[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", dtype_name(t->dtype), "shape", shape,
                     "data_offsets", (json_int_t)offset, (json_int_t)offset + (json_int_t)t->bytes);
}

/* The length field and the padded header as one malloc'd block of *len bytes; *data_len is what
 * follows it. Sorts the tensors. */
static enum err build_header(struct st_writer *w, char **out, size_t *len, size_t *data_len)
{
    enum err err = ERR_OK;
    char *block = NULL;
    json_t *root = json_object();
    size_t offset = 0;

    if (w->count)
        qsort(w->tensors, w->count, sizeof *w->tensors, by_width_then_name);
    if (json_object_size(w->metadata))
        json_object_set(root, "__metadata__", w->metadata);
    for (size_t i = 0; i < w->count; i++) {
        const struct st_tensor *t = &w->tensors[i];
        if (json_object_get(root, t->name)) {
            err = err_set(ERR_EXISTS, "two tensors are named '%s'", t->name);
            goto done;
        }
        if (json_object_set_new(root, t->name, header_entry(t, offset)) < 0) {
            err = err_set(ERR_ARG, "tensor '%s': no valid name, or memory ran out", t->name);
            goto done;
        }
        offset += t->bytes;
    }

    size_t used = json_dumpb(root, NULL, 0, JSON_COMPACT), padded = (8 + used + 63) / 64 * 64;
    if (padded - 8 > ST_MAX_HEADER) {
        err = err_set(ERR_LIMIT, "the header would have %zu bytes", padded - 8);
        goto done;
    }
    block = malloc(padded);
    if (!used || !block) {
        err = err_set(ERR_NOMEM, "no memory for a header");
        goto done;
    }
    memset(block, ' ', padded);
    for (int i = 0; i < 8; i++)
        block[i] = (char)((uint64_t)(padded - 8) >> 8 * i & 0xff);
    json_dumpb(root, block + 8, used, JSON_COMPACT);
    *out = block;
    *len = padded;
    *data_len = offset;
    block = NULL;
done:
    free(block);
    json_decref(root);
    return err;
}

enum err st_write_memory(struct st_writer *w, void **buf, size_t *len)
{
    char *header = NULL;
    size_t header_len, data_len;
    *buf = NULL;
    enum err err = build_header(w, &header, &header_len, &data_len);
    if (err)
        return err;
    char *all = realloc(header, header_len + data_len);
    if (!all) {
        free(header);
        return err_set(ERR_NOMEM, "no memory for %zu bytes", header_len + data_len);
    }
    char *at = all + header_len;
    for (size_t i = 0; i < w->count; i++) {
        const struct st_tensor *t = &w->tensors[i];
        if (t->bytes)
            memcpy(at, t->data, t->bytes);
        at += t->bytes;
    }
    *buf = all;
    *len = header_len + data_len;
    return ERR_OK;
}

enum err st_write_file(struct st_writer *w, const char *path)
{
    struct outfile *file = NULL;
    char *header = NULL;
    size_t header_len, data_len;
    enum err err = build_header(w, &header, &header_len, &data_len);
    if (err)
        return err;
    err = outfile_open(path, &file);
    if (!err)
        err = outfile_write(file, header, header_len);
    for (size_t i = 0; !err && i < w->count; i++)
        err = outfile_write(file, w->tensors[i].data, w->tensors[i].bytes);
    if (err)
        outfile_abort(file);
    else
        err = outfile_commit(file);
    free(header);
    return err;
}
