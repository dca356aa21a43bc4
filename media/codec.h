/* The decoder of a source's stream: that of a device while the device does it, else the host's.
 * Inside media/ only. */
#ifndef TV3S_MEDIA_CODEC_H
#define TV3S_MEDIA_CODEC_H

#include "media/decode.h"

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>

struct codec;

struct codec_options {
    const AVCodec *usual;               /* on the host */
    const char *allowed;                /* comma-separated decoders; NULL = all */
    const struct decode_device *device; /* or NULL */
    int threads;                        /* on the host */
    int64_t max_pixels;                 /* libavcodec's, of aligned rows */
};

/* These give FFmpeg's results. All that is given is borrowed until codec_close. */
int codec_open(const AVStream *stream, const struct codec_options *o, struct codec **out);
void codec_close(struct codec *c); /* NULL is allowed */

/* As avcodec_send_packet (p NULL: the end) and avcodec_receive_frame. A picture may be on the
 * device (media/device.h). */
int codec_send(struct codec *c, const AVPacket *p);
int codec_receive(struct codec *c, AVFrame *out);

/* After a result: it is of the device, which failed when pictures were out already. */
bool codec_device_failed(const struct codec *c);
/* Where a device was asked for and does not decode, or not any more: the reason. Else NULL. */
const char *codec_why(const struct codec *c);

#endif
