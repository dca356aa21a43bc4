/* Jobs that wait for room: under `spool_max`, or on the disk.
 *
 * A run that ends for want of room (ERR_FULL) leaves a job that waits. Two that hold masks which
 * each other needs would wait for ever, so at most one keeps its masks: `needy`, the first whose
 * upload was whole, until it ends. The others give theirs up when they lack room, and begin anew
 * after it. Who has not lacked room yet runs beside it, and ends or lacks room too; so at last the
 * needy one is alone with the finished results, and with the uploads that wait, which take half of
 * all at most (jobs_quota.c). Under spool_max it then ends, or fails since it does not fit.
 *
 * On a disk it can be stuck: strangers fill it, or the job is larger than the disk, which nobody
 * can tell apart. After `room_patience` seconds it gives its masks up for the first that surely
 * gets further with what they take. Each that takes the place over had less than the one before, so
 * that ends; and every job that fits alone on the disk, beside results that are kept, comes to its
 * end.
 *
 * To go on means to decode the video from its start again. A job that waits remembers what it
 * `reached`, and is started again when there is room for an eighth more, or, under spool_max, when
 * nobody else goes on, to end or to fail. The housekeeping thread looks every second, and alone
 * starts such jobs. */
#include "server/job.h"

#include "server/config.h"
#include "server/log.h"

#include <stdio.h>

/* What is worth decoding again: bytes beyond what was reached. */
#define MORE_MIN ((uint64_t)64 << 10)
#define MORE_MAX ((uint64_t)64 << 20)

/* ---- who lacks room: with the lock held ---------------------------------------------------------
 */

uint64_t job_masks(const struct job *job)
{
    return job->bytes > job->arrived ? job->bytes - job->arrived : 0;
}

bool job_lacks_room(struct job *job, const struct shortage *s)
{
    struct jobs *j = job->jobs;
    if (!j->needy && job->whole && job->listed)
        j->needy = job;
    if (job->lacked_disk != s->disk)
        job->reached = 0; /* spool_max and the disk count in different ways */
    job->reached = s->reached > job->reached ? s->reached : job->reached;
    job->lacked_room = true;
    job->lacked_disk = s->disk;
    job->stuck = clock_ns();
    job->retry = UINT64_MAX;
    return j->needy == job;
}

void job_needs_none(struct job *job)
{
    if (job->jobs->needy == job)
        job->jobs->needy = NULL;
}

bool job_stands_back(const struct job *job)
{
    return job->jobs->needy && job->jobs->needy != job && job->lacked_room;
}

bool job_others_go_on(const struct job *job)
{
    for (const struct job *o = job->jobs->first; o; o = o->next)
        if (o != job && (o->state == JOB_RUNNING || o->unkept ||
                         (o->state == JOB_QUEUED && o->params.model && !o->lacked_room)))
            return true;
    return false;
}

/* ---- whether room has come: with the lock held --------------------------------------------------
 */

static bool waits(const struct job *job)
{
    return job->state == JOB_QUEUED && job->params.model && job->retry == UINT64_MAX;
}

/* The one that is next: the needy one, or the oldest. */
static struct job *next_waiting(const struct jobs *j)
{
    struct job *job = j->needy ? j->needy : j->first;
    while (job && !waits(job))
        job = j->needy ? NULL : job->next;
    return job;
}

/* Bytes of masks with which it gets further than it did. */
static uint64_t wanted(const struct job *job)
{
    uint64_t more = job->reached / 8;
    more = more < MORE_MIN ? MORE_MIN : more > MORE_MAX ? MORE_MAX : more;
    return job->reached + more;
}

/* Of them, those that it has not. */
static uint64_t missing(const struct job *job)
{
    uint64_t has = job_masks(job), all = wanted(job);
    return all > has ? all - has : 0;
}

/* What jobs take that are given up when room is wanted. */
static uint64_t bytes_of_ended(const struct jobs *j)
{
    uint64_t sum = 0;
    for (const struct job *job = j->first; job; job = job->next)
        if (job->state > JOB_RUNNING && !job->unkept)
            sum += job->bytes;
    return sum;
}

static bool quota_has_room(const struct job *job)
{
    const struct jobs *j = job->jobs;
    uint64_t most = j->server->config->spool_max;
    return most == 0 || j->bytes - bytes_of_ended(j) + missing(job) <= most ||
           !job_others_go_on(job);
}

/* ---- who is stuck: with the lock held -----------------------------------------------------------
 */

static bool is_stuck(const struct job *job)
{
    double seconds = (double)(clock_ns() - job->stuck) * 1e-9;
    return job == job->jobs->needy && job->lacked_disk && !job_others_go_on(job) &&
           seconds >= job->jobs->server->config->room_patience;
}

/* Who gets further with its masks; or NULL. */
static struct job *who_wants_less(const struct job *stuck, uint64_t free)
{
    for (struct job *o = stuck->jobs->first; o; o = o->next)
        if (o != stuck && o->whole && waits(o) && missing(o) <= free + job_masks(stuck))
            return o;
    return NULL;
}

/* ---- looking: the housekeeping thread -----------------------------------------------------------
 */

/* It stands back, so it does not run meanwhile. */
static void give_way(struct job *job)
{
    job_begin_anew(job);
    uint64_t bytes = spool_size(job);
    log_event(LOG_WARNING, "job_gives_way", "job=%s", job->id);
    pthread_mutex_lock(&job->jobs->lock);
    job_set_bytes(job, bytes);
    snprintf(job->error_text, sizeof job->error_text,
             "No space left on device; it has given its masks up for a smaller one, and begins "
             "anew when there is room");
    job_changed(job, true);
    pthread_mutex_unlock(&job->jobs->lock);
}

/* With the lock held. */
static void start_again(struct jobs *j, struct job *job)
{
    if (waits(job) && !job_stands_back(job))
        job->retry = 0;
    jobs_schedule(j);
}

/* With the lock held, which it gives up meanwhile. */
static void look_at(struct jobs *j, struct job *job, uint64_t free)
{
    uint64_t bytes = missing(job);
    bool room = job->lacked_disk ? bytes <= free : quota_has_room(job);
    struct job *other = !room && is_stuck(job) ? who_wants_less(job, free) : NULL;
    if (other) {
        j->needy = other;
        other->stuck = clock_ns();
    }
    bool probe = room && job->lacked_disk;
    pthread_mutex_unlock(&j->lock);
    if (other)
        give_way(job);
    if (probe)
        room = spool_probe(j, bytes);
    pthread_mutex_lock(&j->lock);
    if (room)
        start_again(j, job);
    else
        log_event(LOG_DEBUG, "no_room_yet", "job=%s wants=%llu free=%llu", job->id,
                  (unsigned long long)bytes, (unsigned long long)free);
}

void jobs_look_for_room(struct jobs *j)
{
    uint64_t free = spool_free(j);
    pthread_mutex_lock(&j->lock);
    j->disk = free > 0 ? j->bytes + free : 0;
    jobs_schedule(j);
    struct job *job = next_waiting(j);
    if (job) {
        job_ref(job);
        look_at(j, job, free);
    }
    pthread_mutex_unlock(&j->lock);
    job_unref(job);
}
