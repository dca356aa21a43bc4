/* An image file in memory to packed pixels: RGB24, or NV12 where f->takes_nv12 (picture.h).
 *
 * It is told by its first bytes: JPEG, PNG, WebP, GIF (its first picture) or BMP, each by
 * libavcodec's own decoder and nothing else. The size it claims is read and checked before the
 * decoder sees it. A picture comes out as `tv3s segment` would show it to the engine. */
#ifndef TV3S_MEDIA_IMAGE_H
#define TV3S_MEDIA_IMAGE_H

#include "media/decode.h"

struct image_reader; /* scratch of one thread, kept between pictures */

enum { IMAGE_PADDING = 64 }; /* bytes behind an image file that libavcodec and swscale may read */

enum err image_reader_open(struct image_reader **out);
void image_reader_close(struct image_reader *r); /* NULL is allowed */

/* `data` has IMAGE_PADDING zero bytes behind its end. ERR_FORMAT damaged or no image,
 * ERR_UNSUPPORTED an image of another kind, ERR_LIMIT more than `max_pixels` or 16384 pixels a
 * side. */
enum err image_read(struct image_reader *r, const uint8_t *data, size_t len, uint64_t max_pixels,
                    struct frame *f);

/* Raw NV12 (BT.709, limited range) of that size, whose bytes the caller has counted; padded too. */
enum err image_from_nv12(struct image_reader *r, const uint8_t *data, int width, int height,
                         struct frame *f);

/* The limits of image_read on a size. */
enum err image_check_size(uint64_t width, uint64_t height, uint64_t max_pixels);

#endif
