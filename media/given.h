/* A file that FFmpeg does not open itself, as its input. Inside media/ only. */
#ifndef TV3S_MEDIA_GIVEN_H
#define TV3S_MEDIA_GIVEN_H

#include "media/decode.h"

#include <libavformat/avio.h>

/* Reads o->fd, or `path`, through o->growing where there is one; `o` is borrowed until
 * given_close. */
enum err given_open(const char *path, const struct decode_options *o, AVIOContext **out);
void given_close(AVIOContext *c); /* NULL is allowed */

#endif
