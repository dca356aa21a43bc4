/* What the files of arch share: arch.c (ranges, names, defaults), arch_visit.c (the tensors),
 * arch_infer.c (from shapes), arch_json.c (metadata), arch_resize.c (presets). */
#ifndef TV3S_ENGINE_ARCH_PARTS_H
#define TV3S_ENGINE_ARCH_PARTS_H

#include "engine/arch.h"

#include <jansson.h>

/* The largest sides of anything, for arch_check: far above every published model, low enough that
 * no product of three of them overflows. */
enum {
    ARCH_MAX_CHANNELS = 4096,
    ARCH_MAX_HIDDEN = 16384,
    ARCH_MAX_DEPTH = 64,
    ARCH_MAX_HEADS = 256,
    ARCH_MAX_SR = 32,
    ARCH_MAX_SWIN_WINDOW = 32,
    ARCH_MAX_LAYERS = 64,
    ARCH_MAX_WINDOW = 64,
    ARCH_MAX_STATE = 256,
    ARCH_MAX_CONV = 16,
};

/* Every number in its range and every division without remainder; ERR_FORMAT names the first that
 * is not. Both ways to a struct arch end here. */
enum err arch_check(const struct arch *a);

/* "mit_b0".."mit_b5", "swin_t/s/b/l" where all sizes match, else "mit" or "swin". */
void arch_set_name(struct arch *a);

/* "class 0", "class 1", ... and a palette of well separated colours. */
void arch_default_labels(struct arch *a);

/* Stores a class name: cut to ARCH_CLASS_NAME - 1 bytes at a character. False (and nothing stored)
 * where the text is empty, not UTF-8 or has control characters. */
bool arch_set_class_name(struct arch *a, int label, const char *text, size_t len);

/* The metadata "arch", "classes" or "palette" as a new JSON value. */
json_t *arch_json(const struct arch *a, const char *part);

/* Whether every tensor of the architecture is in `f` with its shape and a float dtype. */
enum err arch_check_shapes(const struct arch *a, const struct st_file *f);

#endif
