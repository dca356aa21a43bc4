/* How a job goes on after the end of the process, be it a crash or not.
 *
 * A checkpoint of n frames is: the first n masks (jobs_output.c), and the hidden state after them
 * in the file "state-n". The engine hands the state out between two frames of the running video
 * (COMMAND_EXPORT keeps its place among the frames), so nothing stops for it; when the n masks are
 * written, the job's thread flushes the files and then sets `done` of the job's row to n, which is
 * the moment at which the checkpoint holds. The state file before is removed after that.
 *
 * A job that goes on decodes its upload from the start (decoders cannot be asked to go on; it is
 * the same pictures again), writes the first n masks into the result, gives the state to the
 * engine, and labels from frame n on. In mode `clip` there is no state: the engine gets the frames
 * that masks to come look back at, and their masks are not used. SegFormer has none in any mode.
 *
 * The state means something to the same weights and arithmetic only. The row says what computed the
 * n masks (served_model.origin); under another model, device or instruction set the job begins
 * anew, as it does when anything of the checkpoint cannot be read: that costs time, no result.
 * Every `job_checkpoint` seconds there is a checkpoint, so about as much work is done twice.
 *
 * 750 frames of 256x160 on two cores (tests/bench/checkpoints.py, medians of seven): 2.49 s without
 * checkpoints, 2.53 s with one every 2 seconds (the default), 2.65 s with one a frame. */
#include "server/job_run.h"

#include "base/try.h"
#include "server/config.h"
#include "server/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { CLIP_REACH = 9 }; /* frames that a clip looks back */

/* ---- checkpoints --------------------------------------------------------------------------------
 */

static void state_name(uint64_t frames, char name[40])
{
    snprintf(name, 40, "state-%llu", (unsigned long long)frames);
}

static bool has_state(const struct run *r)
{
    const struct session_params *p = &r->job->params;
    return p->stream.mode == MODE_STREAM && p->model->model->arch.head == HEAD_TV3S;
}

/* The engine thread, or whoever ends the command. */
static void on_exported(struct command *c)
{
    struct checkpoint *p = c->owner;
    struct jobs *j = p->job->jobs;
    pthread_mutex_lock(&j->lock);
    p->error = c->error;
    snprintf(p->error_text, sizeof p->error_text, "%s", c->error_text);
    p->state = c->data;
    p->len = c->len;
    p->there = true;
    pthread_cond_signal(&p->job->wake);
    pthread_mutex_unlock(&j->lock);
    free(c);
}

/* The result is in r->checkpoint, in time. `data` (taken) for COMMAND_IMPORT. */
static enum err command(struct run *r, enum command_kind kind, void *data, size_t len)
{
    struct command *c = calloc(1, sizeof *c);
    if (!c) {
        free(data);
        return err_set(ERR_NOMEM, "no memory for a checkpoint");
    }
    *c = (struct command){.kind = kind,
                          .session = session_ref(r->session),
                          .data = data,
                          .len = len,
                          .done = on_exported,
                          .owner = &r->checkpoint};
    r->checkpoint.there = false;
    r->checkpoint.asked = true;
    sched_command(r->job->jobs->server->sched, c);
    return ERR_OK;
}

/* The engine has answered; what it gave is the caller's. */
static enum err take_answer(struct run *r, void **state, size_t *len)
{
    struct checkpoint *p = &r->checkpoint;
    p->asked = false;
    *state = p->state;
    *len = p->len;
    p->state = NULL;
    return p->error ? err_set(p->error, "%s", p->error_text) : ERR_OK;
}

static void await_answer(struct run *r)
{
    pthread_mutex_lock(&r->job->jobs->lock);
    while (!r->checkpoint.there)
        pthread_cond_wait(&r->job->wake, &r->job->jobs->lock);
    pthread_mutex_unlock(&r->job->jobs->lock);
}

void run_ask_checkpoint(struct run *r)
{
    struct checkpoint *p = &r->checkpoint;
    struct job *job = r->job;
    double every = job->jobs->server->config->job_checkpoint;
    pthread_mutex_lock(&job->jobs->lock);
    bool promised = job->stored;
    pthread_mutex_unlock(&job->jobs->lock);
    if (p->asked || !promised || r->submitted <= r->kept || video_info(r->video)->still ||
        (double)(clock_ns() - p->taken) * 1e-9 < every)
        return;
    p->frames = r->submitted;
    p->error = ERR_OK;
    if (!has_state(r))
        p->asked = p->there = true;
    else if (command(r, COMMAND_EXPORT, NULL, 0))
        p->taken = clock_ns(); /* no memory: another time */
}

