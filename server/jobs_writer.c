/* The thread that makes promises durable before they are given.
 *
 * A 202 says that the job will not be lost: its bytes, the names of its file and folder, and its
 * row are on the disk by then. A 204 to DELETE says that it will not come back. Both wait for the
 * disk, which the network thread never does, so one thread does them in the order in which they
 * were posted: a job is accepted before it is removed. Results are made durable by the job's own
 * thread.
 *
 * Where the database cannot be written a deletion is answered with the error, and tried again until
 * it is done: the job is in no list, but its files, its row and who is to be told of its end are
 * there, and the next process has all of it if this one ends before.
 *
 * At a power loss in the middle: a folder without a row was not promised, and the next start
 * removes it; a row is written last and removed first. */
#include "server/job.h"

#include "base/try.h"
#include "server/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct writer {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t work;
    struct job_task *first, **last; /* the lock */
    bool closing;                   /* the lock */
};

/* Takes the task and its reference. */
static void append(struct writer *w, struct job_task *task)
{
    task->next = NULL;
    pthread_mutex_lock(&w->lock);
    *w->last = task;
    w->last = &task->next;
    pthread_cond_signal(&w->work);
    pthread_mutex_unlock(&w->lock);
}

/* ---- what it does -------------------------------------------------------------------------------
 */

static enum err make_durable(struct job *job)
{
    if (job->arrived == 0)
        return err_set(ERR_ARG, "the video is empty");
    int synced = fsync(job->upload), cause = errno;
    close(job->upload);
    job->upload = -1;
    if (synced != 0)
        return err_set(cause == ENOSPC || cause == EDQUOT ? ERR_FULL : ERR_IO,
                       "the spool: cannot write: %s", strerror(cause));
    TRY(spool_sync(job));
    return spool_sync_root(job->jobs);
}

static enum err add_row(struct job *job)
{
    struct jobs *j = job->jobs;
    struct job_row row;
    pthread_mutex_lock(&j->lock);
    bool listed = job->listed, ended = job->state > JOB_RUNNING; /* before all of it came */
    job_row(job, &row);
    pthread_mutex_unlock(&j->lock);
    if (!listed)
        return err_set(ERR_EXISTS, "the job was deleted");
    TRY(ended ? job_keep_end(job, &row, store_add) : store_add(j->store, &row, NULL));
    pthread_mutex_lock(&j->lock);
    job->stored = true;
    job->whole = true;
    bool ended_now = !ended && job->state > JOB_RUNNING;
    job_row(job, &row);
    pthread_cond_signal(&job->wake);
    jobs_schedule(j);
    pthread_mutex_unlock(&j->lock);
    return ended_now ? job_keep_end(job, &row, store_update) : ERR_OK;
}

static void end_task(struct job_task *task, enum err e)
{
    if (task->done)
        task->done(task->owner, e, e ? err_text() : "");
    job_unref(task->job);
}

void writer_accept(struct job_task *task)
{
    enum err e = make_durable(task->job);
    if (!e)
        e = add_row(task->job);
    end_task(task, e);
}

/* Who is to be told of an end that was not written yet. */
static enum err keep_end(struct job *job)
{
    struct job_row row;
    pthread_mutex_lock(&job->jobs->lock);
    bool unkept = job->unkept;
    job_row(job, &row);
    pthread_mutex_unlock(&job->jobs->lock);
    return unkept ? job_keep_end(job, &row, store_update) : ERR_OK;
}

void writer_remove_again(struct jobs *j)
{
    struct job_task *task = j->unremoved;
    if (!task)
        return;
    j->unremoved = task->next;
    append(j->writer, task);
}

/* Who asked is told, once; the row, and with the job the files, stay for now. */
static void put_aside(struct job_task *task, enum err e)
{
    struct jobs *j = task->job->jobs;
    if (!task->again) {
        log_event(LOG_ERROR, "job_row_stays", "job=%s error=%s", task->job->id,
                  log_text(err_text()));
        if (task->done)
            task->done(task->owner, e, err_text());
    }
    task->again = true;
    pthread_mutex_lock(&j->lock);
    task->next = j->unremoved;
    j->unremoved = task;
    pthread_mutex_unlock(&j->lock);
}

void writer_remove(struct job_task *task)
{
    struct job *job = task->job;
    struct jobs *j = job->jobs;
    enum err e = keep_end(job);
    if (!e && job->stored)
        e = store_remove(j->store, job->id);
    if (e) {
        put_aside(task, e);
        return;
    }
    if (task->again) {
        log_event(LOG_INFO, "job_row_removed", "job=%s", job->id);
        task->done = NULL; /* it was told */
    }
    end_task(task, ERR_OK);
    pthread_mutex_lock(&j->lock);
    writer_remove_again(j); /* it works again: the next one */
    pthread_mutex_unlock(&j->lock);
}

/* ---- the thread ---------------------------------------------------------------------------------
 */

void writer_post(struct job *job, struct job_task *task, void (*act)(struct job_task *),
                 job_done done, void *owner)
{
    struct writer *w = job->jobs->writer;
    *task = (struct job_task){.job = job_ref(job), .act = act, .done = done, .owner = owner};
    append(w, task);
}

/* The next thing to do, or NULL at the end. */
static struct job_task *next_task(struct writer *w)
{
    pthread_mutex_lock(&w->lock);
    while (!w->first && !w->closing)
        pthread_cond_wait(&w->work, &w->lock);
    struct job_task *task = w->first;
    if (task && !(w->first = task->next))
        w->last = &w->first;
    pthread_mutex_unlock(&w->lock);
    return task;
}

static void *writer_main(void *writer)
{
    pthread_setname_np(pthread_self(), "jobs");
    for (struct job_task *task; (task = next_task(writer));)
        task->act(task);
    return NULL;
}

enum err writer_open(struct jobs *j)
{
    struct writer *w = calloc(1, sizeof *w);
    if (!w)
        return err_set(ERR_NOMEM, "no memory for jobs");
    w->last = &w->first;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->work, NULL);
    if (pthread_create(&w->thread, NULL, writer_main, w) != 0) {
        free(w);
        return err_set(ERR_NOMEM, "no thread for jobs");
    }
    j->writer = w;
    return ERR_OK;
}

/* Nobody was told that they are gone: the next process has them as they were. */
static void leave_unremoved(struct jobs *j)
{
    for (struct job_task *next, *task = j->unremoved; task; task = next) {
        next = task->next;
        atomic_store(&task->job->deleted, false);
        job_unref(task->job);
    }
    j->unremoved = NULL;
}

void writer_close(struct jobs *j)
{
    struct writer *w = j->writer;
    if (!w)
        return;
    pthread_mutex_lock(&j->lock);
    writer_remove_again(j);
    pthread_mutex_unlock(&j->lock);
    pthread_mutex_lock(&w->lock);
    w->closing = true;
    pthread_cond_signal(&w->work);
    pthread_mutex_unlock(&w->lock);
    pthread_join(w->thread, NULL);
    leave_unremoved(j);
    pthread_cond_destroy(&w->work);
    pthread_mutex_destroy(&w->lock);
    free(w);
    j->writer = NULL;
}
