/* A decoded picture as packed pixels, upright: RGB24. Who takes NV12 gets a picture as it is where
 * it is 4:2:0 of 8 bits already, of a pixels_nv12_size and a matrix that has a name in
 * base/pixels.h, and need not be turned; its RGB24 is the same by then. One on a device stays there
 * for who takes NV12, and comes to the host else. Inside media/ only. */
#ifndef TV3S_MEDIA_PICTURE_H
#define TV3S_MEDIA_PICTURE_H

#include "media/decode.h"

#include <libavcodec/packet.h>
#include <libavutil/frame.h>
#include <libswscale/swscale.h>

/* Keeps the scaler between pictures; zero-initialise, and set `device` where pictures may be there.
 */
struct picture {
    const struct decode_device *device; /* borrowed */
    struct SwsContext *sws;
    uint8_t *turned; /* scratch for rotation */
    size_t turned_capacity;
    AVFrame *host; /* scratch for what comes from the device */
};

/* Takes `in` to f->pixels, or by p->device to f->device_pixels, and sets format, width and height.
 * `matrix` is the stream's display matrix (9 ints) or NULL; the frame's own goes first. */
enum err picture_take(struct picture *p, const AVFrame *in, const int32_t *matrix, struct frame *f);
void picture_free(struct picture *p);

/* A packet that is a PNG file, before it is decoded: gives it the display matrix that its EXIF asks
 * for, which libavcodec does not read, and hands on to the frame. */
enum err picture_orient_png(AVPacket *packet);

#endif
