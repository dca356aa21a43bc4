/* kernels/device_memory.h on the host, for tests that are about who has which part of it: they
 * define it in place of the library's. */
#ifndef TV3S_TESTS_FAKE_DEVICE_MEMORY_H
#define TV3S_TESTS_FAKE_DEVICE_MEMORY_H

#include "kernels/device_memory.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct device_memory {
    size_t bytes;
    uint8_t at[];
};

static int fake_memories;        /* that are open */
static size_t fake_memory_limit; /* of one; 0: none */

enum err device_memory_open(int device, size_t bytes, int *fd, struct device_memory **out)
{
    (void)device;
    *out = NULL;
    *fd = -1;
    if (fake_memory_limit && bytes > fake_memory_limit)
        return err_set(ERR_NOMEM, "the device has no %zu bytes", bytes);
    *out = calloc(1, sizeof **out + bytes);
    if (!*out)
        return err_set(ERR_NOMEM, "out of memory");
    (*out)->bytes = bytes;
    *fd = memfd_create("fake", MFD_CLOEXEC);
    fake_memories++;
    return ERR_OK;
}

enum err device_memory_import(int device, int fd, size_t bytes, struct device_memory **out)
{
    (void)device, (void)fd, (void)bytes;
    *out = NULL;
    return err_set(ERR_UNSUPPORTED, "nothing is imported here");
}

void device_memory_close(struct device_memory *m)
{
    fake_memories -= m != NULL;
    free(m);
}

uint8_t *device_memory_at(const struct device_memory *m)
{
    return (uint8_t *)m->at;
}

size_t device_memory_bytes(const struct device_memory *m)
{
    return m->bytes;
}

enum err device_memory_put(struct device_memory *m, size_t offset, const struct device_nv12 *from)
{
    (void)m, (void)offset, (void)from;
    return err_set(ERR_UNSUPPORTED, "nothing is decoded here");
}

enum err device_memory_read(struct device_memory *m, size_t offset, void *to, size_t bytes)
{
    memcpy(to, m->at + offset, bytes);
    return ERR_OK;
}

#endif
