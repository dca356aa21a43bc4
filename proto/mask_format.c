/* The names of mask formats; apart from the encoders, so that clients need no PNG library. */
#include "proto/mask.h"

#include <string.h>

static const struct {
    const char *name, *extension, *mime;
} formats[] = {
#define MASK_ROW(id, name, ext, mime) {name, ext, mime},
    MASK_FORMAT_TABLE(MASK_ROW)
#undef MASK_ROW
};

enum err mask_format_parse(const char *text, enum mask_format *out)
{
    for (int i = 0; i < MASK_FORMATS; i++) {
        if (strcmp(text, formats[i].name) == 0) {
            *out = (enum mask_format)i;
            return ERR_OK;
        }
    }
    return err_set(ERR_ARG, "'%.40s' is no mask format: png, raw, rle, coco_rle, overlay or labels",
                   text);
}

const char *mask_format_name(enum mask_format f)
{
    return formats[f].name;
}

const char *mask_format_extension(enum mask_format f)
{
    return formats[f].extension;
}

const char *mask_format_mime(enum mask_format f)
{
    return formats[f].mime;
}
