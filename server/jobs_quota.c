/* Quotas: how long and how much the spool keeps.
 *
 * A job that has ended goes when it is `job_keep` seconds old, and when room is wanted, of the key
 * whose files take most the oldest first, so who floods loses his own: all files of all jobs take
 * `spool_max` bytes at most. Accepted jobs that have not ended, or whose end could not be written
 * yet, are never given up for others.
 *
 * Uploads of jobs that have not ended take half of it at most, and half of what the disk has for
 * the spool: so half is left for masks, which no upload says the size of. A running job for which
 * there is no room waits (jobs_room.c), and while it waits for spool_max no upload begins. A job
 * fails that would not fit alone, or not beside the uploads that wait when there is nobody left to
 * make room.
 *
 * A disk that is full is another thing: others fill it, or `spool_max` is more than it has. Then
 * nothing that has ended is given up: it might make no room, and what was promised until `job_keep`
 * is not ours to take back for strangers; and no job fails: the operator can make room. */
#include "server/job.h"

#include "server/access.h"
#include "server/config.h"
#include "server/log.h"
#include "server/metrics.h"

void job_set_bytes(struct job *job, uint64_t bytes)
{
    struct jobs *j = job->jobs;
    if (!job->listed)
        bytes = 0; /* its files go */
    j->bytes += bytes - job->bytes;
    owner_count_spool(job->params.owner, (int64_t)(bytes - job->bytes));
    job->bytes = bytes;
    metric_set(j->server->metrics, METRIC_SPOOL_BYTES, (double)j->bytes);
}

/* Of those that ended before the time, and whose end is on the disk, the one that was listed first;
 * `fair`: of the key whose files take most. A reference, or NULL. */
static struct job *oldest_ended(struct jobs *j, double before, bool fair)
{
    struct job *found = NULL;
    pthread_mutex_lock(&j->lock);
    for (struct job *job = j->first; job && (fair || !found); job = job->next) {
        if (job->state <= JOB_RUNNING || job->unkept || job->finished > before)
            continue;
        if (!found || owner_spool(job->params.owner) > owner_spool(found->params.owner))
            found = job;
    }
    if (found)
        job_ref(found);
    pthread_mutex_unlock(&j->lock);
    return found;
}

static bool give_up_oldest(struct jobs *j, double before, bool fair)
{
    struct job *job = oldest_ended(j, before, fair);
    if (!job)
        return false;
    job_delete(j, job, NULL, NULL);
    job_unref(job);
    return true;
}

/* ---- room ---------------------------------------------------------------------------------------
 */

/* With the lock held: bodies of jobs that have not ended. */
static uint64_t bytes_of_uploads(const struct jobs *j)
{
    uint64_t sum = 0;
    for (const struct job *job = j->first; job; job = job->next)
        if (job->state <= JOB_RUNNING)
            sum += job->arrived;
    return sum;
}

/* Why is the operator's to know: it may be for the files of others. */
static enum err no_room(const struct job *job, const char *why)
{
    log_event(LOG_INFO, "no_room", "job=%s reason=%s", job->id, why);
    return err_set(ERR_FULL, "the spool has no room now");
}

enum err jobs_room_for_upload(struct job *job, uint64_t more)
{
    struct jobs *j = job->jobs;
    uint64_t most = j->server->config->spool_max / 2;
    bool limited = most > 0;
    if (limited && job->arrived + more > most)
        return err_set(ERR_LIMIT, "an upload may take half of the spool, %llu bytes",
                       (unsigned long long)most);
    pthread_mutex_lock(&j->lock);
    uint64_t uploads = bytes_of_uploads(j) + more;
    bool crowded = j->disk > 0 && uploads > j->disk / 2;
    bool needy = limited && j->needy && !j->needy->lacked_disk && job->arrived == 0;
    pthread_mutex_unlock(&j->lock);
    if (needy)
        return no_room(job, "another_waits_for_room");
    if (limited && uploads > most)
        return no_room(job, "uploads_fill_half_of_it");
    return crowded ? no_room(job, "uploads_fill_half_of_the_disk") : jobs_room(job, more);
}

enum err jobs_room(struct job *job, uint64_t more)
{
    struct jobs *j = job->jobs;
    for (;;) {
        uint64_t most = j->server->config->spool_max;
        pthread_mutex_lock(&j->lock);
        bool fits = most == 0 || j->bytes + more <= most;
        bool alone = job->bytes + more <= most;
        bool last = j->needy == job && !job_others_go_on(job);
        pthread_mutex_unlock(&j->lock);
        if (fits)
            return ERR_OK;
        if (!alone)
            return err_set(ERR_LIMIT,
                           "the video and its masks take more than the spool's %llu bytes",
                           (unsigned long long)most);
        if (give_up_oldest(j, jobs_clock(), true))
            continue;
        if (last)
            return err_set(ERR_LIMIT,
                           "the masks and the uploads that wait take more than the spool's %llu "
                           "bytes",
                           (unsigned long long)most);
        return no_room(job, "it_is_full");
    }
}

void jobs_expire(struct jobs *j)
{
    double before = jobs_clock() - j->server->config->job_keep;
    while (give_up_oldest(j, before, false))
        ;
    pthread_mutex_lock(&j->lock);
    for (struct job *job = j->first; job; job = job->next)
        if (job->unkept && !job->ending_posted) {
            job->ending_posted = true;
            writer_post(job, &job->ending, job_end_again, NULL, NULL);
        }
    writer_remove_again(j);
    pthread_mutex_unlock(&j->lock);
    jobs_look_for_room(j);
}
