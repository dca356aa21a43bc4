#include "media/image_head.h"

#include <string.h>

static uint32_t le16(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}

static uint32_t le24(const uint8_t *p)
{
    return le16(p) | (uint32_t)p[2] << 16;
}

static uint32_t le32(const uint8_t *p)
{
    return le24(p) | (uint32_t)p[3] << 24;
}

static uint32_t be16(const uint8_t *p)
{
    return (uint32_t)p[0] << 8 | (uint32_t)p[1];
}

static uint32_t be32(const uint8_t *p)
{
    return be16(p) << 16 | be16(p + 2);
}

enum image_kind image_kind(const uint8_t *p, size_t len)
{
    if (len >= 3 && memcmp(p, "\xff\xd8\xff", 3) == 0)
        return IMAGE_JPEG;
    if (len >= 8 && memcmp(p, "\x89PNG\r\n\x1a\n", 8) == 0)
        return IMAGE_PNG;
    if (len >= 12 && memcmp(p, "RIFF", 4) == 0 && memcmp(p + 8, "WEBP", 4) == 0)
        return IMAGE_WEBP;
    if (len >= 6 && (memcmp(p, "GIF87a", 6) == 0 || memcmp(p, "GIF89a", 6) == 0))
        return IMAGE_GIF;
    if (len >= 14 && memcmp(p, "BM", 2) == 0 && le16(p + 6) == 0) /* reserved */
        return IMAGE_BMP;
    return IMAGE_OTHER;
}

/* The first SOF: ff c0..cf but c4, c8, cc; then length, precision, height, width. */
static bool jpeg_size(const uint8_t *p, size_t len, uint32_t *width, uint32_t *height)
{
    for (size_t i = 2; i + 9 <= len;) {
        if (p[i] != 0xff)
            return false;
        uint8_t marker = p[i + 1];
        if (marker == 0xff) { /* fill byte */
            i++;
            continue;
        }
        if (marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 &&
            marker != 0xcc) {
            *height = be16(p + i + 5);
            *width = be16(p + i + 7);
            return true;
        }
        if (marker == 0xd9 || marker == 0xda) /* end, or pixels before a frame header */
            return false;
        bool alone = marker == 0x01 || (marker >= 0xd0 && marker <= 0xd8);
        i += 2 + (alone ? 0 : be16(p + i + 2));
    }
    return false;
}

static bool webp_size(const uint8_t *p, size_t len, uint32_t *width, uint32_t *height)
{
    if (len < 30)
        return false;
    if (memcmp(p + 12, "VP8X", 4) == 0) {
        *width = le24(p + 24) + 1;
        *height = le24(p + 27) + 1;
        return true;
    }
    if (memcmp(p + 12, "VP8L", 4) == 0 && p[20] == 0x2f) { /* 14 bits each */
        *width = (le32(p + 21) & 0x3fff) + 1;
        *height = (le32(p + 21) >> 14 & 0x3fff) + 1;
        return true;
    }
    if (memcmp(p + 12, "VP8 ", 4) == 0 && memcmp(p + 23, "\x9d\x01\x2a", 3) == 0) {
        *width = le16(p + 26) & 0x3fff;
        *height = le16(p + 28) & 0x3fff;
        return true;
    }
    return false;
}

/* The old OS/2 header has 16-bit sizes; a negative height means top down. */
static bool bmp_size(const uint8_t *p, size_t len, uint32_t *width, uint32_t *height)
{
    if (len < 26)
        return false;
    bool os2 = le32(p + 14) == 12;
    *width = os2 ? le16(p + 18) : le32(p + 18);
    *height = os2 ? le16(p + 20) : le32(p + 22);
    if (*height > INT32_MAX)
        *height = -*height;
    return true;
}

bool image_size(enum image_kind kind, const uint8_t *p, size_t len, uint32_t *width,
                uint32_t *height)
{
    switch (kind) {
    case IMAGE_JPEG:
        return jpeg_size(p, len, width, height);
    case IMAGE_PNG:
        if (len < 24 || memcmp(p + 12, "IHDR", 4) != 0)
            return false;
        *width = be32(p + 16);
        *height = be32(p + 20);
        return true;
    case IMAGE_WEBP:
        return webp_size(p, len, width, height);
    case IMAGE_GIF:
        if (len < 10)
            return false;
        *width = le16(p + 6);
        *height = le16(p + 8);
        return true;
    case IMAGE_BMP:
        return bmp_size(p, len, width, height);
    case IMAGE_OTHER:
        break;
    }
    return false;
}

/* The flags of the header VP8X: RIFF container of WebP. */
bool image_is_animated_webp(const uint8_t *p, size_t len)
{
    return image_kind(p, len) == IMAGE_WEBP && len > 20 && memcmp(p + 12, "VP8X", 4) == 0 &&
           p[20] & 2;
}

/* EXIF is a TIFF file: byte order, 42, where the first directory is; that has a count and entries
 * of tag, type, count and value, of which tag 0x112 is the orientation and type 3 a 16-bit number.
 */
static int exif_orientation(const uint8_t *p, size_t len)
{
    enum { ENTRY = 12, TAG = 0x112, SHORT = 3 };
    bool big = len >= 8 && memcmp(p, "MM\0*", 4) == 0;
    if (!big && !(len >= 8 && memcmp(p, "II*\0", 4) == 0))
        return 1;
    uint32_t (*u16)(const uint8_t *) = big ? be16 : le16;
    size_t at = big ? be32(p + 4) : le32(p + 4);
    if (at > len - 2)
        return 1;
    uint32_t count = u16(p + at);
    at += 2;
    for (; count > 0 && len - at >= ENTRY; count--, at += ENTRY) {
        uint32_t value = u16(p + at + 8);
        if (u16(p + at) == TAG && u16(p + at + 2) == SHORT)
            return value >= 1 && value <= 8 ? (int)value : 1;
    }
    return 1;
}

/* Chunks: length, type, data, check. */
int image_png_orientation(const uint8_t *p, size_t len)
{
    enum { AROUND = 12 };
    if (image_kind(p, len) != IMAGE_PNG)
        return 1;
    for (size_t at = 8; len - at >= AROUND;) {
        size_t n = be32(p + at);
        if (n > len - at - AROUND)
            break;
        if (memcmp(p + at + 4, "eXIf", 4) == 0)
            return exif_orientation(p + at + 8, n);
        at += AROUND + n;
    }
    return 1;
}
