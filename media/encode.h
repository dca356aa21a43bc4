/* Videos out: the overlay as H.264 in MP4, the labels as lossless FFV1 gray in Matroska.
 *
 * The file is a base/outfile: whole or absent. Time stamps go through as they come. An encoder
 * belongs to one thread at a time. */
#ifndef TV3S_MEDIA_ENCODE_H
#define TV3S_MEDIA_ENCODE_H

#include "base/err.h"
#include "base/outfile.h"

#include <stdint.h>

struct video_encoder;

enum encode_kind {
    ENCODE_OVERLAY, /* frames are packed RGB24 */
    ENCODE_LABELS,  /* frames are one byte a pixel */
};

struct encode_options {
    enum encode_kind kind;
    int width, height;
    int tb_num, tb_den; /* unit of pts, seconds */
    double rate;        /* frames per second as a hint for rate control, 0 = unknown */
    int threads;        /* of the codec; 0 = 1 */
};

/* Starts a video in `file`, which stays the caller's: commit it after encode_finish, abort it
 * otherwise. ERR_UNSUPPORTED without a codec for it. */
enum err encode_open(struct outfile *file, const struct encode_options *o,
                     struct video_encoder **out);

/* One frame of the size given; pts ascends strictly; duration 0 = until the next. ERR_IO when the
 * disk is full. */
enum err encode_frame(struct video_encoder *e, const uint8_t *pixels, int64_t pts,
                      int64_t duration);

/* Writes what the codec still holds, and the end of the file. */
enum err encode_finish(struct video_encoder *e);
void encode_close(struct video_encoder *e); /* NULL is allowed */

#endif
