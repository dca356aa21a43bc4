/* A decoded picture as packed pixels, upright: RGB24. Who takes NV12 gets a picture as it is where
 * it is 4:2:0 of 8 bits already, of a pixels_nv12_size and a matrix that has a name in
 * base/pixels.h, and need not be turned; its RGB24 is the same by then. Inside media/ only. */
#ifndef TV3S_MEDIA_PICTURE_H
#define TV3S_MEDIA_PICTURE_H

#include "media/decode.h"

#include <libavutil/frame.h>
#include <libswscale/swscale.h>

/* Keeps the scaler between pictures; zero-initialise. */
struct picture {
    struct SwsContext *sws;
    uint8_t *turned; /* scratch for rotation */
    size_t turned_capacity;
};

/* Takes `in` to f->pixels, format, width and height. `matrix` is the stream's display matrix (9
 * ints) or NULL; the frame's own goes first. */
enum err picture_take(struct picture *p, const AVFrame *in, const int32_t *matrix, struct frame *f);
void picture_free(struct picture *p);

#endif
