/* What an image file says of itself in its first bytes. */
#ifndef TV3S_MEDIA_IMAGE_HEAD_H
#define TV3S_MEDIA_IMAGE_HEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum image_kind { IMAGE_OTHER, IMAGE_JPEG, IMAGE_PNG, IMAGE_WEBP, IMAGE_GIF, IMAGE_BMP };

enum image_kind image_kind(const uint8_t *data, size_t len);

/* The size that the header claims; false when it is cut short or malformed. Pure. */
bool image_size(enum image_kind kind, const uint8_t *data, size_t len, uint32_t *width,
                uint32_t *height);

/* Whether it is a WebP of several pictures. Pure. */
bool image_is_animated_webp(const uint8_t *data, size_t len);

/* EXIF's orientation, 1 to 8, of a PNG: 1 where it has none, or a malformed one. Pure. */
int image_png_orientation(const uint8_t *data, size_t len);

#endif
