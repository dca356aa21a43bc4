/* Masks on the wire: one frame's labels as bytes. The formats are specified in MASKS.md.
 *
 * Encoders append to a buffer that the caller reuses from frame to frame. Labels are one byte a
 * pixel, row by row, no padding. All functions are pure: any thread may call them. */
#ifndef TV3S_PROTO_MASK_H
#define TV3S_PROTO_MASK_H

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* format, name, what one frame of it is (a file name extension), MIME type of one frame */
#define MASK_FORMAT_TABLE(X)                                                                       \
    X(MASK_PNG, "png", "png", "image/png")                                                         \
    X(MASK_RAW, "raw", "raw", "application/octet-stream")                                          \
    X(MASK_RLE, "rle", "json", "application/json")                                                 \
    X(MASK_COCO_RLE, "coco_rle", "json", "application/json")                                       \
    X(MASK_OVERLAY, "overlay", "png", "image/png")                                                 \
    X(MASK_LABELS, "labels", "png", "image/png")

enum mask_format {
#define MASK_ENUM(id, name, ext, mime) id,
    MASK_FORMAT_TABLE(MASK_ENUM)
#undef MASK_ENUM
        MASK_FORMATS
};

enum { MASK_MAX_SIDE = 16384 };

/* ERR_ARG names the formats there are. */
enum err mask_format_parse(const char *text, enum mask_format *out);
const char *mask_format_name(enum mask_format f);
const char *mask_format_extension(enum mask_format f);
const char *mask_format_mime(enum mask_format f);

/* What is to be encoded; everything borrowed. */
struct mask {
    int width, height; /* 1..MASK_MAX_SIDE */
    const uint8_t *labels;
    const uint8_t (*palette)[3]; /* RGB of label i; png and overlay */
    int colours;                 /* entries, 1..256; every label is below for png and overlay */
    const uint8_t *rgb;          /* the frame, packed RGB24; overlay only */
    int64_t frame;               /* number from 0; below 0: not said. rle and coco_rle */
    double time;                 /* seconds; NaN: not said. rle and coco_rle */
};

/* Appends one frame in the format. ERR_ARG, ERR_NOMEM. */
enum err mask_encode(enum mask_format f, const struct mask *m, struct buf *out);

/* The bytes of a PNG that mask_encode made of `labels` (channels 1) or `overlay` (3), malloc'd.
 * ERR_FORMAT: it is none of this size. */
enum err mask_read_png(const void *png, size_t len, int width, int height, int channels,
                       uint8_t **out);

/* The frame with every pixel's colour at half weight: out = (frame + colour + 1) / 2. `out` has
 * width * height * 3 bytes and may be the frame itself. */
void mask_blend(const struct mask *m, uint8_t *out);

#endif
