/* Label images on disk, for `tv3s eval`: one PNG, and the names in a folder. */
#ifndef TV3S_TOOLS_LABELS_H
#define TV3S_TOOLS_LABELS_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LABELS_MAX_SIDE = 16384, LABELS_MAX_PIXELS = 1 << 26 };

struct label_image {
    int width, height;
    uint16_t *label; /* [height][width] */
    size_t room;     /* labels that the buffer holds */
};

/* Reads a PNG with a palette (indices, not colours) or gray values of 1 to 16 bits into `out`,
 * whose buffer is used again; start from {0}. A colour image is ERR_UNSUPPORTED. ERR_IO,
 * ERR_FORMAT, ERR_LIMIT, ERR_NOMEM; the message names the file. */
enum err labels_read(const char *path, struct label_image *out);
void labels_free(struct label_image *image);

/* Sorted names in a folder, numbers by value ("frame9" before "frame10"). */
struct name_list {
    char **name;
    size_t count, room;
};

/* Names of the PNG files, or else of the subfolders, of a folder; those that begin with a dot do
 * not count. ERR_IO, ERR_NOT_FOUND, ERR_NOMEM. Free with names_free, also after an error. */
enum err names_read(const char *folder, bool subfolders, struct name_list *out);
void names_free(struct name_list *list);

#endif
