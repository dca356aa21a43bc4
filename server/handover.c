/* The thread of hand-over: what it is asked for, and the end. See handover.h. */
#include "server/handover_parts.h"

#include "server/log.h"

#include "base/try.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

enum { BYTES_MAX = 256 << 20 };
static const uint64_t second = 1000000000u;

static uint64_t in_ns(double seconds)
{
    return (uint64_t)(seconds * 1e9);
}

/* ---- operations ---------------------------------------------------------------------------------
 */

struct operation *operation_new(struct handover *h, enum operation_kind kind, struct session *s)
{
    struct operation *o = calloc(1, sizeof *o);
    if (!o)
        return NULL;
    o->kind = kind;
    o->handover = h;
    o->session = session_ref(s);
    return o;
}

void operation_free(struct operation *o)
{
    if (!o)
        return;
    session_unref(o->session);
    free(o->meta);
    free(o->state);
    free(o);
}

void operation_append(struct operation_list *l, struct operation *o)
{
    o->next = NULL;
    if (l->tail)
        l->tail->next = o;
    else
        l->head = o;
    l->tail = o;
}

struct operation *operation_first(struct operation_list *l)
{
    struct operation *o = l->head;
    if (!o)
        return NULL;
    l->head = o->next;
    if (!l->head)
        l->tail = NULL;
    o->next = NULL;
    return o;
}

void handover_failed(struct handover *h, struct session *s, const struct command *then)
{
    atomic_store(&s->lease.unsaved, true);
    if (then && then->kind == COMMAND_LEAVE && !atomic_load(&h->server->draining))
        session_stay(h->server->sessions, s);
}

/* A state is on its way no more; takes the operation. An error, with err_text(): it was not
 * written. */
void operation_end_keep(struct operation *o, enum err e)
{
    struct handover *h = o->handover;
    struct session *s = o->session;
    struct command *then = o->then;
    bool leave = then && then->kind == COMMAND_LEAVE;
    atomic_fetch_sub(&h->bytes, o->len);
    if (e)
        handover_failed(h, s, then);
    if (then)
        sched_end_command(then, leave ? e : ERR_OK);
    else
        atomic_store(&s->lease.keeping, false);
    operation_free(o);
}

void operation_end_leave(struct operation *o, enum err e)
{
    atomic_store(&o->session->lease.leaving, false);
    if (o->then)
        sched_end_command(o->then, e);
    operation_free(o);
}

/* What the thread will not do any more. Any thread; takes it. */
static void undo(struct operation *o)
{
    enum err e = err_set(ERR_CANCELLED, "the server is stopping");
    switch (o->kind) {
    case OPERATION_TAKE:
    case OPERATION_TAKEN:
        take_refuse(o, e);
        break;
    case OPERATION_LEAVE:
        operation_end_leave(o, e);
        break;
    case OPERATION_KEEP:
        operation_end_keep(o, e);
        break;
    case OPERATION_FORGET:
        operation_free(o);
        break;
    }
}

void handover_post(struct operation *o)
{
    struct handover *h = o->handover;
    pthread_mutex_lock(&h->lock);
    bool open = !h->ended;
    if (open) {
        operation_append(&h->asked, o);
        pthread_cond_signal(&h->wake);
    }
    pthread_mutex_unlock(&h->lock);
    if (!open)
        undo(o);
}

/* ---- asking -------------------------------------------------------------------------------------
 */

void handover_leave(struct handover *h, struct command *c)
{
    struct operation *o = operation_new(h, OPERATION_LEAVE, c->session);
    if (!o) {
        sched_end_command(c, err_set(ERR_NOMEM, "no memory to hand a stream over"));
        return;
    }
    o->then = c;
    handover_post(o);
}

void handover_forget(struct handover *h, struct session *s)
{
    struct operation *o = operation_new(h, OPERATION_FORGET, s);
    atomic_store(&s->lease.ours, false);
    if (o)
        handover_post(o);
    else
        atomic_store(&s->lease.deleted, true);
}

