/* A file that FFmpeg does not open itself, as its input. Inside media/ only. */
#ifndef TV3S_MEDIA_GIVEN_H
#define TV3S_MEDIA_GIVEN_H

#include "media/decode.h"

#include <libavformat/avio.h>

/* Reads o->fd, or `path`, through o->growing where there is one; `o` is borrowed until
 * given_close. */
enum err given_open(const char *path, const struct decode_options *o, AVIOContext **out);
/* Of a file that has been read to its end: the bytes that it begins with, how many (below 0: none),
 * and its size. */
int given_head(AVIOContext *c, uint8_t *head, size_t room, int64_t *size);
void given_close(AVIOContext *c); /* NULL is allowed */

#endif
