/* A growable run of bytes, made to be reused: zero-initialised, `len` set back to 0 between uses.
 */
#ifndef TV3S_BASE_BUF_H
#define TV3S_BASE_BUF_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

struct buf {
    uint8_t *data;
    size_t len, cap;
};

/* Room for `more` bytes after len. ERR_NOMEM; the content stays. */
enum err buf_reserve(struct buf *b, size_t more);
/* These leave a zero byte behind the content, not counted: what is text is a string. */
enum err buf_append(struct buf *b, const void *data, size_t len);
enum err buf_text(struct buf *b, const char *text);
enum err buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_free(struct buf *b); /* back to zero */

#endif
