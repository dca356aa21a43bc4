/* One picture in memory to packed pixels: an image file (sandbox/images.h), or raw RGB24 or NV12,
 * whose bytes need no parser. */
#ifndef TV3S_SERVER_DECODE_H
#define TV3S_SERVER_DECODE_H

#include "server/item.h"

#include <stddef.h>

struct image_decoder; /* scratch of one thread, kept between pictures */
struct sandbox;
struct sandbox_wait;

/* `s` NULL: in this process. `wait` is copied. */
enum err image_decoder_open(struct sandbox *s, const struct sandbox_wait *wait,
                            struct image_decoder **out);
void image_decoder_close(struct image_decoder *d); /* NULL is allowed */

/* Takes item->input of an ITEM_IMAGE, ITEM_RGB24 or ITEM_NV12 to item->pixels, format, width and
 * height; the input is freed. ERR_FORMAT damaged or no image, ERR_UNSUPPORTED an image of another
 * kind, ERR_LIMIT more than `max_pixels` or 16384 pixels a side, ERR_ARG raw pixels of another
 * size; ERR_DECODER, ERR_CANCELLED. */
enum err image_decode(struct image_decoder *d, struct item *item, uint64_t max_pixels);

#endif
