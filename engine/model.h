/* A model: its architecture and its weights, mapped read-only. Shared by all engines. */
#ifndef TV3S_ENGINE_MODEL_H
#define TV3S_ENGINE_MODEL_H

#include "engine/arch.h"

struct model {
    struct arch arch;
    struct st_file *file;
};

/* Maps a model file written by `tv3s convert` and checks it whole: every tensor of the
 * architecture is there, has its shape, a float dtype and finite values. A safetensors file or
 * checkpoint without our metadata is refused with the hint to run `tv3s convert` (ERR_UNSUPPORTED).
 * ERR_IO, ERR_FORMAT, ERR_NOMEM. */
enum err model_open(const char *path, struct model **out);
void model_close(struct model *m); /* NULL is allowed */

/* The tensor `name` (a printf format) as fp32 in a malloc'd, 64-byte aligned buffer that the
 * caller frees. The tensor exists and is finite: model_open checked. ERR_NOMEM, ERR_INTERNAL. */
enum err model_tensor(const struct model *m, float **out, const char *name, ...)
    __attribute__((format(printf, 3, 4)));

/* Whether the tensor is there (a printf format). */
bool model_has(const struct model *m, const char *name, ...) __attribute__((format(printf, 2, 3)));

/* What a model is called where nobody says: its file's name up to the first dot, *length letters
 * of the path from the result on. */
const char *model_stem(const char *path, int *length);

/* Number of parameters. */
size_t model_parameters(const struct model *m);

#endif
