/* Which GPUs decode uploads with their own decoder (NVDEC): those where a clip of ours came out
 * byte for byte as from the CPU, when the daemon started, and until it fails too often. Elsewhere,
 * and until that is known, uploads are decoded on the CPU. */
#ifndef TV3S_SERVER_VIDEO_DECODER_H
#define TV3S_SERVER_VIDEO_DECODER_H

#include "sandbox/video.h"

struct config;
struct metrics;
struct models;
struct video_decoder;

/* ERR_ARG: the setting `video_decoder` is none. */
enum err video_decoder_check(const struct config *c);
/* Tries the devices, in a thread of its own; the log says what came of it. `s` NULL: none is used.
 * What is given stays the caller's, and is there until video_decoder_close. */
enum err video_decoder_open(const struct config *c, struct metrics *m, const struct models *models,
                            struct sandbox *s, struct video_decoder **out);
void video_decoder_close(struct video_decoder *d); /* after all videos. NULL is allowed */

/* Any thread. Whether an upload whose engine is on this device, by number of the models', is
 * decoded there now; then *out is filled but for `pictures`. */
bool video_decoder_use(struct video_decoder *d, int device, struct video_device *out);

#endif
