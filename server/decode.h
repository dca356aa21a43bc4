/* One picture in memory to packed RGB24: an image file, or raw RGB24 or NV12.
 *
 * An image file is told by its first bytes: JPEG, PNG, WebP, GIF (its first picture) or BMP, each
 * by libavcodec's own decoder and nothing else. The size it claims is read and checked before the
 * decoder sees it. A picture comes out as `tv3s segment` would show it to the engine. */
#ifndef TV3S_SERVER_DECODE_H
#define TV3S_SERVER_DECODE_H

#include "server/item.h"

#include <stddef.h>

struct image_decoder; /* scratch of one thread, kept between pictures */

enum err image_decoder_open(struct image_decoder **out);
void image_decoder_close(struct image_decoder *d); /* NULL is allowed */

/* Takes item->input of an ITEM_IMAGE, ITEM_RGB24 or ITEM_NV12 to item->rgb, width and height; the
 * input is freed. ERR_FORMAT damaged or no image, ERR_UNSUPPORTED an image of another kind,
 * ERR_LIMIT more than `max_pixels` or 16384 pixels a side, ERR_ARG raw pixels of another size. */
enum err image_decode(struct image_decoder *d, struct item *item, uint64_t max_pixels);

/* Whether the bytes begin like one of the image files above. */
bool image_known(const void *data, size_t len);

#endif