bool handover_room(const struct handover *h)
{
    return atomic_load(&h->bytes) <= BYTES_MAX;
}

bool handover_due(struct handover *h, struct session *s, int others)
{
    uint64_t most = (uint64_t)h->config->snapshot_frames, half = (most + 1) / 2;
    uint64_t frames = atomic_load(&s->frames), kept = atomic_load(&s->lease.kept);
    uint64_t since = frames > kept ? frames - kept : 0;
    if (most == 0 || since < half || !atomic_load(&s->lease.ours) ||
        atomic_load(&s->lease.keeping) || atomic_load(&h->away) || !handover_room(h))
        return false;
    return others == 0 || since >= half + half / 2; /* one after the other, while there is time */
}

void handover_keep(struct handover *h, struct session *s, void *state, size_t len,
                   struct command *then)
{
    struct operation *o = operation_new(h, OPERATION_KEEP, s);
    char *meta = o ? record_write(s) : NULL;
    if (!meta) {
        free(state);
        operation_free(o);
        handover_failed(h, s, then);
        if (then)
            sched_end_command(then, then->kind == COMMAND_LEAVE
                                        ? err_set(ERR_NOMEM, "no memory for a record")
                                        : ERR_OK);
        return;
    }
    o->meta = meta;
    o->state = state;
    o->len = len;
    o->seq = atomic_load(&s->last_seq);
    o->frames = atomic_load(&s->frames);
    o->then = then;
    if (!then)
        atomic_store(&s->lease.keeping, true);
    atomic_store(&s->lease.kept, o->frames);
    atomic_fetch_add(&h->bytes, len);
    handover_post(o);
}

enum err handover_describe(struct handover *h, struct buf *out)
{
    enum err e = ERR_OK;
    pthread_mutex_lock(&h->lock);
    if (h->why[0])
        e = buf_printf(out, "state_store: redis is away for %.0f s: %s\n",
                       (double)(clock_ns() - h->since) * 1e-9, h->why);
    else if (h->refused[0] && clock_ns() < h->refused_at + in_ns(h->config->stream_lease))
        e = buf_printf(out, "state_store: redis takes no states: %s\n", h->refused);
    pthread_mutex_unlock(&h->lock);
    return e;
}

/* ---- what the thread says -----------------------------------------------------------------------
 */

void handover_wait(struct handover *h, struct operation *o)
{
    operation_append(&h->waiting, o);
}

void handover_tell(struct handover *h)
{
    bool away = h->redis.context == NULL;
    pthread_mutex_lock(&h->lock);
    bool was = h->why[0] != '\0';
    snprintf(h->why, sizeof h->why, "%s", away ? h->redis.why : "");
    if (away && !was)
        h->since = clock_ns();
    pthread_mutex_unlock(&h->lock);
    atomic_store(&h->away, away);
    metric_set(h->metrics, METRIC_HANDOVER_AWAY, away);
    if (away && !was)
        log_event(LOG_WARNING, "store_away", "redis=%s error=%s", log_text(h->config->redis),
                  log_text(h->redis.why));
    else if (!away && was)
        log_event(LOG_INFO, "store_back", "redis=%s seconds=%.1f", log_text(h->config->redis),
                  (double)(clock_ns() - h->since) * 1e-9);
}

void handover_refused(struct handover *h, enum err e)
{
    pthread_mutex_lock(&h->lock);
    bool was = h->refused[0] != '\0';
    snprintf(h->refused, sizeof h->refused, "%s", e ? err_text() : "");
    h->refused_at = clock_ns();
    pthread_mutex_unlock(&h->lock);
    if (e && !was)
        log_event(LOG_WARNING, "store_refuses", "redis=%s error=%s", log_text(h->config->redis),
                  log_text(err_text()));
    else if (!e && was)
        log_event(LOG_INFO, "store_takes", "redis=%s", log_text(h->config->redis));
}

