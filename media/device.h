/* The video decoder of a CUDA device (NVDEC) behind FFmpeg's codecs, for one source. Inside media/
 * only.
 *
 * A device is asked codec by codec and size by size, and may say no at the first picture or at any
 * later one; it may also fail. Both are told by device_refused after a call into the codec, which
 * is of no use from then on. */
#ifndef TV3S_MEDIA_DEVICE_H
#define TV3S_MEDIA_DEVICE_H

#include "media/decode.h"

#include <libavcodec/avcodec.h>

struct device;

/* For a stream that `usual` decodes on the host. That there is no such device, or not this codec,
 * is no error: the device refuses then. NULL: no memory. */
struct device *device_open(const struct decode_device *o, const AVCodec *usual,
                           const AVCodecParameters *par);
void device_close(struct device *d); /* after the codec's context; NULL is allowed */

/* The decoder to open in place of the usual one, and what to do before it is opened: FFmpeg's
 * result. */
const AVCodec *device_codec(const struct device *d);
int device_prepare(struct device *d, AVCodecContext *c);

/* avcodec_send_packet and avcodec_receive_frame. A picture that comes out is AV_PIX_FMT_CUDA: it is
 * NV12 on the device, valid as frames are. It has the size that is shown, and begins at crop_left
 * and crop_top. */
int device_send(struct device *d, AVCodecContext *c, const AVPacket *p);
int device_receive(struct device *d, AVCodecContext *c, AVFrame *out);

/* Whether the device does not decode this stream, or no longer. `result`: of the last call. */
bool device_refused(struct device *d, int result);
/* Then the reason. */
const char *device_why(const struct device *d);

/* A picture on the device: what is shown of it. false: it does not begin with whole chroma. */
bool device_view(const AVFrame *in, struct device_nv12 *out);
/* That as a frame of the host. ERR_DEVICE, ERR_NOMEM. */
enum err device_fetch(const AVFrame *in, AVFrame *host);

#endif
