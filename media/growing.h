/* A file that is still being written, as FFmpeg's input. Inside media/ only. */
#ifndef TV3S_MEDIA_GROWING_H
#define TV3S_MEDIA_GROWING_H

#include "media/decode.h"

#include <libavformat/avio.h>

/* Reads through o->growing; `o` is borrowed until growing_close. */
enum err growing_open(const char *path, const struct decode_options *o, AVIOContext **out);
void growing_close(AVIOContext *c); /* NULL is allowed */

#endif
