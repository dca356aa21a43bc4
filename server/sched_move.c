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
 * as uploads and single images do, which end by themselves. */
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
        if (atomic_exchange(&s->lane[i].drained, drained) != drained)
            log_event(LOG_INFO, drained ? "device_drained" : "device_used", "device=%s", device);
    }
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
        if (atomic_load(&l->drained) && !lane_failure(l))
            move(l, leaving);
        pthread_mutex_lock(&l->sched->lock);
        leaving->moving = false;
        pthread_mutex_unlock(&l->sched->lock);
        session_unref(leaving);
    }
}
