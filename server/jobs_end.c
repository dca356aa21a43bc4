/* The end of a job that was running, and what is left of it. */
#include "server/job.h"

#include "base/try.h"
#include "server/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Clients are not to learn where the spool is. */
static void hide_folder(const struct job *job, char *text)
{
    size_t n = strlen(job->folder) + 1;
    for (char *p; (p = strstr(text, job->folder));)
        memmove(p, p + n, strlen(p + n) + 1);
}

enum err job_keep_end(struct job *job, const struct job_row *end,
                      enum err (*keep)(struct store *, const struct job_row *,
                                       const struct store_delivery *))
{
    struct jobs *j = job->jobs;
    char id[SESSION_ID], host[WEBHOOK_HOST];
    bool cancelled = strcmp(end->state, job_state_name(JOB_CANCELLED)) == 0;
    if (!job->webhook[0] || cancelled)
        return keep(j->store, end, NULL);
    TRY(session_id_random(id));
    webhooks_host(j->webhooks, job->webhook, host);
    char *body = job_webhook_body(end, id);
    struct store_delivery delivery = {id, body, host};
    enum err e =
        body ? keep(j->store, end, &delivery) : err_set(ERR_NOMEM, "no memory for a webhook");
    free(body);
    if (!e)
        webhooks_wake(j->webhooks);
    return e;
}

/* With the lock held. */
static void set_end(struct job *job, const struct job_row *end, enum job_state state, enum err e)
{
    job->error = state == JOB_FAILED ? e : ERR_OK;
    snprintf(job->error_text, sizeof job->error_text, "%s", end->problem);
    job->total = end->total;
    job_set_state(job, state);
    job->finished = end->finished;
}

/* The row is written before anybody is told; one that is not there yet, the writer writes. False:
 * it could not be. Then the job ends all the same; it is written later, and done again from its
 * checkpoint if the process ends before that. */
static bool end_job(struct job *job, const struct job_row *end, enum job_state state, enum err e)
{
    struct jobs *j = job->jobs;
    pthread_mutex_lock(&j->lock);
    bool stored = job->stored;
    if (!stored)
        set_end(job, end, state, e);
    pthread_mutex_unlock(&j->lock);
    if (!stored)
        return true;
    bool kept = job_keep_end(job, end, store_update) == ERR_OK;
    if (!kept)
        log_event(LOG_ERROR, "job_end_not_kept", "job=%s error=%s", job->id, log_text(err_text()));
    pthread_mutex_lock(&j->lock);
    set_end(job, end, state, e);
    job->unkept = !kept;
    pthread_mutex_unlock(&j->lock);
    return kept;
}

/* What is of no use after the end: the result of these formats holds the single masks. */
static void remove_means(struct job *job, enum job_state state)
{
    char name[40];
    spool_unlink(job, SPOOL_UPLOAD);
    snprintf(name, sizeof name, "state-%llu", (unsigned long long)job->kept);
    spool_unlink(job, name);
    if (state == JOB_SUCCEEDED && !job_is_video(job))
        spool_unlink(job, SPOOL_FRAMES);
}

static void count_bytes(struct job *job)
{
    uint64_t bytes = spool_size(job);
    pthread_mutex_lock(&job->jobs->lock);
    job_set_bytes(job, bytes);
    pthread_mutex_unlock(&job->jobs->lock);
}

void job_end_again(struct job_task *task)
{
    struct job *job = task->job;
    struct job_row row;
    pthread_mutex_lock(&job->jobs->lock);
    bool due = job->listed && job->unkept; /* else writer_remove does it */
    enum job_state state = job->state;
    job_row(job, &row);
    pthread_mutex_unlock(&job->jobs->lock);
    bool kept = due && job_keep_end(job, &row, store_update) == ERR_OK;
    if (kept) {
        remove_means(job, state);
        count_bytes(job);
        log_event(LOG_INFO, "job_end_kept", "job=%s", job->id);
    }
    pthread_mutex_lock(&job->jobs->lock);
    job->unkept = job->unkept && !kept;
    job->ending_posted = false; /* it may be again */
    pthread_mutex_unlock(&job->jobs->lock);
    job_unref(job);
}

void job_finish(struct job *job, enum err e)
{
    char text[512];
    struct job_row row;
    snprintf(text, sizeof text, "%s", e ? err_text() : "");
    hide_folder(job, text);
    enum job_state state = atomic_load(&job->cancelled) ? JOB_CANCELLED
                           : e                          ? JOB_FAILED
                                                        : JOB_SUCCEEDED;
    pthread_mutex_lock(&job->jobs->lock);
    job_row(job, &row);
    pthread_mutex_unlock(&job->jobs->lock);
    row.finished = jobs_clock();
    row.done = (int64_t)job->done; /* ours alone */
    if (state == JOB_SUCCEEDED)
        row.total = row.done;
    snprintf(row.state, sizeof row.state, "%s", job_state_name(state));
    snprintf(row.error, sizeof row.error, "%s", state == JOB_FAILED ? err_type(e) : "");
    snprintf(row.problem, sizeof row.problem, "%s", state == JOB_FAILED ? text : "");
    if (end_job(job, &row, state, e))
        remove_means(job, state);
    count_bytes(job);
    log_event(LOG_INFO, "job_ended", "job=%s state=%s frames=%lld seconds=%.3f error=%s", job->id,
              row.state, (long long)row.done, row.finished - row.started, log_text(text));
}

/* The row may still say what was kept: a start that does not find it begins anew too. */
void job_begin_anew(struct job *job)
{
    const char *const keep[] = {SPOOL_UPLOAD, NULL};
    pthread_mutex_lock(&job->jobs->lock);
    job->kept = job->done = 0;
    pthread_mutex_unlock(&job->jobs->lock);
    spool_clear(job, keep);
}

/* With the lock held: whether its masks stay. The text tells the client what comes next. */
static bool wait_for_room(struct job *job, const struct shortage *s, char *text, size_t size)
{
    size_t n = strlen(text);
    bool stays = job_lacks_room(job, s);
    if (!stays)
        snprintf(text + n, size - n,
                 "; it begins anew when there is room and no other waits before it");
    else if (job->kept > 0)
        snprintf(text + n, size - n, "; it goes on from frame %llu when there is room",
                 (unsigned long long)job->kept);
    return stays;
}

void job_put_back(struct job *job, enum err e, const struct shortage *s)
{
    char text[512];
    snprintf(text, sizeof text, "%s", err_text());
    hide_folder(job, text);
    pthread_mutex_lock(&job->jobs->lock);
    bool stays = e != ERR_FULL || wait_for_room(job, s, text, sizeof text);
    pthread_mutex_unlock(&job->jobs->lock);
    if (!stays)
        job_begin_anew(job);
    if (e == ERR_FULL && s->disk)
        spool_tell_full(job->jobs);
    count_bytes(job);
    pthread_mutex_lock(&job->jobs->lock);
    job->done = job->kept;
    job->error = e;
    snprintf(job->error_text, sizeof job->error_text, "%s", text);
    job_set_state(job, JOB_QUEUED);
    pthread_mutex_unlock(&job->jobs->lock);
    if (e == ERR_CANCELLED)
        log_event(LOG_INFO, "job_waits", "job=%s reason=stopping", job->id);
    else
        log_event(LOG_WARNING, "job_waits", "job=%s error=%s", job->id, log_text(text));
}
