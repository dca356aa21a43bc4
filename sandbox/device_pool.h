/* A video's pictures on a CUDA device: memory in slots, which its decoding process writes and the
 * daemon's engine reads.
 *
 * A slot is the decoding process' while a frame may be made in it, and whose frame it shows after
 * that; who has it gives it back. The memory lives as long as the pool or one of its pictures is
 * held. Any thread; a picture is of one thread at a time. */
#ifndef TV3S_SANDBOX_DEVICE_POOL_H
#define TV3S_SANDBOX_DEVICE_POOL_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

struct device_pool;
struct device_picture;

/* At least `least` slots of `slot_bytes`, up to `most`, and no more than a pool may have. *fd, by
 * which the memory is shared, is the caller's. ERR_LIMIT: they would be too large; else what
 * device_memory_open says. */
enum err device_pool_open(int device, int least, int most, uint64_t slot_bytes, int *fd,
                          struct device_pool **out);
void device_pool_close(struct device_pool *p); /* the opener's hold on it. NULL is allowed */
int device_pool_slots(const struct device_pool *p);

/* A slot that nobody has; NULL: there is none. */
struct device_picture *device_pool_take(struct device_pool *p);
void device_picture_release(struct device_picture *picture); /* NULL is allowed */

int device_picture_slot(const struct device_picture *picture);
uint8_t *device_picture_pixels(const struct device_picture *picture); /* a device address */
/* The first `bytes` of it to the host. Nobody else uses a picture of the pool meanwhile. */
enum err device_picture_read(struct device_picture *picture, void *to, size_t bytes);

#endif
