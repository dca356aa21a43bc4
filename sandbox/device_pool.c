#include "sandbox/device_pool.h"

#include "base/try.h"
#include "kernels/device_memory.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

/* Of one video; some twenty pictures of 3840x2160. What it takes the engine cannot have. */
static const uint64_t bytes_max = 256u << 20;

struct device_picture {
    struct device_pool *pool;
    bool taken; /* the lock */
};

struct device_pool {
    struct device_memory *memory;
    uint64_t slot_bytes;
    int slots;
    pthread_mutex_t lock;
    int holds; /* the lock: the opener's, and of each picture that is taken */
    struct device_picture picture[];
};

enum err device_pool_open(int device, int least, int most, uint64_t slot_bytes, int *fd,
                          struct device_pool **out)
{
    uint64_t room = bytes_max / slot_bytes;
    int slots = room < (uint64_t)most ? (int)room : most;
    *fd = -1;
    *out = NULL;
    if (slots < least)
        return err_set(ERR_LIMIT, "%d pictures of %llu bytes are more than a video may have there",
                       least, (unsigned long long)slot_bytes);
    struct device_pool *p = calloc(1, sizeof *p + (size_t)slots * sizeof p->picture[0]);
    if (!p)
        return err_set(ERR_NOMEM, "no memory for a video's pictures");
    enum err e = device_memory_open(device, (size_t)slots * slot_bytes, fd, &p->memory);
    if (e) {
        free(p);
        return e;
    }
    p->slot_bytes = slot_bytes;
    p->slots = slots;
    p->holds = 1;
    pthread_mutex_init(&p->lock, NULL);
    *out = p;
    return ERR_OK;
}

/* With the lock held, which it gives up. */
static void let_go(struct device_pool *p)
{
    bool last = --p->holds == 0;
    pthread_mutex_unlock(&p->lock);
    if (!last)
        return;
    device_memory_close(p->memory);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

void device_pool_close(struct device_pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    let_go(p);
}

int device_pool_slots(const struct device_pool *p)
{
    return p->slots;
}

struct device_picture *device_pool_take(struct device_pool *p)
{
    struct device_picture *found = NULL;
    pthread_mutex_lock(&p->lock);
    for (int i = 0; !found && i < p->slots; i++)
        if (!p->picture[i].taken)
            found = &p->picture[i];
    if (found) {
        *found = (struct device_picture){p, true};
        p->holds++;
    }
    pthread_mutex_unlock(&p->lock);
    return found;
}

void device_picture_release(struct device_picture *picture)
{
    if (!picture)
        return;
    struct device_pool *p = picture->pool;
    pthread_mutex_lock(&p->lock);
    picture->taken = false;
    let_go(p);
}

int device_picture_slot(const struct device_picture *picture)
{
    return (int)(picture - picture->pool->picture);
}

uint8_t *device_picture_pixels(const struct device_picture *picture)
{
    return device_memory_at(picture->pool->memory) +
           (uint64_t)device_picture_slot(picture) * picture->pool->slot_bytes;
}

enum err device_picture_read(struct device_picture *picture, void *to, size_t bytes)
{
    struct device_pool *p = picture->pool;
    return device_memory_read(
        p->memory, (size_t)device_picture_slot(picture) * (size_t)p->slot_bytes, to, bytes);
}
