/* Quotas: how long and how much the spool keeps.
 *
 * A job that has ended goes when it is `job_keep` seconds old, and when room is wanted, oldest
 * first: all files of all jobs take `spool_max` bytes at most. Accepted jobs that have not ended
 * are never given up for others. Where only such jobs are left, uploads are refused, and a running
 * job waits for room like for a disk that is full (ERR_FULL); one that would not fit alone fails.
 */
#include "server/job.h"

#include "server/config.h"
#include "server/metrics.h"

void job_set_bytes(struct job *job, uint64_t bytes)
{
    struct jobs *j = job->jobs;
    if (!job->listed)
        bytes = 0; /* its files go */
    j->bytes += bytes - job->bytes;
    job->bytes = bytes;
    metric_set(j->server->metrics, METRIC_SPOOL_BYTES, (double)j->bytes);
}

/* The one that was listed first of those that ended before the time; a reference, or NULL. */
static struct job *oldest_ended(struct jobs *j, double before)
{
    pthread_mutex_lock(&j->lock);
    struct job *job = j->first;
    while (job && (job->state <= JOB_RUNNING || job->finished > before))
        job = job->next;
    if (job)
        job_ref(job);
    pthread_mutex_unlock(&j->lock);
    return job;
}

static bool give_up_oldest(struct jobs *j, double before)
{
    struct job *job = oldest_ended(j, before);
    if (!job)
        return false;
    job_delete(j, job, NULL, NULL);
    job_unref(job);
    return true;
}

enum err jobs_room(struct job *job, uint64_t more)
{
    struct jobs *j = job->jobs;
    for (;;) {
        uint64_t most = j->server->config->spool_max;
        pthread_mutex_lock(&j->lock);
        bool fits = most == 0 || j->bytes + more <= most;
        bool alone = job->bytes + more <= most;
        pthread_mutex_unlock(&j->lock);
        if (fits)
            return ERR_OK;
        if (!alone)
            return err_set(ERR_LIMIT,
                           "the video and its masks take more than the spool's %llu bytes",
                           (unsigned long long)most);
        if (!give_up_oldest(j, jobs_clock()))
            return err_set(ERR_FULL, "the spool's %llu bytes are full", (unsigned long long)most);
    }
}

void jobs_expire(struct jobs *j)
{
    double before = jobs_clock() - j->server->config->job_keep;
    while (give_up_oldest(j, before))
        ;
    pthread_mutex_lock(&j->lock);
    jobs_schedule(j); /* those that wait for the disk */
    pthread_mutex_unlock(&j->lock);
}
