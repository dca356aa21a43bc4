/* Memory of a CUDA device for pictures that a decoder on that device makes.
 *
 * The surfaces of a hardware decoder are its own and go round, so a picture is copied from there to
 * here, rows packed, and the engine reads it from here (struct image, on_device). The memory can be
 * shared between processes by a descriptor: a decoding process writes, the daemon's engine reads.
 * Who maps it through the descriptor holds it, whatever becomes of who made it.
 *
 * One thread at a time; any thread. ERR_UNSUPPORTED in a build without CUDA, for a device that is
 * not there or cannot share; ERR_NOMEM; ERR_DEVICE for everything else that the runtime says, which
 * then costs this memory and not the engine. */
#ifndef TV3S_KERNELS_DEVICE_MEMORY_H
#define TV3S_KERNELS_DEVICE_MEMORY_H

#include "base/err.h"
#include "base/pixels.h"

#include <stddef.h>
#include <stdint.h>

struct device_memory;

/* The context of the device in which all here is and the engine's work, its primary one: a
 * CUcontext, for a decoder to work in. It lives as long as the process, and is current for this
 * thread then. */
enum err device_memory_context(int device, void **context);

/* At least `bytes` of device `device`. *fd (may be NULL: not to be shared) is the caller's; what is
 * shared is zero at first. */
enum err device_memory_open(int device, size_t bytes, int *fd, struct device_memory **out);
/* What another process shares by `fd`, which stays the caller's; `bytes` as there. */
enum err device_memory_import(int device, int fd, size_t bytes, struct device_memory **out);
void device_memory_close(struct device_memory *m); /* NULL is allowed; nothing uses it any more */

/* Where it begins, an address of the device; and how much there is. */
uint8_t *device_memory_at(const struct device_memory *m);
size_t device_memory_bytes(const struct device_memory *m);

/* An NV12 picture on the device to packed rows at `offset`; it is there when this returns, and the
 * picture is no longer read. It is made already, or by work in the default stream of
 * device_memory_context, which is waited for. ERR_ARG where pixels_bytes of it are more than
 * there is behind the offset. */
enum err device_memory_put(struct device_memory *m, size_t offset, const struct device_nv12 *from);
/* `bytes` at `offset` to the host. ERR_ARG as above. */
enum err device_memory_read(struct device_memory *m, size_t offset, void *to, size_t bytes);

#endif
