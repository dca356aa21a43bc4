/* Class names and colours, from where checkpoints keep them. */
#ifndef TV3S_ENGINE_IMPORT_LABELS_H
#define TV3S_ENGINE_IMPORT_LABELS_H

#include "engine/arch.h"
#include "engine/import/pickle.h"

/* From `meta` of a torch.save dict: CLASSES and PALETTE (or dataset_meta: classes, palette). True
 * where it has either. What does not fit the number of classes is ignored and *note says so. */
bool labels_from_pickle(const struct pk_value *root, struct arch *a, const char **note);

/* From `id2label` of the config.json beside `path`, if there is one. */
void labels_from_config(const char *path, struct arch *a, const char **note);

#endif
