/* The jobs of the process before: every row of the store is a job again.
 *
 * Ended ones are as they were. Others wait to run, also those whose model is not served now: they
 * say so, and run when a later process serves it. A row whose files are gone is dropped, a folder
 * without a row was never promised and goes too. */
#include "server/job.h"

#include "server/access.h"
#include "server/front.h"
#include "server/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- rows as jobs -------------------------------------------------------------------------------
 */

static const char *get_param(void *row, const char *name)
{
    const struct job_row *r = row;
    return strcmp(name, "model") == 0    ? r->model
           : strcmp(name, "mode") == 0   ? r->mode
           : strcmp(name, "format") == 0 ? r->format
                                         : r->resize;
}

static const char *get_other(void *row, const char *name)
{
    return strcmp(name, "model") == 0 ? NULL : get_param(row, name);
}

/* A model that is not served now is no error: the job says why it waits. */
static enum err parse_params(struct job *job, struct job_row *row)
{
    struct server *s = (struct server *)job->jobs->server; /* read only */
    enum err e = params_parse(s, get_param, row, &job->params);
    if (e != ERR_NOT_FOUND)
        return e;
    if (job->state <= JOB_RUNNING) {
        job->error = e;
        snprintf(job->error_text, sizeof job->error_text, "%s", err_text());
        log_event(LOG_WARNING, "job_waits", "job=%s error=%s", job->id, log_text(err_text()));
    }
    e = params_parse(s, get_other, row, &job->params);
    job->params.model = NULL;
    return e;
}

static enum err parse_state(const char *text, enum job_state *out)
{
    for (int i = JOB_QUEUED; i <= JOB_CANCELLED; i++)
        if (strcmp(text, job_state_name((enum job_state)i)) == 0) {
            *out = (enum job_state)i;
            return ERR_OK;
        }
    return err_set(ERR_FORMAT, "state '%s'", text);
}

/* ERR_NOT_FOUND: files are gone. */
static enum err check_files(const struct job *job)
{
    char name[32] = SPOOL_UPLOAD;
    if (job->state == JOB_SUCCEEDED)
        job_result_name(job, name);
    if (job->state != JOB_FAILED && !spool_has(job, name))
        return err_set(ERR_NOT_FOUND, "its file '%s' is gone", name);
    return ERR_OK;
}

/* What its upload takes: of those that have not ended. */
static enum err count_upload(struct job *job)
{
    int fd;
    if (job->state > JOB_RUNNING)
        return ERR_OK;
    enum err e = spool_read(job, SPOOL_UPLOAD, &fd, &job->arrived);
    if (!e)
        close(fd);
    return e;
}

/* Whose it was, also if that key is not there now. */
static enum err give_owner(struct job *job, const struct job_row *row)
{
    struct owner *o = access_owner(job->jobs->server->access, row->owner);
    if (!o)
        return err_set(ERR_NOMEM, "no memory for keys");
    job->charged = spool_size(job);
    job->params.owner = o;
    owner_has_job(o, job->state <= JOB_RUNNING, job->charged);
    return ERR_OK;
}

static enum err fill(struct job *job, const struct job_row *row)
{
    struct job_row copy = *row;
    if (!spool_id(row->id))
        return err_set(ERR_FORMAT, "no ID of ours");
    snprintf(job->id, sizeof job->id, "%s", row->id);
    snprintf(job->model, sizeof job->model, "%s", row->model);
    snprintf(job->error_text, sizeof job->error_text, "%s", row->problem);
    snprintf(job->origin, sizeof job->origin, "%s", row->origin);
    snprintf(job->key, sizeof job->key, "%s", row->key);
    snprintf(job->digest_text, sizeof job->digest_text, "%s", row->digest);
    snprintf(job->webhook, sizeof job->webhook, "%s", row->webhook);
    job->created = row->created;
    job->started = row->started;
    job->finished = row->finished;
    job->done = job->kept = row->done > 0 ? (uint64_t)row->done : 0;
    job->total = row->total;
    job->corrupt = row->corrupt;
    snprintf(job->warning, sizeof job->warning, "%s", row->warning);
    snprintf(job->decoder, sizeof job->decoder, "%s", row->decoder);
    job->width = row->width;
    job->height = row->height;
    job->fps = row->fps;
    job->error = row->error[0] ? err_of_type(row->error) : ERR_OK;
    job->stored = job->whole = true;
    enum err e = parse_state(row->state, &job->state);
    if (!e)
        e = parse_params(job, &copy);
    if (!e)
        e = spool_name(job);
    if (!e)
        e = check_files(job);
    if (!e)
        e = count_upload(job);
    return e ? e : give_owner(job, row);
}

/* ---- the store ----------------------------------------------------------------------------------
 */

struct recovery {
    struct jobs *jobs;
    enum err error;
    char (*lost)[SESSION_ID]; /* rows to drop */
    size_t lost_count;
    int ended, unfinished;
};

static void lose(struct recovery *r, const struct job_row *row)
{
    log_event(LOG_ERROR, "job_lost", "job=%s error=%s", log_text(row->id), log_text(err_text()));
    void *more = realloc(r->lost, (r->lost_count + 1) * sizeof *r->lost);
    if (!more)
        return; /* the next start drops it */
    r->lost = more;
    memcpy(r->lost[r->lost_count++], row->id, sizeof row->id);
}

static void visit(void *recovery, const struct job_row *row)
{
    struct recovery *r = recovery;
    struct job *job = job_new(r->jobs);
    if (!job) {
        r->error = err_set(ERR_NOMEM, "no memory for jobs");
        return;
    }
    enum err e = fill(job, row);
    bool ended = job->state > JOB_RUNNING;
    if (e == ERR_NOMEM) {
        r->error = e;
    } else if (e) {
        lose(r, row);
    } else {
        job->state = ended ? job->state : JOB_QUEUED;
        job_list(job);
        job_set_bytes(job, spool_size(job));
        *(ended ? &r->ended : &r->unfinished) += 1;
    }
    job_unref(job);
}

enum err jobs_recover(struct jobs *j)
{
    struct recovery r = {.jobs = j};
    enum err e = store_each(j->store, visit, &r);
    for (size_t i = 0; !e && i < r.lost_count; i++)
        e = store_remove(j->store, r.lost[i]);
    free(r.lost);
    if (!e)
        e = r.error;
    if (e)
        return e;
    spool_sweep(j);
    log_event(LOG_INFO, "jobs_recovered", "ended=%d unfinished=%d lost=%zu", r.ended, r.unfinished,
              r.lost_count);
    return ERR_OK;
}
