/* A decoded picture as packed RGB24, upright. Inside media/ only. */
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

/* Converts `in` into f->rgb, width and height. `matrix` is the stream's display matrix (9 ints) or
 * NULL; the frame's own goes first. */
enum err picture_to_rgb(struct picture *p, const AVFrame *in, const int32_t *matrix,
                        struct frame *f);
void picture_free(struct picture *p);

#endif
