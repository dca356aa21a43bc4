/* NumPy .npy files, written item by item, whole or absent (base/outfile.h). */
#ifndef TV3S_TOOLS_NPY_H
#define TV3S_TOOLS_NPY_H

#include "base/dtype.h"
#include "base/err.h"

#include <stdint.h>

enum { NPY_MAX_DIMS = 8 };

struct npy;

/* An array of items (frames, rows, ...), each of `ndim` dimensions `shape`; what the file gets is
 * (items written, shape...), C order, little-endian. DT_F32 and DT_U8. ERR_ARG, ERR_IO, ERR_NOMEM.
 * Whoever opened it ends it with exactly one of npy_commit and npy_abort; both free it. */
enum err npy_open(const char *path, enum dtype dtype, int ndim, const int64_t *shape,
                  struct npy **out);

/* Appends one item. ERR_IO: only npy_abort is left. */
enum err npy_write(struct npy *f, const void *item);

/* Writes the number of items into the header and gives the file its name. */
enum err npy_commit(struct npy *f);
void npy_abort(struct npy *f); /* NULL is allowed */

#endif
