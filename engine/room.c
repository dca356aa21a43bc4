/* Room at start: memory for batches and states before the first stream comes.
 *
 * A device's allocator waits for the device, and what it has not got should be said by whoever
 * starts the daemon, not by the first stream that is refused. So batches of the size to come go
 * through the engine once, as many as may be under way, which also loads every kernel. What does
 * not fit is named, with what would. Hidden states get what is left when all models have theirs. */
#include "engine/internal.h"

#include "base/try.h"

#include <stdio.h>
#include <stdlib.h>

enum { LEAST_ROOM = 1 << 20 };

/* Batches of one dark frame of each stream. */
static enum err run_batches(struct engine *e, struct stream *const *streams, int count,
                            const struct image *image, uint8_t *labels)
{
    struct engine_run *runs = calloc((size_t)count, sizeof *runs);
    int under_way = 0;
    enum err r = runs ? ERR_OK : err_set(ERR_NOMEM, "out of memory for a batch");
    for (int i = 0; r == ERR_OK && i < count; i++)
        runs[i] = (struct engine_run){streams[i], 1, image, &labels, NULL};
    while (r == ERR_OK && under_way < engine_depth(e)) {
        r = engine_submit(e, runs, count);
        under_way += r == ERR_OK;
    }
    for (; under_way > 0; under_way--) {
        enum err waited = engine_wait(e);
        r = r == ERR_OK ? waited : r;
    }
    free(runs);
    return r;
}

/* The same of NV12, whose kernel is another, from the device, where it goes through memory of its
 * own. */
static enum err run_nv12_batches(struct engine *e, struct stream *const *streams, int count,
                                 int width, int height, uint8_t *labels)
{
    const struct backend_ops *ops = e->be->ops;
    struct image image =
        image_of(NULL, width, height, (struct pixel_format){.layout = PIXELS_NV12});
    size_t bytes = (size_t)image.stride * pixels_rows(PIXELS_NV12, height);
    uint8_t *dark = calloc(1, bytes);
    void *pixels = NULL;
    enum err r = dark ? ERR_OK : err_set(ERR_NOMEM, "out of memory");
    if (r == ERR_OK)
        r = ops->alloc(e->be, bytes, &pixels);
    if (r == ERR_OK)
        r = ops->upload(e->be, pixels, dark, bytes);
    image.pixels = pixels;
    image.on_device = true;
    if (r == ERR_OK)
        r = run_batches(e, streams, count, &image, labels);
    ops->free(e->be, pixels);
    free(dark);
    return r;
}

static enum err try_batches(struct engine *e, int count, int width, int height)
{
    const struct stream_config config = {.mode = MODE_STREAM};
    size_t pixels = (size_t)width * (size_t)height;
    uint8_t *rgb = calloc(pixels, 3), *labels = malloc(pixels);
    struct stream **streams = calloc((size_t)count, sizeof(struct stream *));
    const struct image image = image_of_rgb24(rgb, width, height);
    enum err r = rgb && labels && streams ? ERR_OK : err_set(ERR_NOMEM, "out of memory");
    for (int i = 0; r == ERR_OK && i < count; i++)
        r = stream_open(e, &config, &streams[i]);
    if (r == ERR_OK)
        r = run_batches(e, streams, count, &image, labels);
    if (r == ERR_OK && engine_takes_nv12(e) && pixels_nv12_size(width, height))
        r = run_nv12_batches(e, streams, count, width, height, labels);
    for (int i = 0; streams && i < count; i++)
        stream_close(streams[i]);
    free(streams);
    free(rgb);
    free(labels);
    return r;
}

static enum err room_for_batches(struct engine *e, const struct engine_config *c)
{
    char why[256];
    int fits = c->room_frames;
    enum err r = try_batches(e, fits, c->room_width, c->room_height);
    if (r == ERR_OK && fits > 1) /* what a small batch alone uses: a device loads it now */
        r = try_batches(e, 1, c->room_width, c->room_height);
    if (r != ERR_NOMEM)
        return r;
    snprintf(why, sizeof why, "%s", err_text());
    while (fits > 1 && r == ERR_NOMEM)
        r = try_batches(e, fits /= 2, c->room_width, c->room_height);
    if (r != ERR_OK)
        return err_set(r, "beside the weights, not even one frame of %dx%d fits: %s", c->room_width,
                       c->room_height, why);
    return err_set(ERR_NOMEM,
                   "batches of %d frames of %dx%d do not fit, of %d they would (batch_max): %s",
                   c->room_frames, c->room_width, c->room_height, fits, why);
}

enum err engine_make_room(struct engine *e, const struct engine_config *c)
{
    return c->device == DEVICE_CPU || c->room_frames == 0 ? ERR_OK : room_for_batches(e, c);
}

enum err engine_reserve_states(struct engine *e, size_t bytes)
{
    engine_enter(e);
    return e->be->ops->reserve(e->be, bytes);
}

size_t engine_room_left(struct engine *e, size_t bytes)
{
    void *p;
    engine_enter(e);
    while (bytes >= LEAST_ROOM && e->be->ops->alloc(e->be, bytes, &p) != ERR_OK)
        bytes -= bytes / 16;
    if (bytes < LEAST_ROOM)
        return 0;
    e->be->ops->free(e->be, p);
    return bytes;
}