/* ---- the thread ---------------------------------------------------------------------------------
 */

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* When there is something to do, whatever is asked. */
static uint64_t due(const struct handover *h)
{
    uint64_t at = h->redis.context ? h->renewal : h->redis.retry;
    for (const struct operation *o = h->waiting.head; o; o = o->next)
        at = earlier(at, o->again);
    return at;
}

static bool gives_up(const struct handover *h)
{
    return atomic_load(&h->failed) && !h->gave_up;
}

/* The next operation, waited for until `at`; NULL: none. False: the end. */
static bool next_operation(struct handover *h, uint64_t at, struct operation **out)
{
    const struct timespec until = {(time_t)(at / second), (long)(at % second)};
    pthread_mutex_lock(&h->lock);
    bool more = h->leaving.head && atomic_load(&h->leaves) < LEAVES_MAX;
    bool sweep = atomic_load(&h->sweeping) && !h->is_drained && atomic_load(&h->leaves) == 0;
    if (!h->stop && !h->asked.head && !more && !sweep && !gives_up(h) && clock_ns() < at)
        pthread_cond_timedwait(&h->wake, &h->lock, &until);
    bool go_on = !h->stop;
    *out = go_on ? operation_first(&h->asked) : NULL;
    pthread_mutex_unlock(&h->lock);
    return go_on;
}

static void run(struct handover *h, struct operation *o)
{
    switch (o->kind) {
    case OPERATION_TAKE:
    case OPERATION_TAKEN:
        take_run(o);
        break;
    case OPERATION_LEAVE:
        operation_append(&h->leaving, o);
        break;
    case OPERATION_KEEP:
        lease_keep(h, o);
        break;
    case OPERATION_FORGET:
        lease_forget(h, o->session);
        operation_free(o);
        break;
    }
}

/* Those whose time has come try again; a drain lets all do so. */
static void run_waiting(struct handover *h)
{
    struct operation_list waiting = h->waiting;
    struct operation *o;
    h->waiting = (struct operation_list){0};
    while ((o = operation_first(&waiting))) {
        if (clock_ns() >= o->again || atomic_load(&h->server->draining))
            take_run(o);
        else
            operation_append(&h->waiting, o);
    }
}

/* All that are ours are asked to leave, once; then it is over when the last of them has answered.
 */
static void sweep(struct handover *h)
{
    if (!h->swept)
        for (struct session *s = h->first; s; s = s->lease.next)
            lease_ask_to_leave(h, s);
    h->swept = true;
    lease_begin_leaves(h);
    pthread_mutex_lock(&h->lock);
    if (!h->leaving.head && !h->asked.head && atomic_load(&h->leaves) == 0) {
        h->is_drained = true;
        pthread_cond_signal(&h->drained);
    }
    pthread_mutex_unlock(&h->lock);
}

/* What is stored is all that there will be. */
static void give_up(struct handover *h)
{
    h->gave_up = true;
    for (struct session *next, *s = h->first; s; s = next) {
        next = s->lease.next;
        if (sched_failed_for(s))
            lease_give_back(h, s);
    }
}

static void *handover_main(void *handover)
{
    struct handover *h = handover;
    struct operation *o = NULL;
    pthread_setname_np(pthread_self(), "handover");
    do {
        if (!h->redis.context && clock_ns() >= h->redis.retry) {
            redis_connect(&h->redis);
            forgotten_tell(h);
            handover_tell(h);
            h->renewal = 0;
        }
        if (o)
            run(h, o);
        if (h->redis.context && clock_ns() >= h->renewal)
            lease_renew(h);
        run_waiting(h);
        lease_begin_leaves(h);
        if (gives_up(h) && !o) /* states that came before are written first */
            give_up(h);
        if (atomic_load(&h->sweeping))
            sweep(h);
    } while (next_operation(h, due(h), &o));
    return NULL;
}

/* ---- opening and ending -------------------------------------------------------------------------
 */

