/* The thread of a running job: decodes, hands frames to the scheduler, and writes what comes back.
 *
 * `job_window` frames are on their way at most, so memory does not grow with the video. What comes
 * back is put in order by the frame's number and written by this thread alone; then `done` grows
 * and clients may ask for the frame. While the thread waits for bytes of an upload it writes on.
 *
 * A run ends in one of four ways: the job has succeeded; it has failed, or was cancelled; the
 * process ends, and the job stays as its last checkpoint has it; or the spool or its disk is full,
 * and the job waits to go on from there. */
#include "server/job_run.h"

#include "base/try.h"
#include "server/config.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/priority.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

bool run_has_next(const struct run *r)
{
    return r->job->returned && r->job->returned->seq == (int64_t)r->back;
}

/* The next frame in order, or NULL if it is not here and `wait` is false. */
static struct item *take(struct run *r, bool wait)
{
    struct job *job = r->job;
    pthread_mutex_lock(&job->jobs->lock);
    while (wait && !run_has_next(r))
        pthread_cond_wait(&job->wake, &job->jobs->lock);
    struct item *item = run_has_next(r) ? job->returned : NULL;
    if (item) {
        job->returned = item->next;
        r->back++;
    }
    pthread_mutex_unlock(&job->jobs->lock);
    return item;
}

enum err run_write_returned(struct run *r, bool wait)
{
    for (struct item *item; (item = take(r, wait)); wait = false) {
        enum err e = run_write_frame(r, item);
        item_free(item);
        if (e)
            return e;
        run_keep_checkpoint(r);
    }
    return ERR_OK;
}

bool run_cancelled(void *run)
{
    const struct run *r = run;
    return atomic_load(&r->job->cancelled) || atomic_load(&r->job->jobs->stopping) || r->broken;
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
    item->pixel_format = f->format;
    item->picture = video_take_picture(r->video);
    if (!item->picture) {
        item->pixels = f->pixels;
        r->frame.pixels = NULL; /* the item's now */
        r->frame.capacity = 0;
    }
    item->decoded = clock_ns();
    item->deliver = on_delivered;
    item->owner = r->job;
    sched_submit(r->job->jobs->server->sched, item);
    return ERR_OK;
}

static void note_damage(struct run *r)
{
    pthread_mutex_lock(&r->job->jobs->lock);
    r->job->corrupt = video_corrupt(r->video);
    pthread_mutex_unlock(&r->job->jobs->lock);
}

/* One frame further. What a run before has done is taken from there. */
static enum err pass_frame(struct run *r)
{
    if (!r->sink)
        TRY(run_open_output(r));
    if (r->submitted < r->kept)
        TRY(run_replay(r));
    if (r->submitted < r->first) {
        r->submitted++;
        r->back++;
        return ERR_OK;
    }
    TRY(submit(r));
    run_ask_checkpoint(r);
    return ERR_OK;
}

static enum err label_all(struct run *r)
{
    struct job *job = r->job;
    uint64_t window = (uint64_t)job->jobs->server->config->job_window;
    for (;;) {
        bool end;
        TRY(run_write_returned(r, r->submitted - r->back >= window));
        if (run_cancelled(r))
            return err_set(ERR_CANCELLED, "cancelled");
        TRY(run_next_frame(r, &end));
        note_damage(r);
        if (end)
            break;
        TRY(pass_frame(r));
    }
    while (r->back < r->submitted)
        TRY(run_write_returned(r, true));
    r->unusable = r->submitted < r->kept;
    return r->unusable ? err_set(ERR_FORMAT, "frames that were there are not") : ERR_OK;
}

/* Frames on their way hold on to the job: all come back before it ends. */
static void await_all(struct run *r)
{
    if (r->session)
        atomic_store(&r->session->dead, true); /* they need no labels */
    while (r->back < r->submitted)
        item_free(take(r, true));
}

static void close_files(struct run *r)
{
    if (r->index >= 0)
        close(r->index);
    if (r->frames >= 0)
        close(r->frames);
}

/* What a run came to, beside its error. */
struct outcome {
    bool unusable;            /* what a run before has left does not fit, so it came to nothing */
    struct shortage shortage; /* with ERR_FULL */
};

/* By what the disk holds, or by what is counted. */
static struct shortage measure(const struct run *r)
{
    struct job *job = r->job;
    uint64_t files = r->no_room ? 0 : spool_size(job);
    pthread_mutex_lock(&job->jobs->lock);
    uint64_t bytes =
        r->no_room ? job_masks(job) : files - (files < job->arrived ? files : job->arrived);
    pthread_mutex_unlock(&job->jobs->lock);
    return (struct shortage){!r->no_room, bytes};
}

static enum err run_job(struct job *job, struct outcome *out)
{
    struct run r = {.job = job, .index = -1, .frames = -1};
    struct sessions *sessions = job->jobs->server->sessions;
    enum err e = session_new(sessions, SESSION_UPLOAD, job->id, &job->params, &r.session);
    if (!e)
        e = run_resume(&r);
    if (!e)
        e = run_open_input(&r);
    if (!e)
        e = label_all(&r);
    if (!e) {
        e = sink_commit(r.sink);
        r.sink = NULL;
    }
    if (r.frames >= 0 && e != ERR_FULL) {
        enum err flushed = run_keep_all(&r);
        e = e ? e : flushed;
    }
    char text[512]; /* clean-up may have errors of its own */
    snprintf(text, sizeof text, "%s", err_text());
    await_all(&r);
    run_end_checkpoint(&r);
    *out = (struct outcome){.unusable = r.unusable};
    if (e == ERR_FULL)
        out->shortage = measure(&r); /* half a result included, which goes now */
    sink_abort(r.sink);
    frame_free(&r.frame);
    video_close(r.video);
    session_unref(r.session);
    close_files(&r);
    return e ? err_set(e, "%s", text) : ERR_OK;
}

static void run(struct job *job)
{
    struct outcome out;
    enum err e = run_job(job, &out);
    if (e && out.unusable) {
        log_event(LOG_WARNING, "job_anew", "job=%s frames=%llu error=%s", job->id,
                  (unsigned long long)job->kept, log_text(err_text()));
        pthread_mutex_lock(&job->jobs->lock);
        job->kept = 0;
        pthread_mutex_unlock(&job->jobs->lock);
        e = run_job(job, &out);
    }
    bool stopping =
        atomic_load(&job->jobs->stopping) || sched_failure(job->jobs->server->sched) != NULL;
    if (e && !atomic_load(&job->cancelled) && (stopping || e == ERR_FULL))
        job_put_back(job, e, &out.shortage);
    else
        job_finish(job, e);
}

void *job_thread(void *arg)
{
    struct job *job = arg;
    struct jobs *j = job->jobs;
    priority_lower();
    run(job);
    job_unref(job);
    pthread_mutex_lock(&j->lock);
    jobs_ended(j);
    pthread_mutex_unlock(&j->lock);
    return NULL;
}
