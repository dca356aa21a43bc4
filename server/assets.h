/* Files that are part of the program: the OpenAPI description and the web page. */
#ifndef TV3S_SERVER_ASSETS_H
#define TV3S_SERVER_ASSETS_H

#include <stddef.h>

struct asset {
    const char *path, *mime;
    const char *data, *end;
};

/* NULL where there is none under `path`. */
const struct asset *asset_find(const char *path);

#endif
