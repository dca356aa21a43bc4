#include "server/assets.h"

#include <string.h>

/* The assembler puts the files in, found from the root of the repository, where `make` runs. */
#define ASSET(name, path, mime, file)                                                              \
    __asm__(".section .rodata\n"                                                                   \
            "asset_" #name ":\n"                                                                   \
            ".incbin \"" file "\"\n"                                                               \
            "asset_" #name "_end:\n"                                                               \
            ".byte 0\n"                                                                            \
            ".text\n");                                                                            \
    extern const char asset_##name[], asset_##name##_end[];
#include "server/assets.def"
#undef ASSET

static const struct asset files[] = {
#define ASSET(name, path, mime, file) {path, mime, asset_##name, asset_##name##_end},
#include "server/assets.def"
#undef ASSET
};

const struct asset *asset_find(const char *path)
{
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        if (strcmp(files[i].path, path) == 0)
            return &files[i];
    return NULL;
}
