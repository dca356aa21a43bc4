/* The first bytes of an image file: read within bounds, and a size is one. */
#include "media/image_head.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint32_t width, height;
    for (int kind = IMAGE_OTHER; kind <= IMAGE_BMP; kind++)
        if (image_size((enum image_kind)kind, data, size, &width, &height) && kind == IMAGE_OTHER)
            abort();
    if (image_is_animated_webp(data, size) && image_kind(data, size) != IMAGE_WEBP)
        abort();
    int orientation = image_png_orientation(data, size);
    if (orientation < 1 || orientation > 8)
        abort();
    return 0;
}
