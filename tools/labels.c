#include "tools/labels.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <spng.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

/* ---- images --------------------------------------------------------------------------------- */

void labels_free(struct label_image *image)
{
    free(image->label);
    *image = (struct label_image){0};
}

static enum err labels_reserve(struct label_image *image, size_t pixels)
{
    if (pixels <= image->room)
        return ERR_OK;
    free(image->label);
    image->label = malloc(pixels * sizeof *image->label);
    image->room = image->label ? pixels : 0;
    return image->label ? ERR_OK : err_set(ERR_NOMEM, "no memory for %zu labels", pixels);
}

/* raw: rows of `depth` bits per label, each row starting at a byte, 16 bits in host order. */
static void unpack(const uint8_t *raw, int depth, struct label_image *out)
{
    size_t row_bytes = ((size_t)out->width * (size_t)depth + 7) / 8;
    uint16_t *label = out->label;
    for (int y = 0; y < out->height; y++) {
        const uint8_t *row = raw + (size_t)y * row_bytes;
        for (int x = 0; x < out->width; x++) {
            size_t bit = (size_t)x * (size_t)depth;
            if (depth == 16)
                memcpy(label, row + bit / 8, 2);
            else
                *label =
                    (uint16_t)(row[bit / 8] >> (8 - depth - (int)(bit % 8)) & ((1 << depth) - 1));
            label++;
        }
    }
}

static enum err decode(spng_ctx *ctx, struct label_image *out)
{
    struct spng_ihdr head;
    size_t bytes = 0;
    uint8_t *raw = NULL;
    enum err err;
    int status = spng_set_image_limits(ctx, LABELS_MAX_SIDE, LABELS_MAX_SIDE);
    if (!status)
        status = spng_get_ihdr(ctx, &head);
    if (status)
        return err_set(status == SPNG_EUSER_WIDTH || status == SPNG_EUSER_HEIGHT ? ERR_LIMIT
                                                                                 : ERR_FORMAT,
                       "%s", spng_strerror(status));
    if ((uint64_t)head.width * head.height > LABELS_MAX_PIXELS)
        return err_set(ERR_LIMIT, "%ux%u is more than %d pixels", head.width, head.height,
                       LABELS_MAX_PIXELS);
    if (head.color_type != SPNG_COLOR_TYPE_INDEXED && head.color_type != SPNG_COLOR_TYPE_GRAYSCALE)
        return err_set(ERR_UNSUPPORTED,
                       "a colour image; labels are palette indices or gray values");
    err = labels_reserve(out, (size_t)head.width * head.height);
    if (err)
        return err;
    out->width = (int)head.width;
    out->height = (int)head.height;
    status = spng_decoded_image_size(ctx, SPNG_FMT_PNG, &bytes);
    if (!status && !(raw = malloc(bytes)))
        return err_set(ERR_NOMEM, "no memory for %zu bytes", bytes);
    if (!status)
        status = spng_decode_image(ctx, raw, bytes, SPNG_FMT_PNG, 0);
    if (!status)
        unpack(raw, head.bit_depth, out);
    free(raw);
    return status ? err_set(ERR_FORMAT, "%s", spng_strerror(status)) : ERR_OK;
}

enum err labels_read(const char *path, struct label_image *out)
{
    enum err err = ERR_OK;
    spng_ctx *ctx = NULL;
    FILE *file = fopen(path, "rb");
    if (!file) {
        err = err_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s", strerror(errno));
        goto done;
    }
    ctx = spng_ctx_new(0);
    if (!ctx || spng_set_png_file(ctx, file)) {
        err = err_set(ERR_NOMEM, "no memory for a PNG reader");
        goto done;
    }
    err = decode(ctx, out);
done:
    spng_ctx_free(ctx);
    if (file)
        fclose(file);
    return err ? err_context(err, "%s", path) : ERR_OK;
}

/* ---- folders -------------------------------------------------------------------------------- */

void names_free(struct name_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        free(list->name[i]);
    free(list->name);
    *list = (struct name_list){0};
}

static enum err names_add(struct name_list *list, const char *name)
{
    if (list->count == list->room) {
        size_t room = list->room ? 2 * list->room : 64;
        char **grown = realloc(list->name, room * sizeof *grown);
        if (!grown)
            return err_set(ERR_NOMEM, "no memory for %zu names", room);
        list->name = grown;
        list->room = room;
    }
    list->name[list->count] = strdup(name);
    if (!list->name[list->count])
        return err_set(ERR_NOMEM, "no memory for a name");
    list->count++;
    return ERR_OK;
}

/* Runs of digits by value, everything else byte by byte; names of equal value by strcmp. */
static int name_order(const void *pa, const void *pb)
{
    const char *const *na = pa, *const *nb = pb;
    const char *a = *na, *b = *nb;
    while (*a && *b) {
        if (!isdigit((unsigned char)*a) || !isdigit((unsigned char)*b)) {
            if (*a != *b)
                return (unsigned char)*a < (unsigned char)*b ? -1 : 1;
            a++, b++;
            continue;
        }
        a += strspn(a, "0");
        b += strspn(b, "0");
        size_t la = strspn(a, "0123456789"), lb = strspn(b, "0123456789");
        int c = la != lb ? (la < lb ? -1 : 1) : memcmp(a, b, la);
        if (c)
            return c;
        a += la;
        b += lb;
    }
    if (*a || *b)
        return *a ? 1 : -1;
    return strcmp(*na, *nb);
}

static bool wanted(const char *folder, const char *name, bool subfolders)
{
    size_t length = strlen(name);
    if (*name == '.')
        return false;
    if (!subfolders)
        return length > 4 && strcasecmp(name + length - 4, ".png") == 0;
    char path[4096];
    struct stat st;
    int n = snprintf(path, sizeof path, "%s/%s", folder, name);
    return n > 0 && (size_t)n < sizeof path && stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

enum err names_read(const char *folder, bool subfolders, struct name_list *out)
{
    *out = (struct name_list){0};
    DIR *dir = opendir(folder);
    if (!dir)
        return err_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: %s", folder, strerror(errno));
    enum err err = ERR_OK;
    for (struct dirent *e; !err && (errno = 0, e = readdir(dir));)
        if (wanted(folder, e->d_name, subfolders))
            err = names_add(out, e->d_name);
    if (!err && errno)
        err = err_set(ERR_IO, "%s: %s", folder, strerror(errno));
    closedir(dir);
    if (!err && out->count)
        qsort(out->name, out->count, sizeof *out->name, name_order);
    return err;
}
