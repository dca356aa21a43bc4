/* Resize presets: how a frame becomes the network's input (MODEL.md section 1). */
#include "engine/arch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MIN_SIDE = 32, MAX_SIDE = 16384 };

enum err resize_parse(const char *text, struct resize_spec *out)
{
    int w = 0, h = 0, used = 0;
    *out = (struct resize_spec){0};
    if (strcmp(text, "native") == 0) {
        out->kind = RESIZE_NATIVE;
    } else if (strcmp(text, "vspw") == 0) {
        out->kind = RESIZE_VSPW;
    } else if (strcmp(text, "cityscapes") == 0) {
        out->kind = RESIZE_CITYSCAPES;
    } else {
        /* At most five digits a side: no overflow. strspn: no signs, no spaces. */
        if (strspn(text, "0123456789x") != strlen(text) ||
            sscanf(text, "%5dx%5d%n", &w, &h, &used) != 2 || text[used])
            return err_set(ERR_ARG, "'%.40s' is no resize: native, vspw, cityscapes or WxH", text);
        if (w < MIN_SIDE || h < MIN_SIDE || w > MAX_SIDE || h > MAX_SIDE)
            return err_set(ERR_ARG, "resize to %dx%d: each side must be %d to %d", w, h, MIN_SIDE,
                           MAX_SIDE);
        *out = (struct resize_spec){RESIZE_FIXED, w, h};
    }
    return ERR_OK;
}

void resize_format(const struct resize_spec *r, char *text, size_t size)
{
    static const char *const name[] = {"native", "vspw", "cityscapes"};
    if (r->kind == RESIZE_FIXED)
        snprintf(text, size, "%dx%d", r->width, r->height);
    else
        snprintf(text, size, "%s", name[r->kind]);
}

/* Scales to fit long_side x short_side, whichever way the frame lies, to the nearest pixel. */
static void fit(int width, int height, double long_side, double short_side, int *w, int *h)
{
    int longer = width > height ? width : height, shorter = width > height ? height : width;
    double scale = fmin(long_side / longer, short_side / shorter);
    *w = (int)floor(width * scale + 0.5);
    *h = (int)floor(height * scale + 0.5);
}

static int up_to_32(int side)
{
    return side < 1 ? 32 : (side + 31) / 32 * 32;
}

enum err resize_apply(const struct resize_spec *r, int width, int height, int *net_w, int *net_h)
{
    int w = width, h = height;
    if (width < 1 || height < 1 || width > MAX_SIDE || height > MAX_SIDE)
        return err_set(ERR_ARG, "a frame of %dx%d: each side must be 1 to %d", width, height,
                       MAX_SIDE);
    switch (r->kind) {
    case RESIZE_NATIVE:
        break;
    case RESIZE_VSPW:
        fit(width, height, 853, 480, &w, &h);
        w = up_to_32(w);
        h = up_to_32(h);
        break;
    case RESIZE_CITYSCAPES:
        fit(width, height, 1024, 512, &w, &h);
        break;
    case RESIZE_FIXED:
        w = r->width;
        h = r->height;
        break;
    }
    if (w < MIN_SIDE || h < MIN_SIDE)
        return err_set(ERR_ARG, "a frame of %dx%d becomes %dx%d: each side must be at least %d",
                       width, height, w, h, MIN_SIDE);
    *net_w = w;
    *net_h = h;
    return ERR_OK;
}
