/* Leases, and what is done under them: records are written, streams leave, and are lost. All of it
 * the thread's, but for the commands' ends. */
#include "server/handover_parts.h"

#include "server/log.h"

#include <stdlib.h>

enum { RENEWALS_AT_ONCE = 128, RENEWALS_A_LEASE = 5 };

/* ---- who has a lease ----------------------------------------------------------------------------
 */

void lease_place(const struct handover *h, const struct session *s, struct place *out)
{
    place_of(h->config, owner_name(s->params.owner), s->id, out);
}

void lease_hold(struct handover *h, struct session *s, bool leased)
{
    struct session_lease *l = &s->lease;
    session_ref(s);
    l->held = true;
    l->had = leased;
    l->link = &h->first;
    l->next = h->first;
    if (l->next)
        l->next->lease.link = &l->next;
    h->first = s;
    atomic_store(&l->ours, leased);
    metric_add(h->metrics, METRIC_HANDOVER_STREAMS, 1);
}

void lease_broken(struct handover *h, struct session *s, bool broken)
{
    if (s->lease.broken == broken)
        return;
    s->lease.broken = broken;
    metric_add(h->metrics, METRIC_HANDOVER_BROKEN, broken ? 1 : -1);
    if (broken)
        log_event(LOG_WARNING, "store_broken", "stream=%s key=%s error=%s", s->id,
                  owner_label(s->params.owner), log_text(err_text()));
    else
        log_event(LOG_INFO, "store_mended", "stream=%s key=%s", s->id,
                  owner_label(s->params.owner));
}

void lease_drop(struct handover *h, struct session *s)
{
    struct session_lease *l = &s->lease;
    if (!l->held)
        return;
    atomic_store(&l->ours, false);
    l->held = false;
    *l->link = l->next;
    if (l->next)
        l->next->lease.link = l->link;
    metric_add(h->metrics, METRIC_HANDOVER_STREAMS, -1);
    metric_add(h->metrics, METRIC_HANDOVER_BROKEN, l->broken ? -1 : 0);
    l->broken = false;
    session_unref(s);
}

void lease_give_back(struct handover *h, struct session *s)
{
    struct place place;
    if (s->lease.held && h->redis.context) {
        lease_place(h, s, &place);
        redis_give_back(&h->redis, &place, s->lease.token);
        handover_tell(h);
    }
    lease_drop(h, s);
}

/* Another replica has the stream: here it ends. */
static void lose(struct handover *h, struct session *s)
{
    log_event(LOG_WARNING, "stream_lost", "stream=%s key=%s seq=%lld error=%s", s->id,
              owner_label(s->params.owner), (long long)atomic_load(&s->last_seq),
              log_text("another replica has it"));
    metric_add(h->metrics, METRIC_HANDOVER_LOST, 1);
    session_drop(h->server->sessions, s);
    if (h->server->ws)
        ws_stream_moved(h->server->ws, s, true);
    lease_drop(h, s);
}

/* There is an error where its lease and record should be: it goes on without, until there is none.
 */
static void lose_keys(struct handover *h, struct session *s)
{
    lease_broken(h, s, true);
    atomic_store(&s->lease.ours, false);
}

/* ---- leaving ------------------------------------------------------------------------------------
 */

/* The engine thread, or whoever ends the command. */
static void on_left(struct command *c)
{
    struct operation *o = c->owner;
    struct handover *h = o->handover;
    enum err e = c->error;
    if (e)
        log_event(LOG_WARNING, "handover_failed", "stream=%s error=%s", o->session->id,
                  log_text(c->error_text));
    else if (!o->then && h->server->ws) /* who came after it was found idle */
        ws_stream_moved(h->server->ws, o->session, true);
    operation_end_leave(o, e ? err_set(e, "%s", c->error_text) : ERR_OK);
    pthread_mutex_lock(&h->lock);
    atomic_fetch_sub(&h->leaves, 1);
    pthread_cond_signal(&h->wake);
    pthread_mutex_unlock(&h->lock);
}

