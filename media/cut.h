/* Files that say how long they are, and end before. */
#ifndef TV3S_MEDIA_CUT_H
#define TV3S_MEDIA_CUT_H

#include <libavformat/avio.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How many bytes a Matroska or WebM file that begins so has by its own word; 0: it does not say, or
 * it is none. */
int64_t cut_matroska(const uint8_t *head, size_t len);

/* Of a file that has been read to its end: the bytes that it has (*has) are fewer than what it says
 * (*says). `given`: the file is given.h's. Moves the place of reading. */
bool cut_off(AVIOContext *file, bool given, int64_t *has, int64_t *says);

#endif
