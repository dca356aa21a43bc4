/* A video from outside, frame by frame: media/decode.h in a child of its own.
 *
 * Of struct decode_options counts what is not local_file_only (it always is), formats, threads and
 * fd. `growing` and `report` are called in the thread that waits for a frame. Errors are those of
 * decode.h, and ERR_DECODER when the child is gone; ERR_NOMEM of a child is ERR_LIMIT. */
#ifndef TV3S_SANDBOX_VIDEO_H
#define TV3S_SANDBOX_VIDEO_H

#include "media/decode.h"
#include "sandbox/sandbox.h"

struct video;

/* `s` NULL: decodes in this process. nv12: frames may be NV12 (picture.h). `who` names it in the
 * log; `path` is read and not written. */
enum err video_open(struct sandbox *s, const char *path, const struct decode_options *o, bool nv12,
                    const char *who, struct video **out);
void video_close(struct video *v); /* NULL is allowed */

/* As decoder_info, decoder_next, decoder_corrupt. */
const struct decode_info *video_info(const struct video *v);
enum err video_next(struct video *v, struct frame *f, bool *end);
int64_t video_corrupt(const struct video *v);

/* For the fuzzer: a video by a link, which it takes. */
struct link;
enum err video_over(struct link *l, const struct decode_options *o, struct video **out);

#endif