static void begin_leave(struct handover *h, struct operation *o)
{
    struct session *s = o->session;
    if (!s->lease.held || !h->redis.context) {
        operation_end_leave(o,
                            err_set(ERR_BUSY, "stream '%s': %s", s->id,
                                    s->lease.held ? h->redis.why : "it is not ours to hand over"));
        return;
    }
    atomic_fetch_add(&h->leaves, 1);
    o->command = (struct command){
        .kind = COMMAND_LEAVE, .session = session_ref(s), .done = on_left, .owner = o};
    sched_command(h->server->sched, &o->command);
}

void lease_begin_leaves(struct handover *h)
{
    struct operation *o;
    while (atomic_load(&h->leaves) < LEAVES_MAX && (o = operation_first(&h->leaving)))
        begin_leave(h, o);
}

/* It leaves as soon as the engine comes to it; nothing, if it does so already. */
void lease_ask_to_leave(struct handover *h, struct session *s)
{
    if (atomic_exchange(&s->lease.leaving, true))
        return;
    struct operation *o = operation_new(h, OPERATION_LEAVE, s);
    if (o)
        operation_append(&h->leaving, o);
    else
        atomic_store(&s->lease.leaving, false);
}

/* Another replica asks for the stream. */
static void on_wanted(struct handover *h, struct session *s, bool takeover)
{
    if (session_attached(s)) {
        if (takeover && h->server->ws)
            ws_stream_moved(h->server->ws, s, false);
    } else if (atomic_load(&s->in_flight) == 0) {
        lease_ask_to_leave(h, s);
    }
}

/* ---- writing ------------------------------------------------------------------------------------
 */

static void free_command(struct command *c)
{
    free(c);
}

/* Has the engine give the state, between the session's frames. */
static void ask_to_keep(struct handover *h, struct session *s)
{
    struct command *c = calloc(1, sizeof *c);
    if (!c)
        return; /* the next renewal asks again */
    atomic_store(&s->lease.unsaved, false);
    c->kind = COMMAND_KEEP;
    c->session = session_ref(s);
    c->done = free_command;
    sched_command(h->server->sched, c);
}

static bool is_leave(const struct operation *o)
{
    return o->then && o->then->kind == COMMAND_LEAVE;
}

static enum err write_record(struct handover *h, struct operation *o)
{
    struct session *s = o->session;
    struct place place;
    enum err refused;
    if (!s->lease.held)
        return err_set(ERR_NOT_FOUND, "stream '%s' is not ours any more", s->id);
    if (!h->redis.context)
        return err_set(ERR_BUSY, "redis is away: %s", h->redis.why);
    lease_place(h, s, &place);
    enum lease lease = redis_write(&h->redis, &place, o, is_leave(o), &refused);
    if (lease == LEASE_AWAY && redis_is_back(&h->redis))
        lease = redis_write(&h->redis, &place, o, is_leave(o), &refused);
    switch (lease) {
    case LEASE_OURS:
        handover_refused(h, refused);
        return refused;
    case LEASE_AWAY:
        handover_tell(h);
        return err_set(ERR_BUSY, "redis is away: %s", h->redis.why);
    case LEASE_BROKEN:
        lose_keys(h, s);
        return err_set(ERR_BUSY, "redis has other things at the keys of stream '%s'", s->id);
    default:
        lose(h, s);
        return err_set(ERR_ELSEWHERE, "another replica has stream '%s'", s->id);
    }
}

