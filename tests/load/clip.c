#include "tests/load/clip.h"

#include "base/try.h"

#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

static enum err read_file(const char *path, struct buf *out)
{
    FILE *f = fopen(path, "rb");
    enum err e = f ? ERR_OK : err_set(ERR_IO, "cannot open %s", path);
    for (size_t got = 1; !e && got > 0; out->len += got)
        if (!(e = buf_reserve(out, 1 << 16)))
            got = fread(out->data + out->len, 1, 1 << 16, f);
    if (f)
        fclose(f);
    return !e && out->len == 0 ? err_set(ERR_IO, "nothing in %s", path) : e;
}

enum err clip_add(struct clip *c, const char *path, const char *masks, const char *extension)
{
    char name[PATH_MAX], mask[2 * PATH_MAX];
    if (c->images == CLIP_IMAGES)
        return err_set(ERR_LIMIT, "more than %d images", CLIP_IMAGES);
    TRY(read_file(path, &c->image[c->images]));
    if (masks) {
        snprintf(name, sizeof name, "%s", path);
        char *stem = basename(name), *dot = strrchr(stem, '.');
        snprintf(mask, sizeof mask, "%s/%.*s.%s", masks,
                 (int)(dot ? dot - stem : (long)strlen(stem)), stem, extension);
        TRY(read_file(mask, &c->mask[c->images]));
    }
    c->images++;
    return ERR_OK;
}
