/* Masks of a running job: into the spool one by one, and into the result.
 *
 * SPOOL_FRAMES takes every mask as clients are given it, and is only appended to; SPOOL_INDEX tells
 * where each stands. Both are what a checkpoint makes durable. The result is written beside them,
 * under another name until it is complete: half a result is worth nothing after a crash, because no
 * encoder of a video can go on in the middle of its lookahead, and no archive without its
 * directory. A job that goes on therefore writes its result from the start, through the same calls
 * of the same sink as an uninterrupted one: encoded masks as they stand in SPOOL_FRAMES, and for
 * videos the pixels of their lossless PNGs, which are what the sink would have computed. So it is
 * the same byte by byte in every format, for the price of writing masks twice while a job runs. */
#include "server/job_run.h"

#include "base/try.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* ---- files --------------------------------------------------------------------------------------
 */

static enum err open_or_create(struct job *job, const char *name, bool there, int *fd)
{
    return there ? spool_append(job, name, fd) : spool_create(job, name, fd);
}

/* Both end with the last mask that is kept. */
static enum err open_masks(struct run *r)
{
    struct spool_entry last = {0};
    TRY(open_or_create(r->job, SPOOL_INDEX, r->kept > 0, &r->index));
    TRY(open_or_create(r->job, SPOOL_FRAMES, r->kept > 0, &r->frames));
    if (r->kept > 0)
        TRY(spool_read_at(r->index, (r->kept - 1) * sizeof last, &last, sizeof last));
    r->frames_size = last.offset + last.len;
    TRY(spool_cut(r->index, r->kept * sizeof last));
    return spool_cut(r->frames, r->frames_size);
}

enum err run_open_output(struct run *r)
{
    struct job *job = r->job;
    const struct arch *arch = &job->params.model->model->arch;
    char name[32];
    struct sink_options o;
    job_result_name(job, name);
    spool_path(job, name, r->path);
    TRY(sink_choose(r->path, &job->params.format, video_info(r->video), &o));
    o.palette = arch->palette;
    o.colours = arch->classes;
    TRY(sink_open(&o, &r->sink));
    enum err e = open_masks(r);
    r->unusable = r->kept > 0 && run_damaged(e);
    return e;
}

static enum err need_room(struct run *r, uint64_t bytes)
{
    enum err e = jobs_room(r->job, bytes);
    r->no_room = e == ERR_FULL;
    return e;
}

/* ---- a frame that came back ---------------------------------------------------------------------
 */

/* Where the frame's mask stands, for those who ask for one frame. */
static enum err write_index(struct run *r, const struct item *item)
{
    struct spool_entry entry = {.offset = r->frames_size,
                                .len = item->output.len,
                                .time = r->stamp[item->seq % WINDOW_MAX].time};
    if (!job_is_video(r->job))
        sink_entry(r->sink, &entry.result_offset, &entry.result_len);
    TRY(spool_write_at(r->frames, entry.offset, item->output.data, item->output.len));
    r->frames_size += item->output.len;
    return spool_write_at(r->index, (uint64_t)item->seq * sizeof entry, &entry, sizeof entry);
}

enum err run_write_frame(struct run *r, const struct item *item)
{
    struct job *job = r->job;
    struct frame f = r->stamp[item->seq % WINDOW_MAX];
    if (item->error)
        return err_set(item->error, "frame %lld: %s", (long long)item->seq, item->error_text);
    if ((uint64_t)item->seq < r->kept)
        return ERR_OK; /* it was for the frames after it */
    TRY(need_room(r, 2 * item->output.len));
    f.pixels = item->pixels;
    f.format = item->pixel_format;
    f.width = item->width;
    f.height = item->height;
    if (job_is_video(job) || video_info(r->video)->still)
        TRY(sink_put(r->sink, &f, item->labels));
    else
        TRY(sink_put_encoded(r->sink, &f, item->output.data, item->output.len));
    TRY(write_index(r, item));
    pthread_mutex_lock(&job->jobs->lock);
    job->done++;
    job_set_bytes(job, job->bytes + 2 * item->output.len);
    job->width = item->width;
    job->height = item->height;
    job_changed(job, job->done == 1);
    pthread_mutex_unlock(&job->jobs->lock);
    return ERR_OK;
}

/* ---- a frame of the run before ------------------------------------------------------------------
 */

/* The mask as it was written; malloc'd. */
static enum err read_kept(struct run *r, uint64_t n, void **data, size_t *len)
{
    struct spool_entry entry;
    *data = NULL;
    TRY(spool_read_at(r->index, n * sizeof entry, &entry, sizeof entry));
    if (entry.len > SIZE_MAX / 2 || entry.offset + entry.len > r->frames_size)
        return err_set(ERR_FORMAT, "the index of masks is damaged");
    if (!(*data = malloc(entry.len ? entry.len : 1)))
        return err_set(ERR_NOMEM, "no memory for a mask");
    *len = entry.len;
    return spool_read_at(r->frames, entry.offset, *data, entry.len);
}

static enum err pixels_of(const struct run *r, const void *png, size_t len, uint8_t **out)
{
    int channels = r->job->params.format == MASK_OVERLAY ? 3 : 1;
    return mask_read_png(png, len, r->frame.width, r->frame.height, channels, out);
}

enum err run_replay(struct run *r)
{
    void *data;
    size_t len = 0;
    uint8_t *pixels = NULL;
    enum err e = read_kept(r, r->submitted, &data, &len);
    if (!e && job_is_video(r->job))
        e = pixels_of(r, data, len, &pixels);
    r->unusable = run_damaged(e);
    if (!e)
        e = need_room(r, len);
    if (!e)
        e = pixels ? sink_put_pixels(r->sink, &r->frame, pixels)
                   : sink_put_encoded(r->sink, &r->frame, data, len);
    free(pixels);
    free(data);
    if (e)
        return e;
    pthread_mutex_lock(&r->job->jobs->lock);
    job_set_bytes(r->job, r->job->bytes + len);
    pthread_mutex_unlock(&r->job->jobs->lock);
    return ERR_OK;
}

enum err run_keep_all(struct run *r)
{
    TRY(spool_flush(r->frames));
    TRY(spool_flush(r->index));
    return spool_sync(r->job);
}
