/* The list of jobs, and who may run.
 *
 * Up to `jobs_running` jobs work at once, first come first served. A job whose upload is still
 * arriving may run too, if its container gives frames from the front; while it waits for bytes it
 * does not count, so that a slow sender keeps nobody waiting, and there are at most `jobs_running`
 * of those. A job that has ended keeps no file open and no memory but its record.
 *
 * No thread that must not wait touches the store or deletes files: that is posted to the writer.
 * Nothing calls the store with the list's lock held. */
#include "server/job.h"

#include "base/try.h"
#include "media/decode.h"
#include "server/access.h"
#include "server/config.h"
#include "server/describe.h"
#include "server/log.h"
#include "server/metrics.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { STREAM_MIN = 64 << 10, TELL_NS = 50000000, THREAD_RETRY_NS = 1000000000 };

double jobs_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- changes ------------------------------------------------------------------------------------
 */

void job_changed(struct job *job, bool always)
{
    uint64_t now = clock_ns();
    atomic_fetch_add(&job->version, 1);
    if (!always && now - job->told < TELL_NS)
        return;
    job->told = now;
    if (job->jobs->changed)
        job->jobs->changed(job->jobs->changed_ctx);
}

static void count_state(struct job *job, int by)
{
    struct metrics *m = job->jobs->server->metrics;
    static const enum metric_id id[] = {
        [JOB_QUEUED] = METRIC_JOBS_QUEUED,       [JOB_RUNNING] = METRIC_JOBS_RUNNING,
        [JOB_SUCCEEDED] = METRIC_JOBS_SUCCEEDED, [JOB_FAILED] = METRIC_JOBS_FAILED,
        [JOB_CANCELLED] = METRIC_JOBS_CANCELLED,
    };
    if (by > 0 || job->state <= JOB_RUNNING) /* those that ended are counted up only */
        metric_add(m, id[job->state], by);
}

void job_set_state(struct job *job, enum job_state state)
{
    if (job->state <= JOB_RUNNING && state > JOB_RUNNING) {
        owner_give_job(job->params.owner);
        job_needs_none(job);
    }
    count_state(job, -1);
    job->state = state;
    count_state(job, 1);
    if (state == JOB_RUNNING && job->started == 0)
        job->started = jobs_clock();
    else if (state > JOB_RUNNING)
        job->finished = jobs_clock();
    job_changed(job, true);
}

static void copy(char *out, size_t room, const char *text)
{
    snprintf(out, room, "%s", text);
}

void job_row(const struct job *job, struct job_row *out)
{
    *out = (struct job_row){
        .created = job->created,
        .started = job->started,
        .finished = job->finished,
        .done = (int64_t)(job->state > JOB_RUNNING ? job->done : job->kept),
        .total = job->total,
        .corrupt = job->corrupt,
        .width = job->width,
        .height = job->height,
        .fps = job->fps,
    };
    copy(out->id, sizeof out->id, job->id);
    copy(out->owner, sizeof out->owner, owner_name(job->params.owner));
    copy(out->model, sizeof out->model, job->model);
    copy(out->mode, sizeof out->mode, mode_name(job->params.stream.mode));
    copy(out->format, sizeof out->format, mask_format_name(job->params.format));
    copy(out->state, sizeof out->state, job_state_name(job->state));
    if (job->params.stream.resize_override)
        resize_format(&job->params.stream.resize, out->resize, sizeof out->resize);
    if (job->error)
        copy(out->error, sizeof out->error, err_type(job->error));
    copy(out->problem, sizeof out->problem, job->error ? job->error_text : "");
    copy(out->warning, sizeof out->warning, job->warning);
    copy(out->decoder, sizeof out->decoder, job->decoder);
    copy(out->origin, sizeof out->origin, job->origin);
    copy(out->key, sizeof out->key, job->key);
    copy(out->digest, sizeof out->digest, job->digest_text);
    copy(out->webhook, sizeof out->webhook, job->webhook);
}

