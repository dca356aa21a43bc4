/* The thread of a running job: decodes, hands frames to the scheduler, and writes what comes back.
 *
 * `job_window` frames are on their way at most, so memory does not grow with the video. What comes
 * back is put in order by the frame's number and written by this thread alone, to the same sink
 * that `tv3s segment` writes to; the index of single masks follows, then `done` grows and clients
 * may ask for the frame. While the thread waits for bytes of an upload it writes on. */
#include "server/job.h"

#include "base/try.h"
#include "media/sink.h"
#include "server/config.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/sched.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WINDOW_MAX = 64 };

struct run {
    struct job *job;
    struct session *session;
    struct decoder *decoder;
    bool front_to_back; /* the decoder reads a file that still grows */
    struct frame frame;
    struct frame stamp[WINDOW_MAX]; /* number, pts, duration, time of frames on their way */
    uint64_t submitted, back;       /* frames */
    uint64_t decoded;               /* bytes */
    double first_time;
    struct sink *sink;
    char path[4096]; /* the sink's */
    int index, frames;
    uint64_t frames_size;
    enum err broken; /* writing failed while the decoder waited */
};

/* ---- frames come back ---------------------------------------------------------------------------
 */

/* An encode worker, or the engine thread. */
static void on_delivered(struct item *item)
{
    struct job *job = item->owner;
    pthread_mutex_lock(&job->jobs->lock);
    struct item **at = &job->returned;
    while (*at && (*at)->seq < item->seq)
        at = &(*at)->next;
    item->next = *at;
    *at = item;
    pthread_cond_signal(&job->wake);
    pthread_mutex_unlock(&job->jobs->lock);
}

/* With the lock held: the next frame in order is here. */
static bool has_next(const struct run *r)
{
    return r->job->returned && r->job->returned->seq == (int64_t)r->back;
}

/* The next frame in order, or NULL if it is not here and `wait` is false. */
static struct item *take(struct run *r, bool wait)
{
    struct job *job = r->job;
    pthread_mutex_lock(&job->jobs->lock);
    while (wait && !has_next(r))
        pthread_cond_wait(&job->wake, &job->jobs->lock);
    struct item *item = has_next(r) ? job->returned : NULL;
    if (item) {
        job->returned = item->next;
        r->back++;
    }
    pthread_mutex_unlock(&job->jobs->lock);
    return item;
}

/* Where the frame's mask stands, for those who ask for one frame. */
static enum err write_index(struct run *r, const struct item *item)
{
    struct spool_entry entry = {r->frames_size, item->output.len,
                                r->stamp[item->seq % WINDOW_MAX].time};
    if (job_is_video(r->job)) {
        TRY(spool_write_at(r->frames, entry.offset, item->output.data, item->output.len));
        r->frames_size += item->output.len;
    } else {
        sink_entry(r->sink, &entry.offset, &entry.len);
    }
    return spool_write_at(r->index, (uint64_t)item->seq * sizeof entry, &entry, sizeof entry);
}

static enum err write_frame(struct run *r, const struct item *item)
{
    struct job *job = r->job;
    struct frame f = r->stamp[item->seq % WINDOW_MAX];
    if (item->error)
        return err_set(item->error, "frame %lld: %s", (long long)item->seq, item->error_text);
    f.rgb = item->rgb;
    f.width = item->width;
    f.height = item->height;
    if (job_is_video(job) || decoder_info(r->decoder)->still)
        TRY(sink_put(r->sink, &f, item->labels));
    else
        TRY(sink_put_encoded(r->sink, &f, item->output.data, item->output.len));
    TRY(write_index(r, item));
    pthread_mutex_lock(&job->jobs->lock);
    job->done++;
    job->width = item->width;
    job->height = item->height;
    job_changed(job, job->done == 1);
    pthread_mutex_unlock(&job->jobs->lock);
    return ERR_OK;
}

/* Writes all that is here; with `wait`, one frame at least. */
static enum err write_returned(struct run *r, bool wait)
{
    for (struct item *item; (item = take(r, wait)); wait = false) {
        enum err e = write_frame(r, item);
        item_free(item);
        if (e)
            return e;
    }
    return ERR_OK;
}

/* ---- input --------------------------------------------------------------------------------------
 */

static bool is_cancelled(void *run)
{
    const struct run *r = run;
    return atomic_load(&r->job->cancelled) || r->broken;
}

static void report(void *run, const char *text)
{
    const struct run *r = run;
    log_event(LOG_DEBUG, "job_damage", "job=%s text=%s", r->job->id, log_text(text));
}