static enum err make_process(char process[17])
{
    uint8_t bytes[8];
    if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes)
        return err_set(ERR_IO, "no random numbers for a token");
    for (size_t i = 0; i < sizeof bytes; i++)
        snprintf(process + 2 * i, 3, "%02x", bytes[i]);
    return ERR_OK;
}

enum err handover_start(struct handover *h)
{
    if (!h)
        return ERR_OK;
    forgotten_read(h);
    h->started = pthread_create(&h->thread, NULL, handover_main, h) == 0;
    return h->started ? ERR_OK : err_set(ERR_NOMEM, "no thread for hand-over");
}

static bool wanted(const struct config *c)
{
    return strcmp(c->state_store, "none") != 0;
}

enum err handover_check(const struct config *c)
{
    struct redis r;
    if (!wanted(c))
        return ERR_OK;
    if (strcmp(c->state_store, "redis") != 0)
        return err_set(ERR_ARG, "state_store is none or redis, not '%.40s'", c->state_store);
    enum err e = redis_open(c, &r);
    redis_close(&r);
    return e;
}

enum err handover_open(struct server *s, struct handover **out)
{
    *out = NULL;
    if (!wanted(s->config))
        return ERR_OK;
    TRY(handover_check(s->config));
    struct handover *h = calloc(1, sizeof *h);
    if (!h)
        return err_set(ERR_NOMEM, "no memory for hand-over");
    h->server = s;
    h->config = s->config;
    h->metrics = s->metrics;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&h->lock, NULL);
    pthread_cond_init(&h->wake, &monotonic);
    pthread_cond_init(&h->drained, &monotonic);
    pthread_condattr_destroy(&monotonic);
    h->forgotten.fd = -1;
    enum err e = make_process(h->process);
    if (!e)
        e = redis_open(h->config, &h->redis);
    if (e) {
        handover_close(h);
        return e;
    }
    sessions_hand_over(s->sessions, h);
    sched_hand_over(s->sched, h);
    *out = h;
    return ERR_OK;
}

void handover_drain(struct handover *h, double seconds)
{
    uint64_t at = clock_ns() + in_ns(seconds);
    const struct timespec until = {(time_t)(at / second), (long)(at % second)};
    pthread_mutex_lock(&h->lock);
    atomic_store(&h->sweeping, true);
    pthread_cond_signal(&h->wake);
    while (!h->is_drained && pthread_cond_timedwait(&h->drained, &h->lock, &until) == 0)
        ;
    pthread_mutex_unlock(&h->lock);
}

void handover_give_up(struct handover *h)
{
    pthread_mutex_lock(&h->lock);
    atomic_store(&h->failed, true);
    pthread_cond_signal(&h->wake);
    pthread_mutex_unlock(&h->lock);
}

void handover_stop(struct handover *h)
{
    struct operation *o;
    if (!h || !h->started)
        return;
    pthread_mutex_lock(&h->lock);
    h->stop = true;
    pthread_cond_signal(&h->wake);
    pthread_mutex_unlock(&h->lock);
    pthread_join(h->thread, NULL);
    h->started = false;
    pthread_mutex_lock(&h->lock);
    h->ended = true;
    struct operation_list asked = h->asked;
    h->asked = (struct operation_list){0};
    pthread_mutex_unlock(&h->lock);
    for (o = asked.head; o; o = o->next)
        if (o->kind == OPERATION_FORGET && o->session->lease.held)
            forgotten_add(h, o->session);
    while ((o = operation_first(&asked)) || (o = operation_first(&h->waiting)) ||
           (o = operation_first(&h->leaving)))
        undo(o);
    while (h->first)
        lease_drop(h, h->first);
}

void handover_close(struct handover *h)
{
    if (!h)
        return;
    forgotten_free(h);
    redis_close(&h->redis);
    pthread_cond_destroy(&h->drained);
    pthread_cond_destroy(&h->wake);
    pthread_mutex_destroy(&h->lock);
    free(h);
}