static enum err write_state(struct run *r, const char *name, const void *state, size_t len)
{
    int fd;
    spool_unlink(r->job, name);
    TRY(spool_create(r->job, name, &fd));
    enum err e = spool_write_at(fd, 0, state, len);
    if (!e)
        e = spool_flush(fd);
    close(fd);
    return e;
}

static enum err keep(struct run *r, const void *state, size_t len)
{
    struct job *job = r->job;
    struct job_row row;
    char name[40];
    state_name(r->checkpoint.frames, name);
    if (has_state(r))
        TRY(write_state(r, name, state, len));
    TRY(run_keep_all(r));
    pthread_mutex_lock(&job->jobs->lock);
    job_row(job, &row);
    pthread_mutex_unlock(&job->jobs->lock);
    row.done = (int64_t)r->checkpoint.frames;
    snprintf(row.origin, sizeof row.origin, "%s", job->params.model->origin);
    enum err e = store_update(job->jobs->store, &row, NULL);
    if (e)
        return e;
    state_name(job->kept, name);
    pthread_mutex_lock(&job->jobs->lock);
    job->kept = r->checkpoint.frames;
    snprintf(job->origin, sizeof job->origin, "%s", row.origin);
    pthread_mutex_unlock(&job->jobs->lock);
    spool_unlink(job, name);
    return ERR_OK;
}

void run_keep_checkpoint(struct run *r)
{
    struct checkpoint *p = &r->checkpoint;
    void *state;
    size_t len;
    pthread_mutex_lock(&r->job->jobs->lock);
    bool ready = p->asked && p->there && r->back >= p->frames;
    pthread_mutex_unlock(&r->job->jobs->lock);
    if (!ready)
        return;
    enum err e = take_answer(r, &state, &len);
    if (!e)
        e = keep(r, state, len);
    if (e && !run_cancelled(r))
        log_event(LOG_WARNING, "job_checkpoint_failed", "job=%s error=%s", r->job->id,
                  log_text(err_text()));
    free(state);
    p->taken = clock_ns();
}

void run_end_checkpoint(struct run *r)
{
    void *state;
    size_t len;
    if (!r->checkpoint.asked)
        return;
    await_answer(r);
    take_answer(r, &state, &len);
    free(state);
}

/* ---- going on -----------------------------------------------------------------------------------
 */

static enum err read_state(struct run *r, void **data, size_t *len)
{
    char name[40];
    uint64_t size;
    int fd;
    *data = NULL;
    state_name(r->kept, name);
    TRY(spool_read(r->job, name, &fd, &size));
    *len = size;
    enum err e = (*data = malloc(size ? size : 1)) ? spool_read_at(fd, 0, *data, size)
                                                   : err_set(ERR_NOMEM, "no memory for a state");
    close(fd);
    if (e)
        free(*data);
    return e;
}

static enum err restore_state(struct run *r)
{
    void *data;
    size_t len;
    TRY(read_state(r, &data, &len));
    TRY(command(r, COMMAND_IMPORT, data, len));
    await_answer(r);
    enum err e = take_answer(r, &data, &len);
    free(data);
    return e;
}

static void begin_anew(struct run *r)
{
    job_begin_anew(r->job);
    r->kept = 0;
}

/* What a run left that did not come to its end: half a result. */
static void remove_rest(struct run *r)
{
    char state[40];
    const char *const keep[] = {SPOOL_UPLOAD, SPOOL_FRAMES, SPOOL_INDEX, state, NULL};
    state_name(r->kept, state);
    spool_clear(r->job, keep);
}

enum err run_resume(struct run *r)
{
    struct job *job = r->job;
    r->checkpoint = (struct checkpoint){.job = job, .taken = clock_ns()};
    r->kept = job->kept;
    if (r->kept > 0 && strcmp(job->origin, job->params.model->origin) != 0) {
        log_event(LOG_WARNING, "job_anew", "job=%s frames=%llu error=%s", job->id,
                  (unsigned long long)r->kept, log_text("another model or device computed them"));
        begin_anew(r);
    }
    if (r->kept == 0) {
        begin_anew(r);
        return ERR_OK;
    }
    remove_rest(r);
    pthread_mutex_lock(&job->jobs->lock);
    job->done = r->kept;
    pthread_mutex_unlock(&job->jobs->lock);
    r->first = r->kept;
    if (job->params.stream.mode == MODE_CLIP)
        r->first = r->kept > CLIP_REACH ? r->kept - CLIP_REACH : 0;
    enum err e = has_state(r) ? restore_state(r) : ERR_OK;
    r->unusable = run_damaged(e);
    if (!e)
        log_event(LOG_INFO, "job_resumed", "job=%s frames=%llu", job->id,
                  (unsigned long long)r->kept);
    return e;
}
