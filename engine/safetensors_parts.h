/* What reader and writer of safetensors share, and the door for the checkpoint importer. */
#ifndef TV3S_ENGINE_SAFETENSORS_PARTS_H
#define TV3S_ENGINE_SAFETENSORS_PARTS_H

#include "engine/safetensors.h"

/* A header is some 120 bytes a tensor: 4 MiB is far more than any model has, and bounds what the
 * JSON parser can be made to allocate. */
enum { ST_MAX_HEADER = 4 << 20, ST_MAX_NAME = 256 };

/* Bytes of a tensor; false when the product overflows or a side is negative. */
bool st_shape_bytes(enum dtype dtype, int ndim, const int64_t *shape, size_t *bytes);

/* "[64, 3, 7, 7]", for messages. */
const char *st_shape_text(int ndim, const int64_t *shape, char *text, size_t size);

/* An st_file over tensors described by the caller: names are copied, data borrowed (it may be
 * NULL where only shapes matter). Two tensors of one name are ERR_FORMAT. */
enum err st_assemble(const struct st_tensor *tensors, size_t count, struct st_file **out);

/* Whether every value of a float tensor is finite; on false, *index is the first that is not.
 * Integer tensors are always finite. */
bool st_all_finite(const struct st_tensor *t, size_t *index);

/* What every weight must be: finite, and a variance not negative. ERR_FORMAT names the value. */
enum err st_check_values(const struct st_tensor *t);

#endif
