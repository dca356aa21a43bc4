/* Masks of a whole input out: one file, a folder, an archive, lines or a video, in any format.
 *
 * Nothing appears under the final name before sink_commit. A sink belongs to one thread at a time.
 * Memory does not grow with the number of frames (an archive keeps 64 bytes of each). */
#ifndef TV3S_MEDIA_SINK_H
#define TV3S_MEDIA_SINK_H

#include "media/decode.h"
#include "proto/mask.h"

struct sink;

enum sink_kind {
    SINK_IMAGE,  /* the one frame's mask is the file */
    SINK_CONCAT, /* raw: bytes after bytes; rle, coco_rle: JSON lines */
    SINK_ZIP,    /* numbered files in an archive */
    SINK_FOLDER, /* the same in a folder; names of a folder of images are kept */
    SINK_VIDEO,  /* overlay, labels */
};

struct sink_options {
    enum sink_kind kind;
    enum mask_format format;
    const char *path;
    const uint8_t (*palette)[3]; /* borrowed while the sink lives */
    int colours;
    struct decode_info input; /* time base and rate */
    int threads;              /* of the video codec; 0 = 1 */
};

/* What to write for an input like `in` to `path`. `format` is the user's, or NULL to go by the
 * path's form: an existing folder or a name ending in '/', .zip, .png, .raw, .json, .jsonl, .mp4,
 * .mkv. ERR_ARG where that does not say enough. */
enum err sink_choose(const char *path, const enum mask_format *format, const struct decode_info *in,
                     struct sink_options *out);

/* Creates the output. ERR_IO with path and reason. */
enum err sink_open(const struct sink_options *o, struct sink **out);

/* One frame and its labels; of an overlay RGB24. Frames may change size, except in a video
 * (ERR_UNSUPPORTED). */
enum err sink_put(struct sink *s, const struct frame *f, const uint8_t *labels);

/* The same where the mask is encoded already, as mask_encode gives it. Not for videos. */
enum err sink_put_encoded(struct sink *s, const struct frame *f, const void *data, size_t len);

/* The same where the picture of the video is there already: a frame of labels, or for an overlay
 * the RGB that mask_blend gives. For videos alone. */
enum err sink_put_pixels(struct sink *s, const struct frame *f, const uint8_t *pixels);

/* Where the bytes of the last frame stand in the file; false in a folder or a video. */
bool sink_entry(const struct sink *s, uint64_t *offset, uint64_t *len);

/* The output's name until sink_commit; NULL for a folder. */
const char *sink_temporary(const struct sink *s);

/* Completes the output under its name, or removes it on an error. Frees the sink. */
enum err sink_commit(struct sink *s);
void sink_abort(struct sink *s); /* NULL is allowed */

#endif
