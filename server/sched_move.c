/* Off a device that is drained: a session moves to another lane, with all it has.
 *
 * It is asked for by sched_drain_session, from any thread, and done by the lane's own thread
 * between two batches, none under way, so no frame of the session is in the engine: the state is
 * exported, the stream closed, and then, with the lock held, the import and all frames and commands
 * that wait, also those still in the inbox, go into the other lane's inbox, in order, and the
 * session is that lane's. Who posts an item reads the session's lane with the lock held, so what
 * comes later queues behind them.
 *
 * A clip's features have no exported form: a stream in clip mode that has some stays until it ends,
 * as uploads and single images do, which end by themselves.
 *
 * When nobody is left the lane's thread closes the engines: weights, room for states and batches
 * are memory of others then. The lane is `closed`, and no session is pinned to it. It opens them
 * again when the device is to be used, and only then the lane gets sessions. One lane that is not
 * drained is always open: the last one does not close before another has opened. */
#include "server/sched_parts.h"

#include "server/log.h"

#include "base/try.h"

#include <stdlib.h>
#include <string.h>

/* ---- asking -------------------------------------------------------------------------------------
 */

void sched_drain_session(struct sched *s, struct session *session)
{
    if (!atomic_load(&session_lane(session)->drained))
        return;
    pthread_mutex_lock(&s->lock);
    struct lane *l = session_lane(session);
    if (!s->ended && !session->moving) {
        session->moving = true;
        session->move_next = l->leaving;
        l->leaving = session_ref(session);
        pthread_cond_signal(&l->wake);
    }
    pthread_mutex_unlock(&s->lock);
}

static bool named(const struct config_list *list, const char *device)
{
    for (int i = 0; i < list->count; i++)
        if (strcmp(list->item[i], device) == 0)
            return true;
    return false;
}

/* Whether that changes anything at once. */
static bool set_drained(struct lane *l, bool drained)
{
    pthread_mutex_lock(&l->sched->lock);
    l->wanted = l->closed && !drained;
    bool later = l->wanted; /* when it has opened */
    bool changes = !later && atomic_exchange(&l->drained, drained) != drained;
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&l->sched->lock);
    return changes;
}

void sched_drain(struct sched *s, const struct config_list *devices)
{
    int left = 0;
    for (int i = 0; i < s->lanes; i++)
        left += !named(devices, models_device(s->lane[i].models, i));
    if (left == 0)
        log_event(LOG_WARNING, "drain_ignored", "reason=\"no device would be left\"");
    for (int i = 0; i < s->lanes; i++) {
        const char *device = models_device(s->lane[i].models, i);
        bool drained = left > 0 && named(devices, device);
        if (set_drained(&s->lane[i], drained))
            log_event(LOG_INFO, drained ? "device_drained" : "device_used", "device=%s", device);
    }
}

/* ---- the device itself --------------------------------------------------------------------------
 */

/* With the lock held: there is another to go to. */
static bool is_replaced(const struct lane *l)
{
    const struct sched *s = l->sched;
    for (int i = 0; i < s->lanes; i++)
        if (&s->lane[i] != l && !s->lane[i].closed && !atomic_load(&s->lane[i].drained))
            return true;
    return false;
}

/* With the lock held. */
static bool is_empty(const struct lane *l)
{
    return lane_pinned(l) == 0 && !l->inbox_head && !l->released && !l->leaving &&
           l->ready.count == 0;
}

static void let_go(struct lane *l)
{
    sched_end_ahead(l);
    models_let_go(l->models, l->device);
    log_event(LOG_INFO, "device_free", "device=%s", models_device(l->models, l->device));
}

static void take_up(struct lane *l)
{
    const char *device = models_device(l->models, l->device);
    enum err e = models_take_up(l->models, l->device);
    if (e)
        log_event(LOG_ERROR, "device_not_used", "device=%s error=%s", device, log_text(err_text()));
    pthread_mutex_lock(&l->sched->lock);
    bool used = !e && l->wanted;
    l->closed = e != ERR_OK;
    if (used)
        atomic_store(&l->drained, false);
    l->wanted = false;
    pthread_mutex_unlock(&l->sched->lock);
    if (used)
        log_event(LOG_INFO, "device_used", "device=%s", device);
}

void lane_settle(struct lane *l)
{
    if (!atomic_load(&l->drained))
        return;
    pthread_mutex_lock(&l->sched->lock);
    bool wanted = l->wanted, goes = !l->closed && is_empty(l) && is_replaced(l);
    l->closed = l->closed || goes;
    pthread_mutex_unlock(&l->sched->lock);
    if (goes)
        let_go(l);
    else if (wanted)
        take_up(l);
}

