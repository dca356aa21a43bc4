/* How long a file is by its own word. */
#ifndef TV3S_MEDIA_CUT_H
#define TV3S_MEDIA_CUT_H

#include <stddef.h>
#include <stdint.h>

enum { CUT_HEAD = 4096 }; /* so many bytes of it are enough */

/* How many bytes a Matroska, WebM or AVI file that begins so says that it has; 0: it does not say,
 * or it is none. An AVI of several RIFF chunks (beyond 1 GB) tells of the first alone. */
int64_t cut_length(const uint8_t *head, size_t len);

#endif