/* With the lock held: gives its place away until something comes. */
static void sleep_for_bytes(struct job *job)
{
    jobs_asleep(job->jobs, true);
    pthread_cond_wait(&job->wake, &job->jobs->lock);
    jobs_asleep(job->jobs, false);
}

/* decode_options.growing */
static int64_t wait_for_bytes(void *run, int64_t offset)
{
    struct run *r = run;
    struct job *job = r->job;
    pthread_mutex_lock(&job->jobs->lock);
    while (!job->whole && (int64_t)job->arrived <= offset && !is_cancelled(r)) {
        if (!has_next(r)) {
            sleep_for_bytes(job);
            continue;
        }
        pthread_mutex_unlock(&job->jobs->lock);
        r->broken = write_returned(r, false);
        pthread_mutex_lock(&job->jobs->lock);
    }
    int64_t arrived = (int64_t)job->arrived;
    pthread_mutex_unlock(&job->jobs->lock);
    return arrived;
}

static enum err open_decoder(struct run *r)
{
    char path[4096];
    const struct config *c = r->job->jobs->server->config;
    struct decode_options o = {
        .local_file_only = true,
        .max_pixels = (int64_t)c->max_pixels,
        .max_frames = c->max_frames,
        .report = report,
        .cancelled = is_cancelled,
        .growing = r->front_to_back ? wait_for_bytes : NULL,
        .ctx = r,
    };
    spool_path(r->job, SPOOL_UPLOAD, path);
    decoder_close(r->decoder);
    return decoder_open(path, &o, &r->decoder);
}

/* What does not work front to back gets a second try with the whole file. */
static enum err try_whole(struct run *r, enum err e)
{
    if (!e || !r->front_to_back || r->submitted > 0 || is_cancelled(r))
        return e;
    wait_for_bytes(r, INT64_MAX);
    if (is_cancelled(r))
        return err_set(ERR_CANCELLED, "cancelled");
    r->front_to_back = false;
    return open_decoder(r);
}

static enum err open_input(struct run *r)
{
    struct job *job = r->job;
    pthread_mutex_lock(&job->jobs->lock);
    r->front_to_back = !job->whole;
    pthread_mutex_unlock(&job->jobs->lock);
    TRY(try_whole(r, open_decoder(r)));
    const struct decode_info *info = decoder_info(r->decoder);
    pthread_mutex_lock(&job->jobs->lock);
    job->total = info->frames;
    job->fps = info->rate;
    job_changed(job, true);
    pthread_mutex_unlock(&job->jobs->lock);
    return ERR_OK;
}

/* Against a small file of pictures without end. (decoder_next holds to max_pixels and max_frames.)
 */
static enum err check_limits(struct run *r)
{
    const struct config *c = r->job->jobs->server->config;
    if (r->submitted == 0)
        r->first_time = r->frame.time;
    if (r->frame.time - r->first_time > c->max_duration)
        return err_set(ERR_LIMIT, "the video is longer than %g seconds", c->max_duration);
    r->decoded += 3 * (uint64_t)r->frame.width * (uint64_t)r->frame.height;
    if (r->decoded > c->max_decoded)
        return err_set(ERR_LIMIT, "the video's pictures take more than %llu bytes",
                       (unsigned long long)c->max_decoded);
    return ERR_OK;
}

static enum err next_frame(struct run *r, bool *end)
{
    enum err e = decoder_next(r->decoder, &r->frame, end);
    if (e && r->submitted == 0 && r->front_to_back) {
        TRY(try_whole(r, e));
        e = decoder_next(r->decoder, &r->frame, end);
    }
    if (r->broken)
        return r->broken;
    return e || *end ? e : check_limits(r);
}

/* ---- output -------------------------------------------------------------------------------------
 */

static enum err open_output(struct run *r)
{
    struct job *job = r->job;
    const struct arch *arch = &job->params.model->model->arch;
    char name[32];
    struct sink_options o;
    snprintf(name, sizeof name, "result.%s", job_ending(job));
    spool_path(job, name, r->path);
    TRY(sink_choose(r->path, &job->params.format, decoder_info(r->decoder), &o));
    o.palette = arch->palette;
    o.colours = arch->classes;
    TRY(sink_open(&o, &r->sink));
    TRY(spool_keep(job, sink_temporary(r->sink), SPOOL_RESULT));
    TRY(spool_create(job, SPOOL_INDEX, &r->index));
    return job_is_video(job) ? spool_create(job, SPOOL_FRAMES, &r->frames) : ERR_OK;
}

/* ---- the way through ----------------------------------------------------------------------------
 */

