/* A decoding process on a CUDA device.
 *
 * The driver's library is not made to be confined: it opens files, makes threads and loads what it
 * needs when it needs it. So it does all of that first, with a clip of ours in place of the video,
 * by the same way that the video will go: a decoder, memory that is shared by a descriptor, copies
 * into it. Then nothing is left that it would have to load, and the process gives up what it can.
 * The first fork that has a device is this one: a process that is forked after the driver's start
 * has no use of it, so the zygote never starts it. */
#include "sandbox/child.h"

#include "sandbox/confine.h"
#include "sandbox/device_clip.h"

#include "base/try.h"
#include "kernels/device_memory.h"

#include <dlfcn.h>
#include <limits.h>
#include <link.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- the start ----------------------------------------------------------------------------------
 */

/* It stays loaded: who asks for it later gets it without looking for a file. *folder: where it is,
 * malloc'd. */
static enum err load(const char *name, char **folder)
{
    struct link_map *map = NULL;
    void *library = dlopen(name, RTLD_NOW);
    if (!library)
        return err_set(ERR_UNSUPPORTED, "%s", dlerror());
    *folder = dlinfo(library, RTLD_DI_LINKMAP, &map) == 0 ? realpath(map->l_name, NULL) : NULL;
    if (!*folder)
        return err_set(ERR_UNSUPPORTED, "where %s is cannot be found out", name);
    *strrchr(*folder, '/') = 0;
    return ERR_OK;
}

static enum err load_driver(int *confined)
{
    char *folder[3] = {NULL};
    enum err e = load("libcuda.so.1", &folder[0]);
    if (!e)
        e = load("libnvcuvid.so.1", &folder[1]);
    if (!e)
        e = confine_device_files((const char *const *)folder, confined);
    free(folder[0]);
    free(folder[1]);
    return e;
}

/* Memory as the daemon makes it, taken as it is taken from the daemon. */
struct trial {
    int index;
    struct device_memory *made, *memory;
};

static enum err make_room(struct trial *t)
{
    size_t bytes = pixels_bytes(PIXELS_NV12, DEVICE_CLIP_WIDTH, DEVICE_CLIP_HEIGHT);
    int fd;
    TRY(device_memory_open(t->index, bytes, &fd, &t->made));
    enum err e = device_memory_import(t->index, fd, bytes, &t->memory);
    close(fd);
    return e;
}

/* decode_device.take. The room comes with the first picture, as a video's does. */
static enum err keep(void *trial, const struct device_nv12 *picture, struct frame *f)
{
    struct trial *t = trial;
    if (!t->memory)
        TRY(make_room(t));
    TRY(device_memory_put(t->memory, 0, picture));
    f->device_pixels = device_memory_at(t->memory);
    return ERR_OK;
}

static enum err decode_all(const struct decode_options *o)
{
    struct frame f = {.takes_nv12 = true};
    struct decoder *d;
    const char *why;
    bool end = false;
    TRY(decoder_open("clip", o, &d));
    enum err e = decoder_next(d, &f, &end);
    while (!e && !end) {
        decoder_place(d, &why);
        e = f.device_pixels
                ? decoder_next(d, &f, &end)
                : err_set(ERR_UNSUPPORTED, "%s", why ? why : "pictures do not stay on the device");
    }
    frame_free(&f);
    decoder_close(d);
    return e;
}

static enum err try_driver(int index)
{
    struct trial t = {.index = index};
    struct decode_device device = {.index = index, .take = keep, .ctx = &t};
    const struct decode_options o = {
        .local_file_only = true, .device = &device, .fd = device_clip_open()};
    if (o.fd < 0)
        return err_set(ERR_NOMEM, "no memory for a clip");
    enum err e = device_memory_context(index, &device.context);
    if (!e)
        e = decode_all(&o);
    device_memory_close(t.memory);
    device_memory_close(t.made);
    close(o.fd);
    return e;
}

static void *do_nothing(void *unused)
{
    return unused;
}

/* libc sets handlers of signals with the first, which the filter ends a process for. */
static enum err make_first_thread(void)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, do_nothing, NULL) != 0)
        return err_set(ERR_NOMEM, "no thread");
    pthread_join(thread, NULL);
    return ERR_OK;
}

enum err child_device_start(const struct child_order *order, uint64_t memory, int *confined)
{
    TRY(load_driver(confined));
    TRY(make_first_thread());
    TRY(try_driver(order->device - 1));
    return confine_device(memory, order->cpu_seconds, confined);
}

/* ---- a video's pictures -------------------------------------------------------------------------
 */

static void forget_slots(struct child_room *room)
{
    for (int i = 0; i < WIRE_SLOTS_MAX; i++)
        room->slot[i] = -1;
}

void child_room_open(struct child_room *room, const struct child_order *order,
                     const struct wire_request *q, int fd, int64_t first)
{
    forget_slots(room);
    if (q->slots >= order->slots &&
        device_memory_import(order->device - 1, fd, (size_t)(q->slots * q->slot_bytes),
                             &room->memory) != ERR_OK)
        snprintf(room->why, sizeof room->why, "%s", err_text());
    for (int i = 0; room->memory && i < order->slots; i++)
        room->slot[(first + i) % order->slots] = i;
    room->slot_bytes = q->slot_bytes;
    if (fd >= 0)
        close(fd);
}

enum err child_room_put(struct child_room *room, const struct child_order *order, int64_t number,
                        const struct device_nv12 *picture, struct frame *f)
{
    int slot = room->slot[number % order->slots];
    if (!room->memory || slot < 0 ||
        pixels_bytes(PIXELS_NV12, picture->width, picture->height) > room->slot_bytes)
        return err_set(ERR_LIMIT, "there is no room for the picture on the device");
    TRY(device_memory_put(room->memory, (size_t)((uint64_t)slot * room->slot_bytes), picture));
    f->device_pixels = device_memory_at(room->memory) + (uint64_t)slot * room->slot_bytes;
    return ERR_OK;
}
