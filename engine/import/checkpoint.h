/* A checkpoint of any kind we read, as a list of named tensors: torch.save archives and
 * safetensors. Shapes are known at once, data is loaded tensor by tensor. */
#ifndef TV3S_ENGINE_IMPORT_CHECKPOINT_H
#define TV3S_ENGINE_IMPORT_CHECKPOINT_H

#include "engine/arch.h"

struct checkpoint;

/* Tells the kind by the file's first bytes. Errors name the path. */
enum err checkpoint_open(const char *path, struct checkpoint **out);
void checkpoint_close(struct checkpoint *c); /* NULL is allowed */

/* Tensors under the names they have in the file, without "module." and the like in front; their
 * `data` is NULL. */
size_t checkpoint_count(const struct checkpoint *c);
const struct st_tensor *checkpoint_at(const struct checkpoint *c, size_t i);

/* The data of tensor i, valid until checkpoint_close unless *owned is not NULL: then it is that
 * malloc'd buffer, the caller's to free. */
enum err checkpoint_load(struct checkpoint *c, size_t i, const void **data, void **owned);

/* The safetensors file behind it; NULL for an archive. */
const struct st_file *checkpoint_st(const struct checkpoint *c);

/* Puts the class names and colours that the checkpoint (`meta`) or a config.json beside it
 * (`id2label`) gives into `a`. Lists that do not have one entry per class are ignored; then *note
 * is set to a sentence about it, else to NULL. */
void checkpoint_labels(const struct checkpoint *c, struct arch *a, const char **note);

#endif
