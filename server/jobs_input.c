#include "server/job_run.h"

#include "base/try.h"
#include "server/config.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/video_decoder.h"

#include <stdio.h>
#include <string.h>

/* The text is a decoder's, which may be anybody's: of it ASCII is kept. */
static void report(void *run, const char *text)
{
    const struct run *r = run;
    struct job *job = r->job;
    log_event(LOG_DEBUG, "job_damage", "job=%s text=%s", job->id, log_text(text));
    pthread_mutex_lock(&job->jobs->lock);
    snprintf(job->warning, sizeof job->warning, "%s", text);
    for (char *p = job->warning; *p; p++)
        if (*p < 0x20 || *p > 0x7e)
            *p = '?';
    pthread_mutex_unlock(&job->jobs->lock);
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
    while (!job->whole && (int64_t)job->arrived <= offset && !run_cancelled(r)) {
        if (!run_has_next(r)) {
            sleep_for_bytes(job);
            continue;
        }
        pthread_mutex_unlock(&job->jobs->lock);
        r->broken = run_write_returned(r, false);
        pthread_mutex_lock(&job->jobs->lock);
    }
    int64_t arrived = (int64_t)job->arrived;
    pthread_mutex_unlock(&job->jobs->lock);
    return arrived;
}

static enum err open_decoder(struct run *r)
{
    char path[4096], who[16 + SESSION_ID];
    const struct config *c = r->job->jobs->server->config;
    struct decode_options o = {
        .local_file_only = true,
        .max_pixels = (int64_t)c->max_pixels,
        .max_frames = c->max_frames,
        .report = report,
        .cancelled = run_cancelled,
        .growing = r->front_to_back ? wait_for_bytes : NULL,
        .ctx = r,
    };
    struct video_device device = {.pictures = c->job_window};
    const struct server *s = r->job->jobs->server;
    bool there = video_decoder_use(s->video_decoder, sched_device(r->session), &device);
    spool_path(r->job, SPOOL_UPLOAD, path);
    snprintf(who, sizeof who, "job=%s", r->job->id);
    video_close(r->video);
    return video_open(s->sandbox, path, &o, session_takes_nv12(r->session), there ? &device : NULL,
                      who, &r->video);
}

/* What does not work front to back gets a second try with the whole file; not so what kills its
 * decoder. */
static enum err try_whole(struct run *r, enum err e)
{
    if (!e || e == ERR_DECODER || !r->front_to_back || r->submitted > 0 || run_cancelled(r))
        return e;
    wait_for_bytes(r, INT64_MAX);
    if (run_cancelled(r))
        return err_set(ERR_CANCELLED, "cancelled");
    r->front_to_back = false;
    return open_decoder(r);
}

enum err run_open_input(struct run *r)
{
    struct job *job = r->job;
    pthread_mutex_lock(&job->jobs->lock);
    r->front_to_back = !job->whole;
    pthread_mutex_unlock(&job->jobs->lock);
    TRY(try_whole(r, open_decoder(r)));
    const struct decode_info *info = video_info(r->video);
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

/* What decoded the frame; where that is not what it was, in the log. */
static void note_decoder(struct run *r)
{
    struct job *job = r->job;
    const char *why, *place = video_place(r->video, &why);
    bool there = strcmp(place, "cpu") != 0;
    metric_add(job->jobs->server->metrics, there ? METRIC_DECODED_NVDEC : METRIC_DECODED_CPU, 1);
    if (strcmp(r->decoder, place) == 0)
        return;
    snprintf(r->decoder, sizeof r->decoder, "%s", place);
    if (there || why)
        log_event(LOG_INFO, "job_decoder", "job=%s decoder=%s why=%s", job->id, place,
                  log_text(why ? why : ""));
    pthread_mutex_lock(&job->jobs->lock);
    snprintf(job->decoder, sizeof job->decoder, "%s", place);
    pthread_mutex_unlock(&job->jobs->lock);
}

enum err run_next_frame(struct run *r, bool *end)
{
    enum err e = video_next(r->video, &r->frame, end);
    if (e && r->submitted == 0 && r->front_to_back) {
        TRY(try_whole(r, e));
        e = video_next(r->video, &r->frame, end);
    }
    if (r->broken)
        return r->broken;
    if (e || *end)
        return e;
    note_decoder(r);
    return check_limits(r);
}
