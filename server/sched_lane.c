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

#include "server/priority.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct inbox {
    struct item *items;
    struct session *released;
    struct probe *probes;
    struct session *leaving;
};

/* With the lock held. */
static struct inbox empty_inbox(struct lane *l)
{
    struct inbox in = {l->inbox_head, l->released, l->probes, l->leaving};
    l->inbox_head = l->inbox_tail = NULL;
    l->released = NULL;
    l->probes = NULL;
    l->leaving = NULL;
    return in;
}

static struct timespec in_ns(uint64_t ns)
{
    uint64_t t = clock_ns() + ns;
    return (struct timespec){(time_t)(t / 1000000000u), (long)(t % 1000000000u)};
}

/* What came in, after at most `wait` nanoseconds. Returns whether to go on. */
static bool receive(struct lane *l, uint64_t wait, struct inbox *in)
{
    struct sched *s = l->sched;
    struct timespec until = in_ns(wait);
    pthread_mutex_lock(&s->lock);
    while (wait && !s->stopped && !l->inbox_head && !l->released && !l->probes && !l->leaving &&
           !l->wanted)
        if (pthread_cond_timedwait(&l->wake, &s->lock, &until))
            break;
    bool go_on = !s->stopped;
    if (go_on)
        *in = empty_inbox(l);
    pthread_mutex_unlock(&s->lock);
    atomic_store(&l->alive, clock_ns());
    return go_on;
}

void lane_answer(struct lane *l, struct probe *p, enum err e)
{
    struct probing *of = p->of;
    pthread_mutex_lock(&l->sched->lock);
    if (e && !of->error) {
        of->error = e;
        snprintf(of->text, sizeof of->text, "%s", err_text());
    }
    bool last = --of->left == 0;
    pthread_mutex_unlock(&l->sched->lock);
    if (last) {
        of->done(of->owner, of->error, of->text);
        free(of);
    }
}

static void answer_probes(struct lane *l, struct probe *probes, enum err e)
{
    for (struct probe *next; probes; probes = next) {
        next = probes->next; /* the answer may free it */
        lane_answer(l, probes, e);
    }
}

static void work_off(struct lane *l, struct inbox *in)
{
    for (struct item *next, *item = in->items; item; item = next) {
        next = item->next;
        sched_file(l, item);
    }
    for (struct session *next, *session = in->released; session; session = next) {
        next = session->sched_next;
        sched_run_release(l, session);
    }
    if (in->probes)
        answer_probes(l, in->probes, l->closed ? ERR_OK : sched_run_probe(l));
    lane_move(l, in->leaving);
}

enum err lane_no_more(const struct lane *l)
{
    const char *failure = lane_failure(l);
    return failure ? err_set(ERR_DEVICE, "%s", failure)
                   : err_set(ERR_CANCELLED, "the server is stopping");
}

void lane_end_item(struct lane *l, struct item *item)
{
    enum err e = lane_no_more(l);
    if (item->kind == ITEM_COMMAND) {
        sched_end_command(command_of(item), e);
        return;
    }
    item_fail(item, e);
    item_deliver(item, l->metrics);
}

static void end_release(struct lane *l, struct session *session)
{
    pthread_mutex_lock(&l->sched->lock);
    sched_run_release(l, session);
    pthread_mutex_unlock(&l->sched->lock);
}

/* All that waits and came in, when the engine thread is gone, or has no device any more. */
static void end_all(struct lane *l, struct inbox *in)
{
    for (struct item *next, *item = in->items; item; item = next) {
        next = item->next;
        sched_count(l, item, -1);
        lane_end_item(l, item);
    }
    struct session *ready = l->ready.head;
    l->ready = (struct session_list){0};
    for (struct session *next; ready; ready = next) {
        next = ready->sched_next;
        ready->queued = false;
        while (ready->pending_head)
            lane_end_item(l, sched_take(l, ready));
        session_unref(ready);
    }
    for (struct session *next, *session = in->released; session; session = next) {
        next = session->sched_next;
        end_release(l, session);
    }
    if (in->probes)
        answer_probes(l, in->probes, lane_no_more(l));
    for (struct session *next, *session = in->leaving; session; session = next) {
        next = session->move_next;
        session_unref(session);
    }
}

static void *engine_main(void *lane)
{
    struct lane *l = lane;
    struct inbox in;
    pthread_setname_np(pthread_self(), "engine");
    priority_lower();
    for (int i = 0; i < models_count(l->models) && models_devices(l->models) == 1; i++)
        engine_own_cores(models_at(l->models, i)->engine[l->device]);
    while (receive(l, l->ahead.frames ? 0 : sched_due(l), &in)) {
        if (lane_failure(l)) {
            sched_end_ahead(l);
            end_all(l, &in);
            continue;
        }
        work_off(l, &in);
        lane_settle(l);
        if (sched_due(l) == 0 && sched_choose(l))
            sched_run_batch(l);
        else
            sched_end_ahead(l);
    }
    sched_end_ahead(l);
    return NULL;
}

enum err lane_start(struct lane *l)
{
    l->alive = clock_ns();
    if (pthread_create(&l->thread, NULL, engine_main, l) != 0)
        return err_set(ERR_NOMEM, "the engine thread does not start");
    l->started = true;
    return ERR_OK;
}

void lane_end(struct lane *l)
{
    pthread_mutex_lock(&l->sched->lock);
    struct inbox in = empty_inbox(l);
    pthread_mutex_unlock(&l->sched->lock);
    end_all(l, &in);
}
