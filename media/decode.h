/* Frames in: any video or image FFmpeg opens, or a folder of images, as packed RGB24 (or NV12).
 *
 * A frame has the size a player shows: the codec's cropping and the container's rotation (by
 * quarter turns, flips too) are applied; the sample aspect ratio is not, pixels stay pixels.
 * YUV becomes RGB by the stream's own matrix and range; a stream that does not say gets BT.709
 * above 1280x576 and BT.601 below. Alpha is dropped; fields are not deinterlaced.
 *
 * What cannot be decoded in the middle is counted and reported, and the rest goes on. A decoder
 * belongs to one thread at a time. */
#ifndef TV3S_MEDIA_DECODE_H
#define TV3S_MEDIA_DECODE_H

#include "base/err.h"
#include "base/pixels.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct decoder;

/* The video decoder of a CUDA device (NVDEC), for who can use pictures that are there. It decodes
 * what FFmpeg and the driver offer it for: 4:2:0 of 8 bits, in a codec and a size that the device
 * has. All else is decoded here, and so is all of a video where anything of that is missing before
 * its first frame. A picture that take_nv12 cannot have (turned, of a matrix without a name) comes
 * to the host and goes the way of all others. Damage inside a picture the device conceals without a
 * word, so it is not counted; what is damaged around pictures is. Images are decoded here. */
struct frame;
struct decode_device {
    int index;     /* CUDA's number */
    void *context; /* the CUcontext in which take works with the pictures: the device's primary one
                      (device_memory_context) */
    /* Copies the picture, valid for the call, to where this frame's pictures are kept and sets
     * f->device_pixels; format, width and height are set already. ERR_LIMIT: there is no room for
     * one so large; it comes to the host then. Other errors end the video. */
    enum err (*take)(void *ctx, const struct device_nv12 *picture, struct frame *f);
    void *ctx;
};

struct decode_options {
    bool local_file_only; /* no network, playlist or folder, known decoders alone: for input from
                             strangers */
    const char *formats;  /* comma-separated FFmpeg demuxers allowed; NULL = decode_safe_formats
                             where local_file_only, else all */
    int64_t max_pixels;   /* of a frame; 0 = 64 Mi */
    int64_t max_frames;   /* ERR_LIMIT beyond; 0 = no limit */
    int threads;          /* of the codec; 0 = 1. A device's has one */
    const struct decode_device *device; /* NULL: none. Borrowed while the decoder lives */
    int fd; /* over 0: the input, a file, read by pread alone and the caller's to close; `input` is
               but its name in messages. 0: `input` is opened */
    /* Called with one line for each thing that went wrong and was survived; may be NULL. */
    void (*report)(void *ctx, const char *text);
    /* Polled while reading blocks: true gives ERR_CANCELLED. May be NULL. */
    bool (*cancelled)(void *ctx);
    /* The file is still being written; it is read once, front to back. Called before bytes from
     * `offset` on are read: waits until there are some or the file is complete, and returns how
     * many bytes it has then; at most `offset` is the end. `cancelled` is asked afterwards. NULL:
     * the file is complete. */
    int64_t (*growing)(void *ctx, int64_t offset);
    void *ctx;
};

/* Whether a file that begins with these bytes gives its frames when it is read front to back, as
 * `growing` does: MP4 only with its index in front. */
bool decode_streamable(const uint8_t *head, size_t len);

/* Demuxers of one self-contained file each. */
extern const char decode_safe_formats[];

struct decode_info {
    bool still;         /* one image */
    bool folder;        /* a folder of images: frames have names, 25 to the second */
    const char *twin;   /* a file of the folder whose frame is called as another's, or NULL */
    int64_t frames;     /* expected; 0 = unknown */
    int tb_num, tb_den; /* unit of pts, seconds */
    double rate;        /* frames per second, 0 = unknown */
};

/* One frame; zero-initialise, reuse, and end with frame_free. */
struct frame {
    uint8_t *pixels; /* packed rows of all planes, owned */
    size_t capacity;
    /* Not NULL: the picture is NV12 there, an address of a device whose owner is
     * decode_device.take's, and nothing is in `pixels`. Set anew for each frame. */
    uint8_t *device_pixels;
    bool
        lent; /* pixels is another's memory: neither freed nor replaced, ERR_LIMIT when too small */
    bool takes_nv12;            /* said by who asks for the frame: see picture.h */
    struct pixel_format format; /* RGB24 but where NV12 is taken */
    int width, height;
    int64_t number;   /* from 0, counts delivered frames */
    int64_t pts;      /* in the decoder's time base, strictly ascending */
    int64_t duration; /* the same unit; 0 = unknown */
    double time;      /* pts in seconds */
    char name[256];   /* folder: the file's name without extension; else "" */
};

void frame_free(struct frame *f);

/* ERR_NOT_FOUND and ERR_IO for what cannot be read, ERR_FORMAT for what is neither video nor image
 * or has no video stream, ERR_UNSUPPORTED for a codec that is not there, ERR_LIMIT. */
enum err decoder_open(const char *input, const struct decode_options *o, struct decoder **out);
void decoder_close(struct decoder *d); /* NULL is allowed */

/* Valid while the decoder lives. */
const struct decode_info *decoder_info(const struct decoder *d);

/* The next frame into `f`, whose buffer grows as needed; *end at the end. An input that gives no
 * frame at all is ERR_FORMAT. ERR_DEVICE: the device's decoder failed, not the video. */
enum err decoder_next(struct decoder *d, struct frame *f, bool *end);

/* Which decoder made the last frame: "nvdec" or "cpu". *why (may be NULL): where a device was asked
 * for and it is "cpu", the reason; else NULL. Valid while the decoder lives. */
const char *decoder_place(const struct decoder *d, const char **why);

/* Frames, packets or files that could not be decoded, or only with visible damage, so far. */
int64_t decoder_corrupt(const struct decoder *d);

#endif
