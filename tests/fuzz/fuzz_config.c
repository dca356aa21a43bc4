/* A configuration file of anybody's. What is accepted is written out as it was taken, and read
 * again is the same. */
#include "server/config.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* The settings of a file of these bytes. False: refused, with a reason. */
static bool load(const void *data, size_t size, struct config *c)
{
    char path[64];
    enum config_action action;
    int fd = memfd_create("config", 0);
    *c = (struct config){0};
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    char *argv[] = {"tv3sd", "--config", path, NULL};
    enum err e = config_load(c, 3, argv, &action);
    close(fd);
    if (e && !err_text()[0])
        abort();
    return e == ERR_OK;
}

static char *dump(const struct config *c, size_t *len)
{
    char *text = NULL;
    FILE *to = open_memstream(&text, len);
    if (!to || config_dump(c, to) || fclose(to))
        abort();
    return text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct config first, again;
    if (load(data, size, &first)) {
        size_t n, m;
        char *text = dump(&first, &n);
        if (!load(text, n, &again))
            abort();
        char *same = dump(&again, &m);
        if (n != m || memcmp(text, same, n) != 0)
            abort();
        free(text);
        free(same);
        config_free(&again);
    }
    config_free(&first);
    return 0;
}
