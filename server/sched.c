/* The engine thread, and what others hand to it.
 *
 *     any thread --> inbox --> the session's pending list --> batch --> encode worker
 *                    (lock)    `--- engine thread alone ---'
 *
 * The inbox holds frames and commands in the order in which they came; the engine thread takes all
 * of it whenever it is between batches, and files each item under its session, so the order within
 * a session is kept and nothing but the inbox needs a lock.
 *
 * A session is on the `ready` list, which has a reference, while it has pending items. Sessions
 * without references come back by sched_release and are freed by the engine thread alone, so what
 * it holds between two looks at the inbox stays valid. After sched_stop there is no such thread:
 * what comes then ends at once in the caller's thread, and the lock keeps streams from being closed
 * by two at a time. */
#include "server/sched_parts.h"

#include "base/try.h"
#include "server/priority.h"

#include <stdlib.h>
#include <time.h>

/* ---- the thread ---------------------------------------------------------------------------------
 */

struct inbox {
    struct item *items;
    struct session *released;
    struct probe *probes;
};

/* With the lock held. */
static struct inbox empty_inbox(struct sched *s)
{
    struct inbox in = {s->inbox_head, s->released, s->probes};
    s->inbox_head = s->inbox_tail = NULL;
    s->released = NULL;
    s->probes = NULL;
    return in;
}

static struct timespec in_ns(uint64_t ns)
{
    uint64_t t = clock_ns() + ns;
    return (struct timespec){(time_t)(t / 1000000000u), (long)(t % 1000000000u)};
}

/* What came in, after at most `wait` nanoseconds. Returns whether to go on. */
static bool receive(struct sched *s, uint64_t wait, struct inbox *in)
{
    struct timespec until = in_ns(wait);
    pthread_mutex_lock(&s->lock);
    while (wait && !s->stopped && !s->inbox_head && !s->released && !s->probes)
        if (pthread_cond_timedwait(&s->wake, &s->lock, &until))
            break;
    bool go_on = !s->stopped;
    if (go_on)
        *in = empty_inbox(s);
    pthread_mutex_unlock(&s->lock);
    atomic_store(&s->alive, clock_ns());
    return go_on;
}

static void answer_probes(struct probe *probes, enum err e)
{
    while (probes) {
        struct probe *p = probes;
        probes = p->next;
        p->done(p->owner, e, e ? err_text() : "");
        free(p);
    }
}

static void work_off(struct sched *s, struct inbox *in)
{
    for (struct item *next, *item = in->items; item; item = next) {
        next = item->next;
        sched_file(s, item);
    }
    for (struct session *next, *session = in->released; session; session = next) {
        next = session->sched_next;
        sched_run_release(s, session);
    }
    if (in->probes)
        answer_probes(in->probes, sched_run_probe(s));
}

/* Why what waits is not to be labelled. */
static enum err no_more(const struct sched *s)
{
    const char *failure = sched_failure(s);
    return failure ? err_set(ERR_DEVICE, "%s", failure)
                   : err_set(ERR_CANCELLED, "the server is stopping");
}

/* An item that the engine will not see. */
static void end_item(struct sched *s, struct item *item)
{
    enum err e = no_more(s);
    if (item->kind == ITEM_COMMAND) {
        sched_end_command(command_of(item), e);
        return;
    }
    item_fail(item, e);
    item_deliver(item, s->metrics);
}

static void end_release(struct sched *s, struct session *session)
{
    pthread_mutex_lock(&s->lock);
    sched_run_release(s, session);
    pthread_mutex_unlock(&s->lock);
}

/* All that waits and came in, when the engine thread is gone, or has no device any more. */
static void end_all(struct sched *s, struct inbox *in)
{
    for (struct item *next, *item = in->items; item; item = next) {
        next = item->next;
        sched_count(s, item, -1);
        end_item(s, item);
    }
    struct session *ready = s->ready.head;
    s->ready = (struct session_list){0};
    for (struct session *next; ready; ready = next) {
        next = ready->sched_next;
        ready->queued = false;
        while (ready->pending_head)
            end_item(s, sched_take(s, ready));
        session_unref(ready);
    }
    for (struct session *next, *session = in->released; session; session = next) {
        next = session->sched_next;
        end_release(s, session);
    }
    answer_probes(in->probes, no_more(s));
}