void lease_keep(struct handover *h, struct operation *o)
{
    struct session *s = o->session;
    enum err e = write_record(h, o);
    metric_add(h->metrics,
               !e            ? METRIC_HANDOVER_STORED
               : e == ERR_IO ? METRIC_HANDOVER_REFUSED
                             : METRIC_HANDOVER_FAILED,
               1);
    if (e) {
        log_event(LOG_DEBUG, "store_failed", "stream=%s error=%s", s->id, log_text(err_text()));
    } else {
        s->lease.written = o->frames;
        atomic_store(&s->lease.stored, o->seq);
        metric_add(h->metrics, METRIC_HANDOVER_BYTES, (int64_t)o->len);
    }
    if (!e && is_leave(o)) {
        log_event(LOG_INFO, "stream_handed_over", "stream=%s key=%s seq=%lld bytes=%zu", s->id,
                  owner_label(s->params.owner), (long long)o->seq, o->len);
        metric_add(h->metrics, METRIC_HANDOVER_OUT, 1);
        lease_drop(h, s);
        session_drop(h->server->sessions, s);
    } else if (e == ERR_IO && is_leave(o) && atomic_load(&h->server->draining)) {
        lease_give_back(h, s); /* with what was stored before */
        err_set(e, "redis does not take the state");
    }
    operation_end_keep(o, e);
}

static bool tell_deletion(struct handover *h, const struct session *s)
{
    struct place place;
    if (!h->redis.context)
        return false;
    lease_place(h, s, &place);
    redis_ask_forget(&h->redis, &place, s->lease.token, !s->lease.had);
    return redis_read_done(&h->redis);
}

void lease_forget(struct handover *h, struct session *s)
{
    if (!s->lease.held)
        return;
    bool told = tell_deletion(h, s) || (redis_is_back(&h->redis) && tell_deletion(h, s));
    handover_tell(h);
    if (!told)
        h->redis.broken = false; /* nobody asks at once what comes after this */
    if (told || forgotten_add(h, s))
        lease_drop(h, s);
    else
        atomic_store(&s->lease.deleted, true); /* the next renewal tries again */
}

/* Of those that nobody could ask for, or remember. */
static void forget_deleted(struct handover *h)
{
    for (struct session *next, *s = h->first; s; s = next) {
        next = s->lease.next;
        if (atomic_load(&s->lease.deleted))
            lease_forget(h, s);
    }
}

/* ---- renewal ------------------------------------------------------------------------------------
 */

static void on_renewed(struct handover *h, struct session *s, enum lease lease)
{
    struct session_lease *l = &s->lease;
    if (lease == LEASE_LOST) {
        lose(h, s);
        return;
    }
    if (lease == LEASE_BROKEN) {
        lose_keys(h, s);
        return;
    }
    lease_broken(h, s, false);
    l->had = true;
    atomic_store(&l->ours, true);
    if (lease == LEASE_WANTED || lease == LEASE_WANTED_NOW) {
        on_wanted(h, s, lease == LEASE_WANTED_NOW);
        return;
    }
    bool rests = atomic_load(&s->in_flight) == 0 && atomic_load(&s->frames) != l->written;
    if ((lease == LEASE_BARE || rests || atomic_load(&l->unsaved)) && !atomic_load(&l->keeping) &&
        h->config->snapshot_frames > 0)
        ask_to_keep(h, s);
}

/* Some of the list from `*next` on. False: Redis is away. */
static bool renew_some(struct handover *h, struct session **next)
{
    struct session *asked[RENEWALS_AT_ONCE];
    int count = 0;
    for (; *next && count < RENEWALS_AT_ONCE; *next = (*next)->lease.next) {
        struct session *s = asked[count++] = *next;
        struct place place;
        lease_place(h, s, &place);
        redis_ask_renewal(&h->redis, &place, s->lease.token, !s->lease.had);
    }
    for (int i = 0; i < count; i++) {
        enum lease lease = redis_read_renewal(&h->redis);
        if (lease == LEASE_AWAY)
            return false;
        on_renewed(h, asked[i], lease); /* may take it off the list: `next` is beyond it */
    }
    return true;
}

void lease_renew(struct handover *h)
{
    forget_deleted(h);
    struct session *next = h->redis.context ? h->first : NULL;
    if (!h->first && h->redis.context)
        redis_ping(&h->redis);
    h->renewal = clock_ns() + (uint64_t)(h->config->stream_lease * 1e9) / RENEWALS_A_LEASE;
    while (next && renew_some(h, &next))
        ;
    handover_tell(h);
}
