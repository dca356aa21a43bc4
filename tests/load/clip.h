/* The images that a stream sends, and the masks that are to come back. */
#ifndef TV3S_TESTS_LOAD_CLIP_H
#define TV3S_TESTS_LOAD_CLIP_H

#include "base/buf.h"

enum { CLIP_IMAGES = 256 };

struct clip {
    struct buf image[CLIP_IMAGES], mask[CLIP_IMAGES]; /* files as they are; masks may be absent */
    int images;
};

/* One more image. With `masks`, a folder, its mask is the file of its name that ends with
 * `extension`. ERR_IO, ERR_NOMEM, ERR_LIMIT. */
enum err clip_add(struct clip *c, const char *path, const char *masks, const char *extension);

#endif
