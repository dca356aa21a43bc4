#include "server/assets.h"

#include <string.h>

/* The assembler puts the file in, found from the root of the repository, where `make` runs. */
#define ASSET(name, file)                                                                          \
    __asm__(".section .rodata\n"                                                                   \
            "asset_" #name ":\n"                                                                   \
            ".incbin \"" file "\"\n"                                                               \
            "asset_" #name "_end:\n"                                                               \
            ".byte 0\n"                                                                            \
            ".text\n");                                                                            \
    extern const char asset_##name[], asset_##name##_end[]

ASSET(openapi, "proto/openapi.json");
#if __has_include("clients/web/index.html")
#define WEB 1
ASSET(index, "clients/web/index.html");
ASSET(app, "clients/web/app.js");
ASSET(style, "clients/web/style.css");
#endif

static const struct asset assets[] = {
    {"/openapi.json", "application/json", asset_openapi, asset_openapi_end},
#ifdef WEB
    {"/", "text/html; charset=utf-8", asset_index, asset_index_end},
    {"/app.js", "text/javascript; charset=utf-8", asset_app, asset_app_end},
    {"/style.css", "text/css; charset=utf-8", asset_style, asset_style_end},
#endif
};

const struct asset *asset_find(const char *path)
{
    for (size_t i = 0; i < sizeof assets / sizeof *assets; i++)
        if (strcmp(assets[i].path, path) == 0)
            return &assets[i];
    return NULL;
}