/* ---- references ---------------------------------------------------------------------------------
 */

struct job *job_new(struct jobs *j)
{
    struct job *job = calloc(1, sizeof *job);
    if (!job)
        return NULL;
    pthread_cond_init(&job->wake, NULL);
    job->jobs = j;
    job->refs = 1;
    job->upload = -1;
    return job;
}

struct job *job_ref(struct job *job)
{
    atomic_fetch_add(&job->refs, 1);
    return job;
}

void job_unref(struct job *job)
{
    if (!job || atomic_fetch_sub(&job->refs, 1) != 1)
        return;
    if (job->upload >= 0)
        close(job->upload);
    digest_end(job->digest, NULL);
    if (atomic_load(&job->deleted))
        spool_remove(job);
    owner_give_bytes(job->params.owner, job->charged);
    pthread_cond_destroy(&job->wake);
    free(job->folder);
    free(job);
}

void job_list(struct job *job)
{
    struct jobs *j = job->jobs;
    job->previous = j->last;
    *(j->last ? &j->last->next : &j->first) = job_ref(job);
    j->last = job;
    j->count++;
    job->listed = true;
    if (job->state <= JOB_RUNNING) /* those that ended before this process are not counted */
        count_state(job, 1);
}

/* With the lock held. The list's reference is the caller's then. */
static void unlist(struct job *job)
{
    struct jobs *j = job->jobs;
    *(job->previous ? &job->previous->next : &j->first) = job->next;
    *(job->next ? &job->next->previous : &j->last) = job->previous;
    job->listed = false;
    job_needs_none(job);
    j->count--;
    job_set_bytes(job, 0);
}

/* ---- who may run --------------------------------------------------------------------------------
 */

static bool may_run(const struct job *job)
{
    const struct jobs *j = job->jobs;
    int most = j->server->config->jobs_running;
    if (job->state != JOB_QUEUED || !job->params.model || j->threads - j->asleep >= most ||
        job->retry > clock_ns() || job_stands_back(job))
        return false;
    return job->whole || (job->streamable && j->asleep < most);
}

/* With the lock held, which the thread waits for. */
static void start(struct job *job)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, job_thread, job_ref(job)) != 0) {
        atomic_fetch_sub(&job->refs, 1); /* not the last: the list's */
        job->error = ERR_NOMEM;
        snprintf(job->error_text, sizeof job->error_text, "no thread for the job");
        job->retry = clock_ns() + THREAD_RETRY_NS;
        job_changed(job, true);
        return;
    }
    pthread_detach(thread);
    job->jobs->threads++;
    job->error = ERR_OK;
    job_set_state(job, JOB_RUNNING);
}

void jobs_schedule(struct jobs *j)
{
    for (struct job *job = j->first; job && !atomic_load(&j->stopping); job = job->next)
        if (may_run(job))
            start(job);
}

void jobs_asleep(struct jobs *j, bool asleep)
{
    j->asleep += asleep ? 1 : -1;
    if (asleep)
        jobs_schedule(j);
}

void jobs_ended(struct jobs *j)
{
    j->threads--;
    pthread_cond_broadcast(&j->idle);
    jobs_schedule(j);
}

/* ---- uploading ----------------------------------------------------------------------------------
 */

/* With the lock held. */
static struct job *find_key(struct jobs *j, const struct owner *owner, const char *key)
{
    struct job *job = *key ? j->first : NULL;
    while (job && (job->params.owner != owner || strcmp(job->key, key) != 0))
        job = job->next;
    return job;
}

enum err jobs_find_key(struct jobs *j, const struct owner *owner, const char *key, struct job **out)
{
    enum err e = ERR_OK;
    pthread_mutex_lock(&j->lock);
    struct job *job = find_key(j, owner, key);
    if (!job)
        e = err_set(ERR_NOT_FOUND, "no upload has this key");
    else if (!job->stored)
        e = err_set(ERR_EXISTS, "an upload with this Idempotency-Key is arriving");
    *out = e ? NULL : job_ref(job);
    pthread_mutex_unlock(&j->lock);
    return e;
}

