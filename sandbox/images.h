/* Image files to packed pixels: media/image.h in a child that is kept from one to the next. Of one
 * thread. */
#ifndef TV3S_SANDBOX_IMAGES_H
#define TV3S_SANDBOX_IMAGES_H

#include "base/buf.h"
#include "media/decode.h"
#include "sandbox/sandbox.h"

struct images;

/* `s` NULL: decodes in this process. The child starts with the first image. `wait` is copied. */
enum err images_open(struct sandbox *s, const char *who, const struct sandbox_wait *wait,
                     struct images **out);
void images_close(struct images *m); /* NULL is allowed */

/* Errors as image_read, and ERR_DECODER when the child is gone, ERR_CANCELLED, ERR_BUSY when there
 * is no child to be had. `input` may get room behind its end. */
enum err images_decode(struct images *m, struct buf *input, uint64_t max_pixels, struct frame *f);

#endif
