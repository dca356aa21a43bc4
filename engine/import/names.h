/* From a checkpoint's tensor names to the canonical ones, which are those of the published
 * checkpoints (tests/parity/NAME.shapes.json). MODEL.md section 4 has the table. */
#ifndef TV3S_ENGINE_IMPORT_NAMES_H
#define TV3S_ENGINE_IMPORT_NAMES_H

#include <stddef.h>

enum naming { NAMING_PUBLISHED, NAMING_HUGGING_FACE };

/* What becomes of a tensor. */
enum part {
    PART_WHOLE,  /* it is the canonical tensor */
    PART_FIRST,  /* it is the first half of its rows (keys of attn.kv) */
    PART_SECOND, /* the second half (values) */
    PART_INDEX,  /* a table that the engine computes itself; to be compared */
    PART_UNUSED, /* nothing that labelling needs */
};

/* The naming that this name gives away. */
enum naming names_tell(const char *name);

/* Writes the canonical name and returns the part. */
enum part names_map(enum naming naming, const char *name, char *out, size_t size);

#endif
