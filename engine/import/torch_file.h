/* A checkpoint written by torch.save: a zip archive of one pickle and the storages it names. */
#ifndef TV3S_ENGINE_IMPORT_TORCH_FILE_H
#define TV3S_ENGINE_IMPORT_TORCH_FILE_H

#include "engine/import/pickle.h"

struct torch_file;

/* Opens the archive and interprets its pickle; no tensor data is read yet. ERR_IO, ERR_NOT_FOUND,
 * ERR_FORMAT, ERR_UNSUPPORTED (big-endian, the format before zip), ERR_LIMIT, ERR_NOMEM. */
enum err torch_open(const char *path, struct torch_file **out);
void torch_close(struct torch_file *f); /* NULL is allowed */

/* What was saved. Lives as long as the file. */
const struct pk_value *torch_root(const struct torch_file *f);

/* The values of a tensor, row by row without gaps, in a malloc'd buffer that the caller frees;
 * `bytes` is its size. The checksum of what was read has been verified. */
enum err torch_load(struct torch_file *f, const struct pk_tensor *t, void **out, size_t *bytes);

#endif
