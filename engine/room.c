/* Room at start: memory for batches and states before the first stream comes.
 *
 * A device's allocator waits for the device, and what it has not got should be said by whoever
 * starts the daemon, not by the first stream that is refused. So batches of the size to come go
 * through the engine once, as many as may be under way, which also loads every kernel; then the
 * pool of states is made. What does not fit is named, with what would. */
#include "engine/internal.h"

#include "base/try.h"

#include <stdio.h>
#include <stdlib.h>

static size_t in_mb(size_t bytes)
{
    return bytes >> 20;
}

/* Batches of one gray frame of each stream. */
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

static enum err try_batches(struct engine *e, int count, int width, int height)
{
    const struct stream_config config = {.mode = MODE_STREAM};
    size_t pixels = (size_t)width * (size_t)height;
    uint8_t *rgb = calloc(pixels, 3), *labels = malloc(pixels);
    struct stream **streams = calloc((size_t)count, sizeof(struct stream *));
    const struct image image = {rgb, width, height, 3 * (ptrdiff_t)width};
    enum err r = rgb && labels && streams ? ERR_OK : err_set(ERR_NOMEM, "out of memory");
    for (int i = 0; r == ERR_OK && i < count; i++)
        r = stream_open(e, &config, &streams[i]);
    if (r == ERR_OK)
        r = run_batches(e, streams, count, &image, labels);
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

/* How much of `bytes` fits, to a sixteenth. */
static size_t that_fits(struct engine *e, size_t bytes)
{
    for (size_t part = 15; part > 0; part--) {
        void *p;
        if (e->be->ops->alloc(e->be, bytes / 16 * part, &p) == ERR_OK) {
            e->be->ops->free(e->be, p);
            return bytes / 16 * part;
        }
    }
    return 0;
}

/* The streams' states, and those that the batches under way make. */
static enum err room_for_states(struct engine *e, const struct engine_config *c)
{
    struct geometry g = {.state_bytes = 0};
    if (c->room_frames > 0)
        TRY(engine_geometry(&e->model->arch, c->room_width, c->room_height, NULL, &g));
    size_t working = (size_t)engine_depth(e) * (size_t)c->room_frames * g.state_bytes;
    enum err r = e->be->ops->reserve(e->be, c->room_states + working);
    if (r != ERR_NOMEM)
        return r;
    size_t fits = that_fits(e, c->room_states + working);
    return err_set(ERR_NOMEM,
                   "hidden states of %zu MB do not fit beside weights and batches, %zu MB would "
                   "(max_state_bytes)",
                   in_mb(c->room_states), in_mb(fits > working ? fits - working : 0));
}

enum err engine_make_room(struct engine *e, const struct engine_config *c)
{
    if (c->device == DEVICE_CPU)
        return ERR_OK;
    if (c->room_frames > 0)
        TRY(room_for_batches(e, c));
    return c->room_states > 0 ? room_for_states(e, c) : ERR_OK;
}
