/* The format: "\x93NUMPY", version 1.0, 2 bytes header length, a Python dictionary literal padded
 * with spaces to a multiple of 64 bytes in all and ended by a newline, then the data. The header
 * is padded to HEADER bytes from the start, so that the number of items can be written last. */
#include "tools/npy.h"
#include "base/outfile.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "arrays are written in the byte order of the machine, which the header says is little-endian"
#endif

enum { MAGIC = 10, HEADER = 256 };

struct npy {
    struct outfile *file;
    enum dtype dtype;
    int ndim;
    int64_t shape[NPY_MAX_DIMS];
    size_t item_bytes;
    uint64_t items;
};

static void make_header(const struct npy *f, uint8_t out[HEADER])
{
    char dict[HEADER], shape[HEADER] = "";
    size_t n = 0;
    for (int i = 0; i < f->ndim; i++)
        n += (size_t)snprintf(shape + n, sizeof shape - n, " %" PRId64 ",", f->shape[i]);
    int length = snprintf(dict, sizeof dict,
                          "{'descr': '%s', 'fortran_order': False, 'shape': (%" PRIu64 ",%s), }",
                          f->dtype == DT_F32 ? "<f4" : "|u1", f->items, shape);
    memset(out, ' ', HEADER);
    memcpy(out, "\x93NUMPY\x01\x00", 8);
    out[8] = (HEADER - MAGIC) & 0xff;
    out[9] = (HEADER - MAGIC) >> 8;
    memcpy(out + MAGIC, dict, (size_t)length);
    out[HEADER - 1] = '\n';
}

/* Bytes of one item; false when they do not fit a size_t or the shape is no shape. Sides are kept
 * to 10 digits, so that the dictionary fits the header. */
static bool item_size(enum dtype dtype, int ndim, const int64_t *shape, size_t *bytes)
{
    *bytes = dtype_size(dtype);
    for (int i = 0; i < ndim; i++)
        if (shape[i] < 0 || shape[i] > INT32_MAX ||
            __builtin_mul_overflow(*bytes, (size_t)shape[i], bytes))
            return false;
    return true;
}

enum err npy_open(const char *path, enum dtype dtype, int ndim, const int64_t *shape,
                  struct npy **out)
{
    uint8_t header[HEADER];
    size_t bytes;
    *out = NULL;
    if ((dtype != DT_F32 && dtype != DT_U8) || ndim < 0 || ndim > NPY_MAX_DIMS ||
        !item_size(dtype, ndim, shape, &bytes))
        return err_set(ERR_ARG, "%s: no array for a .npy file", path);
    struct npy *f = calloc(1, sizeof *f);
    if (!f)
        return err_set(ERR_NOMEM, "no memory to write %s", path);
    f->dtype = dtype;
    f->ndim = ndim;
    for (int i = 0; i < ndim; i++)
        f->shape[i] = shape[i];
    f->item_bytes = bytes;
    make_header(f, header);
    enum err err = outfile_open(path, &f->file);
    if (!err && !outfile_seekable(f->file))
        err = err_set(ERR_UNSUPPORTED, "%s is no regular file", path);
    if (!err)
        err = outfile_write(f->file, header, sizeof header);
    if (err) {
        npy_abort(f);
        return err;
    }
    *out = f;
    return ERR_OK;
}

enum err npy_write(struct npy *f, const void *item)
{
    enum err err = outfile_write(f->file, item, f->item_bytes);
    f->items += !err;
    return err;
}

enum err npy_commit(struct npy *f)
{
    uint8_t header[HEADER];
    make_header(f, header);
    enum err err = outfile_write_at(f->file, 0, header, sizeof header);
    if (err) {
        npy_abort(f);
        return err;
    }
    err = outfile_commit(f->file);
    free(f);
    return err;
}

void npy_abort(struct npy *f)
{
    if (!f)
        return;
    outfile_abort(f->file);
    free(f);
}