bool job_is_of(const struct job *job, const char digest[65])
{
    return strcmp(job->digest_text, digest) == 0;
}

static enum err admit(struct job *job)
{
    struct jobs *j = job->jobs;
    enum err e = ERR_OK;
    pthread_mutex_lock(&j->lock);
    if (find_key(j, job->params.owner, job->key))
        e = err_set(ERR_EXISTS, "an upload with this Idempotency-Key is here");
    else if (atomic_load(&j->stopping) || j->count >= j->server->config->jobs_max)
        e = err_set(ERR_BUSY, "as many videos are here as there may be");
    if (!e)
        e = owner_take_job(job->params.owner);
    if (!e) {
        job_list(job);
        job_changed(job, true);
    }
    pthread_mutex_unlock(&j->lock);
    return e;
}

enum err jobs_webhook(const struct jobs *j, const char *url)
{
    return webhooks_check(j->webhooks, url);
}

enum err job_begin(struct jobs *j, const struct session_params *p, const struct job_terms *terms,
                   struct job **out)
{
    *out = NULL;
    struct job *job = job_new(j);
    if (!job)
        return err_set(ERR_NOMEM, "no memory for a job");
    job->params = *p;
    snprintf(job->model, sizeof job->model, "%s", p->model->name);
    job->created = jobs_clock();
    copy(job->key, sizeof job->key, terms->key ? terms->key : "");
    copy(job->webhook, sizeof job->webhook, terms->webhook ? terms->webhook : "");
    enum err e = session_id_random(job->id);
    if (!e && terms->key)
        e = digest_open(p, job->webhook, &job->digest);
    if (!e)
        e = spool_make(job);
    if (!e)
        e = admit(job);
    if (e) {
        atomic_store(&job->deleted, true);
        job_unref(job);
        return e;
    }
    log_event(LOG_INFO, "job_begun", "job=%s key=%s model=%s format=%s", job->id,
              owner_label(p->owner), job->model, mask_format_name(p->format));
    *out = job;
    return ERR_OK;
}

/* The upload's first bytes, once there are enough. */
static bool looks_streamable(struct job *job, uint64_t before, uint64_t after)
{
    uint8_t head[STREAM_MIN];
    if (before >= STREAM_MIN || after < STREAM_MIN)
        return false;
    return spool_read_at(job->upload, 0, head, sizeof head) == ERR_OK &&
           decode_streamable(head, sizeof head);
}

enum err job_append(struct job *job, const void *data, size_t len)
{
    uint64_t before = job->arrived, most = job->jobs->server->config->max_upload;
    if (before + len > most)
        return err_set(ERR_LIMIT, "the video has more than %llu bytes", (unsigned long long)most);
    if (atomic_load(&job->cancelled))
        return err_set(ERR_EXISTS, "the job was deleted");
    TRY(owner_take_bytes(job->params.owner, len)); /* before others' results go for it */
    enum err e = jobs_room_for_upload(job, len);
    if (!e && (e = spool_write_at(job->upload, before, data, len)) == ERR_FULL)
        spool_tell_full(job->jobs);
    if (e) {
        owner_give_bytes(job->params.owner, len);
        return e;
    }
    digest_add(job->digest, data, len);
    bool streamable = looks_streamable(job, before, before + len);
    job->charged += len;
    pthread_mutex_lock(&job->jobs->lock);
    job->arrived = before + len;
    job_set_bytes(job, job->bytes + len);
    if (streamable) {
        job->streamable = true;
        jobs_schedule(job->jobs);
    }
    pthread_cond_signal(&job->wake);
    pthread_mutex_unlock(&job->jobs->lock);
    return ERR_OK;
}

