/* A key file of anybody's. What is accepted is whole: names, hashes and roles, no key twice. */
#include "server/access_parts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct grant *all, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct grant *g = &all[i];
        size_t n = strnlen(g->name, sizeof g->name);
        if (n == 0 || n == sizeof g->name || g->hashes < 1 || g->hashes > HASHES_MAX || !g->roles)
            abort();
        for (size_t k = 0; k < i; k++)
            if (strcmp(all[k].name, g->name) == 0)
                abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    struct grant *all;
    size_t count;
    int fd = memfd_create("keys", 0);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (keys_read(path, &all, &count) == ERR_OK)
        check(all, count);
    else if (all || !err_text()[0])
        abort();
    free(all);
    close(fd);
    return 0;
}
