/* safetensors: read by mapping, write atomically.
 *
 * The format: 8 bytes little-endian header length, a JSON header {name: {dtype, shape,
 * data_offsets}, "__metadata__": {string: string}}, then the data. Everything in it is hostile
 * until checked: st_open and st_parse verify the header length, the JSON, every dtype, every shape
 * product (no overflow), that offsets lie inside the file, do not overlap and fit the shape. */
#ifndef TV3S_ENGINE_SAFETENSORS_H
#define TV3S_ENGINE_SAFETENSORS_H

#include "base/dtype.h"
#include "base/err.h"

#include <stdbool.h>

enum { ST_MAX_DIMS = 8 };

struct st_tensor {
    const char *name; /* owned by the file */
    enum dtype dtype;
    int ndim; /* 0 for a scalar */
    int64_t shape[ST_MAX_DIMS];
    const void *data; /* inside the map or buffer; NOT necessarily aligned */
    size_t bytes;
};

struct st_file;

/* Maps `path` read-only and parses it. ERR_IO, ERR_FORMAT, ERR_NOMEM. Close with st_close. */
enum err st_open(const char *path, struct st_file **out);

/* The same over a buffer that the caller keeps alive until st_close. */
enum err st_parse(const void *buf, size_t len, struct st_file **out);
void st_close(struct st_file *f); /* NULL is allowed */

size_t st_count(const struct st_file *f);
const struct st_tensor *st_at(const struct st_file *f, size_t i);           /* sorted by name */
const struct st_tensor *st_find(const struct st_file *f, const char *name); /* NULL: none */
const char *st_metadata(const struct st_file *f, const char *key);          /* NULL: none */

/* Number of elements (1 for a scalar). */
size_t st_elements(const struct st_tensor *t);

/* Converts `count` elements from element `first` on to fp32. F32, BF16, F16 and F64 only. */
enum err st_to_f32(const struct st_tensor *t, size_t first, size_t count, float *out);

/* Writer. Tensors are borrowed until the last st_write_* returns; names and metadata are copied. */
struct st_writer;
enum err st_writer_open(struct st_writer **out); /* ERR_NOMEM */
/* A key that is there gets the new value. ERR_ARG: not UTF-8, or no memory (jansson does not say).
 */
enum err st_writer_metadata(struct st_writer *w, const char *key, const char *value);
/* ERR_ARG: a shape or name that the format has not; ERR_NOMEM. */
enum err st_writer_add(struct st_writer *w, const char *name, enum dtype dtype, int ndim,
                       const int64_t *shape, const void *data);
/* Both: ERR_EXISTS two tensors of one name, ERR_ARG a name that is not UTF-8, ERR_LIMIT more header
 * than a reader takes, ERR_NOMEM. The file too: ERR_IO, ERR_FULL. */
/* Writes to a temporary file beside `path`, fsyncs and renames: the file is whole or absent. */
enum err st_write_file(struct st_writer *w, const char *path);
/* One malloc'd buffer with the whole file; the caller frees it. */
enum err st_write_memory(struct st_writer *w, void **buf, size_t *len);
void st_writer_close(struct st_writer *w);

#endif
