/* Run-length masks as JSON: `rle` (rows, labels) and `coco_rle` (columns, one string per class). */
#ifndef TV3S_PROTO_MASK_RLE_H
#define TV3S_PROTO_MASK_RLE_H

#include "proto/mask.h"

/* Append one JSON object, no newline. */
enum err mask_rle_encode(const struct mask *m, struct buf *out);
enum err mask_coco_encode(const struct mask *m, struct buf *out);

/* A decoded mask. `labels` is malloc'd, the caller frees it. */
struct mask_labels {
    int width, height;
    uint8_t *labels;
};

/* The reverse, for bytes from anywhere: ERR_FORMAT says what is wrong, ERR_LIMIT for more than
 * `max_pixels`. coco: pixels of no segment get 255; a pixel of two segments is an error. */
enum err mask_rle_decode(const char *json, size_t len, size_t max_pixels, struct mask_labels *out);
enum err mask_coco_decode(const char *json, size_t len, size_t max_pixels, struct mask_labels *out);

#endif