static enum err submit(struct run *r)
{
    const struct frame *f = &r->frame;
    struct item *item = item_new(r->session, ITEM_DECODED);
    if (!item)
        return err_set(ERR_NOMEM, "no memory for a frame");
    r->stamp[r->submitted % WINDOW_MAX] = (struct frame){
        .number = f->number, .pts = f->pts, .duration = f->duration, .time = f->time};
    item->seq = (int64_t)r->submitted++;
    item->pts = llrint(f->time * 1e6);
    item->width = f->width;
    item->height = f->height;
    item->rgb = f->rgb;
    item->decoded = clock_ns();
    item->deliver = on_delivered;
    item->owner = r->job;
    r->frame.rgb = NULL; /* the item's now */
    r->frame.capacity = 0;
    sched_submit(r->job->jobs->server->sched, item);
    return ERR_OK;
}

static void note_damage(struct run *r)
{
    pthread_mutex_lock(&r->job->jobs->lock);
    r->job->corrupt = decoder_corrupt(r->decoder);
    pthread_mutex_unlock(&r->job->jobs->lock);
}

static enum err label_all(struct run *r)
{
    struct job *job = r->job;
    uint64_t window = (uint64_t)job->jobs->server->config->job_window;
    for (;;) {
        bool end;
        TRY(write_returned(r, r->submitted - r->back >= window));
        if (is_cancelled(r))
            return err_set(ERR_CANCELLED, "cancelled");
        TRY(next_frame(r, &end));
        note_damage(r);
        if (end)
            break;
        if (!r->sink)
            TRY(open_output(r));
        TRY(submit(r));
    }
    while (r->back < r->submitted)
        TRY(write_returned(r, true));
    return ERR_OK;
}

/* Frames on their way hold on to the job: all come back before it ends. */
static void await_all(struct run *r)
{
    if (r->session)
        atomic_store(&r->session->dead, true); /* they need no labels */
    while (r->back < r->submitted)
        item_free(take(r, true));
}

static enum err run_job(struct job *job)
{
    struct run r = {.job = job, .index = -1, .frames = -1};
    struct sessions *sessions = job->jobs->server->sessions;
    enum err e = session_new(sessions, SESSION_UPLOAD, job->id, &job->params, &r.session);
    if (!e)
        e = open_input(&r);
    if (!e)
        e = label_all(&r);
    if (!e) {
        e = sink_commit(r.sink);
        r.sink = NULL;
    }
    char text[512]; /* clean-up may have errors of its own */
    snprintf(text, sizeof text, "%s", err_text());
    await_all(&r);
    sink_abort(r.sink);
    frame_free(&r.frame);
    decoder_close(r.decoder);
    session_unref(r.session);
    if (r.index >= 0)
        close(r.index);
    if (r.frames >= 0)
        close(r.frames);
    return e ? err_set(e, "%s", text) : ERR_OK;
}

/* ---- the end ------------------------------------------------------------------------------------
 */

/* Clients are not to learn where the spool is. */
static void hide_folder(const struct job *job, char *text)
{
    size_t n = strlen(job->folder) + 1;
    for (char *p; (p = strstr(text, job->folder));)
        memmove(p, p + n, strlen(p + n) + 1);
}

static void finish(struct job *job, enum err e)
{
    static const char *const outcome[] = {
        [JOB_SUCCEEDED] = "succeeded", [JOB_FAILED] = "failed", [JOB_CANCELLED] = "cancelled"};
    char text[512], path[4096];
    snprintf(text, sizeof text, "%s", e ? err_text() : "");
    hide_folder(job, text);
    spool_path(job, SPOOL_UPLOAD, path);
    unlink(path);
    pthread_mutex_lock(&job->jobs->lock);
    enum job_state state = atomic_load(&job->cancelled) ? JOB_CANCELLED
                           : e                          ? JOB_FAILED
                                                        : JOB_SUCCEEDED;
    job->error = state == JOB_FAILED ? e : ERR_OK;
    snprintf(job->error_text, sizeof job->error_text, "%s", text);
    if (state == JOB_SUCCEEDED)
        job->total = (int64_t)job->done;
    job_set_state(job, state);
    unsigned long long done = job->done;
    double seconds = job->finished - job->started;
    pthread_mutex_unlock(&job->jobs->lock);
    log_event(LOG_INFO, "job_ended", "job=%s state=%s frames=%llu seconds=%.3f error=%s", job->id,
              outcome[state], done, seconds, log_text(text));
}

void *job_thread(void *arg)
{
    struct job *job = arg;
    struct jobs *j = job->jobs;
    finish(job, run_job(job));
    job_unref(job);
    pthread_mutex_lock(&j->lock);
    jobs_ended(j);
    pthread_mutex_unlock(&j->lock);
    return NULL;
}
