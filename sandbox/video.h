/* A video from outside, frame by frame: media/decode.h in a child of its own.
 *
 * Of struct decode_options counts what is not local_file_only (it always is), formats, threads,
 * device and fd. `growing` and `report` are called in the thread that waits for a frame. Errors are
 * those of decode.h, and ERR_DECODER when the child is gone; ERR_NOMEM of a child is ERR_LIMIT. */
#ifndef TV3S_SANDBOX_VIDEO_H
#define TV3S_SANDBOX_VIDEO_H

#include "media/decode.h"
#include "sandbox/device_pool.h"
#include "sandbox/sandbox.h"

struct video;

/* Where a video may be decoded on a CUDA device. A child that does so and fails, in whatever way,
 * is replaced by an ordinary one, which goes on behind the last frame that was given: who asks for
 * frames notices nothing. */
struct video_device {
    int index;    /* CUDA's number */
    int pictures; /* that are held at a time, at most, of those that video_next has given */
    /* Once for each video, in the thread that asks for frames: it failed there, or (`why` NULL)
     * some frames were decoded there and nothing failed. `who` is video_open's. May be NULL. */
    void (*went)(void *ctx, const char *who, const char *why);
    void *ctx;
};

/* `s` NULL: decodes in this process, and on no device. nv12: frames may be NV12 (picture.h).
 * `device` (copied; NULL: none) wants that, where nv12 is. `who` names it in the log; `path` is
 * read and not written. */
enum err video_open(struct sandbox *s, const char *path, const struct decode_options *o, bool nv12,
                    const struct video_device *device, const char *who, struct video **out);
/* The same of a file that is open, which stays the caller's. With a sandbox. */
enum err video_open_file(struct sandbox *s, int file, const struct decode_options *o, bool nv12,
                         const struct video_device *device, const char *who, struct video **out);
void video_close(struct video *v); /* NULL is allowed */

/* As decoder_info, decoder_next, decoder_corrupt. */
const struct decode_info *video_info(const struct video *v);
enum err video_next(struct video *v, struct frame *f, bool *end);
int64_t video_corrupt(const struct video *v);
/* Which decoder made the last frame: "nvdec" or "cpu". *why (may be NULL): where a device was
 * wanted and its pixels are not there, the reason, if it is known; else NULL. Valid while the video
 * is. */
const char *video_place(const struct video *v, const char **why);

/* Of a frame with device_pixels: its picture, which is the caller's from then on. Who does not ask
 * has the pixels until the next frame. NULL for other frames. */
struct device_picture *video_take_picture(struct video *v);

/* For the fuzzer: a video by a link, which it takes. `device` is that of the link's order. */
struct link;
enum err video_over(struct link *l, const struct decode_options *o,
                    const struct video_device *device, struct video **out);

#endif