void job_complete(struct job *job, job_done done, void *owner)
{
    char digest[sizeof job->digest_text] = "";
    digest_end(job->digest, digest);
    job->digest = NULL;
    pthread_mutex_lock(&job->jobs->lock); /* a streamed job may end, and be written, right now */
    memcpy(job->digest_text, digest, sizeof digest);
    pthread_mutex_unlock(&job->jobs->lock);
    writer_post(job, &job->accept, writer_accept, done, owner);
}

void job_abort(struct job *job)
{
    job_delete(job->jobs, job, NULL, NULL);
}

/* ---- the end ------------------------------------------------------------------------------------
 */

/* With the lock held. */
static void cancel(struct job *job)
{
    atomic_store(&job->cancelled, true);
    if (job->state == JOB_QUEUED)
        job_set_state(job, JOB_CANCELLED);
    pthread_cond_signal(&job->wake); /* its thread does the rest */
}

void job_delete(struct jobs *j, struct job *job, job_done done, void *owner)
{
    pthread_mutex_lock(&j->lock);
    bool listed = job->listed;
    if (listed)
        unlist(job);
    atomic_store(&job->deleted, true);
    cancel(job);
    job_changed(job, true);
    pthread_mutex_unlock(&j->lock);
    if (!listed) {
        if (done)
            done(owner, ERR_OK, "");
        return;
    }
    log_event(LOG_INFO, "job_deleted", "job=%s", job->id);
    writer_post(job, &job->removal, writer_remove, done, owner);
    job_unref(job);
}

static enum err open_store(struct jobs *j)
{
    char path[4096];
    snprintf(path, sizeof path, "%.4000s/jobs.sqlite", j->spool);
    TRY(store_open(path, &j->store));
    return spool_sync_root(j);
}

enum err jobs_open(const struct server *s, struct jobs **out)
{
    struct jobs *j = *out = calloc(1, sizeof *j);
    if (!j)
        return err_set(ERR_NOMEM, "no memory for jobs");
    j->server = s;
    j->spool_lock = -1;
    pthread_mutex_init(&j->lock, NULL);
    pthread_cond_init(&j->idle, NULL);
    enum err e = spool_open(j);
    if (!e)
        e = open_store(j);
    if (!e)
        e = jobs_recover(j);
    if (!e)
        e = webhooks_open(s, j->store, &j->webhooks);
    if (!e)
        e = writer_open(j);
    if (!e)
        jobs_look_for_room(j);
    if (e) {
        jobs_close(j);
        *out = NULL;
    }
    return e;
}

void jobs_listen(struct jobs *j, void (*changed)(void *ctx), void *ctx)
{
    pthread_mutex_lock(&j->lock);
    j->changed = changed;
    j->changed_ctx = ctx;
    pthread_mutex_unlock(&j->lock);
}

void jobs_stop(struct jobs *j)
{
    pthread_mutex_lock(&j->lock);
    atomic_store(&j->stopping, true);
    for (struct job *job = j->first; job; job = job->next)
        pthread_cond_signal(&job->wake);
    pthread_mutex_unlock(&j->lock);
}

/* What was not accepted was not promised. */
static void give_up(struct jobs *j)
{
    pthread_mutex_lock(&j->lock);
    for (struct job *job = j->first; job; job = job->next)
        if (!job->stored)
            atomic_store(&job->deleted, true);
    while (j->first) {
        struct job *job = j->first;
        unlist(job);
        job_unref(job);
    }
    pthread_mutex_unlock(&j->lock);
}

void jobs_close(struct jobs *j)
{
    if (!j)
        return;
    jobs_stop(j);
    pthread_mutex_lock(&j->lock);
    while (j->threads > 0)
        pthread_cond_wait(&j->idle, &j->lock);
    pthread_mutex_unlock(&j->lock);
    writer_close(j);
    webhooks_close(j->webhooks);
    give_up(j);
    store_close(j->store);
    spool_close(j);
    pthread_cond_destroy(&j->idle);
    pthread_mutex_destroy(&j->lock);
    free(j);
}
