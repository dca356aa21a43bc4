/* How the pixels of a picture lie in memory: what decoders give and the engine takes. */
#ifndef TV3S_BASE_PIXELS_H
#define TV3S_BASE_PIXELS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum pixel_layout {
    PIXELS_RGB24, /* R, G, B of each pixel */
    PIXELS_NV12,  /* a plane of luma, then one of U, V for each 2x2 pixels, with rows as long */
    PIXELS_LAYOUTS
};

/* Which R, G, B luma and chroma stand for: ITU-R's numbers. */
enum yuv_matrix { YUV_BT601, YUV_BT709, YUV_BT2020, YUV_MATRICES };

/* All zeros is RGB24. */
struct pixel_format {
    enum pixel_layout layout;
    enum yuv_matrix matrix; /* NV12: this and below */
    bool full;              /* luma 0 to 255 where it is 16 to 235 else */
};

/* An NV12 picture in memory of a CUDA device, whose rows need not be packed: device addresses and
 * bytes from row to row of luma, chroma. */
struct device_nv12 {
    const uint8_t *plane[2];
    size_t pitch[2];
    int width, height; /* of pixels_nv12_size */
};

/* Whether a picture of this size may be NV12 here: sides are even, so that all chroma is of whole
 * squares, and not tiny, where swscale, of which everybody's colours are, goes by other rules. */
static inline bool pixels_nv12_size(int width, int height)
{
    return width >= 8 && height >= 8 && width % 2 == 0 && height % 2 == 0;
}

/* Bytes of a packed row, and rows of all planes together. */
static inline size_t pixels_row(enum pixel_layout layout, int width)
{
    return (size_t)width * (layout == PIXELS_NV12 ? 1 : 3);
}

static inline size_t pixels_rows(enum pixel_layout layout, int height)
{
    return layout == PIXELS_NV12 ? (size_t)height + (size_t)height / 2 : (size_t)height;
}

/* Of a packed picture. */
static inline size_t pixels_bytes(enum pixel_layout layout, int width, int height)
{
    return pixels_row(layout, width) * pixels_rows(layout, height);
}

#endif