/* ---- the import, on the other lane --------------------------------------------------------------
 */

/* Its engine thread. A state that is lost there is told with the next frame. */
static void on_imported(struct command *c)
{
    if (c->error && c->error != ERR_NOT_FOUND) {
        log_event(LOG_WARNING, "move_failed", "stream=%s error=%s", c->session->id,
                  log_text(c->error_text));
        c->session->began_anew = true;
    }
    free(c->data);
    free(c);
}

/* What takes the state along; NULL in *out: there is none. ERR_UNSUPPORTED: it cannot be. */
static enum err pack(struct session *session, struct command **out)
{
    void *state = NULL;
    size_t len = 0;
    *out = NULL;
    if (!session->stream)
        return ERR_OK;
    if (session->params.stream.mode == MODE_CLIP)
        return stream_frames(session->stream) ? ERR_UNSUPPORTED : ERR_OK;
    enum err e = stream_export(session->stream, &state, &len);
    if (e)
        return e == ERR_NOT_FOUND || e == ERR_UNSUPPORTED ? ERR_OK : e; /* these have none */
    struct command *c = calloc(1, sizeof *c);
    if (!c) {
        free(state);
        return err_set(ERR_NOMEM, "no memory to move a stream");
    }
    *c = (struct command){.kind = COMMAND_MOVE,
                          .session = session_ref(session),
                          .data = state,
                          .len = len,
                          .done = on_imported};
    *out = c;
    return ERR_OK;
}

/* ---- leaving ------------------------------------------------------------------------------------
 */

struct items {
    struct item *head, **end;
};

static void append(struct items *to, struct item *item)
{
    item->next = NULL;
    *to->end = item;
    to->end = &item->next;
}

/* With the lock held. Takes the session's items out of the inbox. */
static void take_inbox(struct lane *l, const struct session *session, struct items *to)
{
    struct item **at = &l->inbox_head, *last = NULL;
    while (*at) {
        struct item *item = *at;
        if (item->session == session) {
            *at = item->next;
            append(to, item);
        } else {
            last = item;
            at = &item->next;
        }
    }
    l->inbox_tail = last;
}

/* The session is no more in the list of those that have frames. */
static void unready(struct lane *l, struct session *session)
{
    struct session **at = &l->ready.head, *last = NULL;
    if (!session->queued)
        return;
    for (; *at != session; at = &last->sched_next)
        last = *at;
    *at = session->sched_next;
    if (l->ready.tail == session)
        l->ready.tail = last;
    l->ready.count--;
    session->queued = false;
    session_unref(session);
}

/* All that waits, behind the state. */
static void hand_over(struct lane *l, struct session *session, struct command *state)
{
    struct items all = {.head = NULL, .end = &all.head};
    if (state)
        append(&all, command_carrier(state));
    for (struct item *next, *item = session->pending_head; item; item = next) {
        next = item->next;
        append(&all, item);
    }
    session->pending_head = session->pending_tail = NULL;
    session->pending = 0;
    pthread_mutex_lock(&l->sched->lock);
    take_inbox(l, session, &all);
    struct lane *to = lane_repin(l, session);
    for (struct item *next, *item = all.head; item; item = next) {
        next = item->next;
        lane_post(to, item);
    }
    pthread_mutex_unlock(&l->sched->lock);
    log_event(LOG_INFO, "stream_moved", "stream=%s from=%s to=%s", session->id,
              models_device(l->models, l->device), models_device(l->models, to->device));
}

static void move(struct lane *l, struct session *session)
{
    struct command *state;
    enum err e = lane_note(l, session->params.model, pack(session, &state));
    if (e) {
        if (e != ERR_UNSUPPORTED)
            log_event(LOG_WARNING, "move_failed", "stream=%s error=%s", session->id,
                      log_text(err_text()));
        return;
    }
    unready(l, session);
    stream_close(session->stream);
    session->stream = NULL;
    sched_place(l, session);
    session->served = 0;
    session->share = (struct share){0};
    session->crowd = 0;
    hand_over(l, session, state);
}

void lane_move(struct lane *l, struct session *leaving)
{
    if (leaving)
        sched_end_ahead(l);
    for (struct session *next; leaving; leaving = next) {
        next = leaving->move_next;
        pthread_mutex_lock(&l->sched->lock);
        bool leaves = atomic_load(&l->drained) && is_replaced(l);
        pthread_mutex_unlock(&l->sched->lock);
        if (leaves && !lane_failure(l))
            move(l, leaving);
        pthread_mutex_lock(&l->sched->lock);
        leaving->moving = false;
        pthread_mutex_unlock(&l->sched->lock);
        session_unref(leaving);
    }
}