static void *engine_main(void *sched)
{
    struct sched *s = sched;
    struct inbox in;
    pthread_setname_np(pthread_self(), "engine");
    priority_lower();
    for (int i = 0; i < models_count(s->models); i++)
        engine_own_cores(models_at(s->models, i)->engine);
    while (receive(s, s->ahead.frames ? 0 : sched_due(s), &in)) {
        if (sched_failure(s)) {
            sched_end_ahead(s);
            end_all(s, &in);
            continue;
        }
        work_off(s, &in);
        if (sched_due(s) == 0 && sched_choose(s))
            sched_run_batch(s);
        else
            sched_end_ahead(s);
    }
    sched_end_ahead(s);
    return NULL;
}

/* ---- opening and ending -------------------------------------------------------------------------
 */

enum err sched_open(const struct config *c, struct metrics *m, struct models *models,
                    struct workers *workers, struct sched **out)
{
    pthread_condattr_t monotonic;
    struct sched *s = calloc(1, sizeof *s);
    *out = NULL;
    if (s)
        s->model = calloc((size_t)models_count(models), sizeof *s->model);
    if (!s || !s->model) {
        free(s);
        return err_set(ERR_NOMEM, "no memory for the scheduler");
    }
    s->config = c;
    s->metrics = m;
    s->models = models;
    s->workers = workers;
    s->alive = clock_ns();
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (pthread_create(&s->thread, NULL, engine_main, s) != 0) {
        sched_close(s);
        return err_set(ERR_NOMEM, "the engine thread does not start");
    }
    *out = s;
    return ERR_OK;
}

void sched_hand_over(struct sched *s, struct handover *h)
{
    s->handover = h;
}

void sched_stop(struct sched *s)
{
    struct inbox in;
    pthread_mutex_lock(&s->lock);
    s->stopped = true;
    pthread_cond_signal(&s->wake);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    pthread_mutex_lock(&s->lock);
    s->ended = true;
    in = empty_inbox(s);
    pthread_mutex_unlock(&s->lock);
    end_all(s, &in);
}

void sched_close(struct sched *s)
{
    if (!s)
        return;
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    free(s->model);
    free(s);
}

const char *sched_failure(const struct sched *s)
{
    return atomic_load(&s->failed) ? s->failure : NULL;
}

uint64_t sched_alive(const struct sched *s)
{
    return atomic_load(&s->alive);
}

/* ---- handing over -------------------------------------------------------------------------------
 */

/* False after the end: the item stays the caller's. */
static bool post(struct sched *s, struct item *item)
{
    item->next = NULL;
    pthread_mutex_lock(&s->lock);
    bool open = !s->ended;
    if (open) {
        if (s->inbox_tail)
            s->inbox_tail->next = item;
        else
            s->inbox_head = item;
        s->inbox_tail = item;
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    return open;
}

/* What is wrong with a frame of itself is found here, so that it spoils no batch. */
static enum err check(struct sched *s, struct item *item)
{
    const struct session *session = item->session;
    const struct session_params *p = &session->params;
    struct geometry g;
    if (atomic_load(&session->dead))
        return err_set(ERR_NOT_FOUND, "stream '%s' was deleted", session->id);
    TRY(engine_geometry(&p->model->model->arch, item->width, item->height,
                        p->stream.resize_override ? &p->stream.resize : NULL, &g));
    item->gflop = g.gflop;
    if (session->kind == SESSION_UPLOAD || atomic_load(&s->waiting) < s->config->queue_max)
        return ERR_OK;
    return err_set(ERR_BUSY, "%d frames wait for the engine", (int)s->config->queue_max);
}

void sched_submit(struct sched *s, struct item *item)
{
    enum err e = check(s, item);
    if (!item->decoded)
        item->decoded = clock_ns();
    if (e) {
        item_fail(item, e);
        item_deliver(item, s->metrics);
        return;
    }
    sched_count(s, item, 1);
    if (post(s, item))
        return;
    sched_count(s, item, -1);
    end_item(s, item);
}

void sched_command(struct sched *s, struct command *c)
{
    struct item *carrier = command_carrier(c);
    if (!post(s, carrier))
        end_item(s, carrier);
}

void sched_release(struct sched *s, struct session *session)
{
    pthread_mutex_lock(&s->lock);
    if (s->ended) {
        sched_run_release(s, session);
    } else {
        session->sched_next = s->released;
        s->released = session;
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
}

void sched_probe(struct sched *s, void (*done)(void *owner, enum err e, const char *text),
                 void *owner)
{
    struct probe *p = malloc(sizeof *p);
    if (!p) {
        done(owner, ERR_NOMEM, "no memory for a probe");
        return;
    }
    *p = (struct probe){.done = done, .owner = owner};
    pthread_mutex_lock(&s->lock);
    if (!s->ended) {
        p->next = s->probes;
        s->probes = p;
        p = NULL;
        pthread_cond_signal(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    if (p)
        answer_probes(p, no_more(s));
}
