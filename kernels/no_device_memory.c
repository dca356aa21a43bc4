/* In place of kernels/cuda/device_memory.c where that was not built. */
#include "kernels/device_memory.h"

static enum err no_memory(void)
{
    return err_set(ERR_UNSUPPORTED, "this build has no CUDA: build with `make CUDA=1`");
}

enum err device_memory_context(int device, void **context)
{
    (void)device;
    *context = NULL;
    return no_memory();
}

enum err device_memory_open(int device, size_t bytes, int *fd, struct device_memory **out)
{
    (void)device;
    (void)bytes;
    if (fd)
        *fd = -1;
    *out = NULL;
    return no_memory();
}

enum err device_memory_import(int device, int fd, size_t bytes, struct device_memory **out)
{
    (void)fd;
    return device_memory_open(device, bytes, NULL, out);
}

void device_memory_close(struct device_memory *m)
{
    (void)m;
}

uint8_t *device_memory_at(const struct device_memory *m)
{
    (void)m;
    return NULL;
}

size_t device_memory_bytes(const struct device_memory *m)
{
    (void)m;
    return 0;
}

enum err device_memory_put(struct device_memory *m, size_t offset, const struct device_nv12 *from)
{
    (void)m;
    (void)offset;
    (void)from;
    return no_memory();
}

enum err device_memory_read(struct device_memory *m, size_t offset, void *to, size_t bytes)
{
    (void)m;
    (void)offset;
    (void)to;
    (void)bytes;
    return no_memory();
}
