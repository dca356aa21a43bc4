/* A session's life: made here, found and claimed here, given up in sched_release.
 *
 * One lock guards the table's chains and what the header says is the lock's; nothing is called
 * with it held but `visit` of sessions_each. A listed session has the table's reference, so what
 * is found under the lock has at least one and may be given another. */
#include "server/session.h"

#include "server/access.h"
#include "server/config.h"
#include "server/handover.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/sched.h"
#include "server/shed.h"

#include "base/try.h"
#include "sandbox/packets.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

enum { BUCKETS = 1 << 14, RANDOM_ID = 22 };

struct sessions {
    const struct config *config;
    struct metrics *metrics;
    struct sched *sched;
    struct handover *handover; /* NULL: none */
    pthread_mutex_t lock;
    size_t count;
    struct session *bucket[BUCKETS];
};

static const char id_letters[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~";

bool session_id_valid(const char *id)
{
    size_t n = strspn(id, id_letters);
    return n >= 1 && n < SESSION_ID && id[n] == '\0';
}

/* 22 letters of 64: 132 random bits. */
enum err session_id_random(char id[SESSION_ID])
{
    uint8_t bytes[RANDOM_ID];
    if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes)
        return err_set(ERR_IO, "no random numbers for an ID");
    for (int i = 0; i < RANDOM_ID; i++)
        id[i] = id_letters[bytes[i] % 64];
    id[RANDOM_ID] = '\0';
    return ERR_OK;
}

/* FNV-1a of the owner's name and the ID: whether one owner has a stream makes no other's slower. */
static uint32_t hash(const struct owner *owner, const char *id)
{
    uint32_t h = 2166136261u;
    for (const char *p = owner_name(owner); *p; p++)
        h = (h ^ (uint8_t)*p) * 16777619u;
    for (h *= 16777619u; *id; id++)
        h = (h ^ (uint8_t)*id) * 16777619u;
    return h;
}

/* ---- the table ----------------------------------------------------------------------------------
 */

enum err sessions_open(const struct config *c, struct metrics *m, struct sessions **out)
{
    struct sessions *t = calloc(1, sizeof *t);
    *out = t;
    if (!t)
        return err_set(ERR_NOMEM, "no memory for the table of streams");
    t->config = c;
    t->metrics = m;
    pthread_mutex_init(&t->lock, NULL);
    return ERR_OK;
}

void sessions_connect(struct sessions *t, struct sched *s)
{
    t->sched = s;
}

void sessions_hand_over(struct sessions *t, struct handover *h)
{
    t->handover = h;
}

/* With the lock held: out of its chain; the table's reference is the caller's now. */
static void unlist(struct sessions *t, struct session *s)
{
    struct session **at = &t->bucket[hash(s->params.owner, s->id) % BUCKETS];
    while (*at != s)
        at = &(*at)->hash_next;
    *at = s->hash_next;
    s->hash_next = NULL;
    s->listed = false;
    t->count--;
    owner_give_stream(s->params.owner);
    atomic_store(&s->dead, true);
}

void sessions_close(struct sessions *t)
{
    for (int i = 0; t && i < BUCKETS; i++) {
        while (t->bucket[i]) {
            struct session *s = t->bucket[i];
            unlist(t, s);
            session_unref(s);
        }
    }
    if (t)
        pthread_mutex_destroy(&t->lock);
    free(t);
}

size_t sessions_count(struct sessions *t)
{
    pthread_mutex_lock(&t->lock);
    size_t n = t->count;
    pthread_mutex_unlock(&t->lock);
    return n;
}

void sessions_each(struct sessions *t, const struct owner *owner,
                   void (*visit)(void *ctx, struct session *s), void *ctx)
{
    pthread_mutex_lock(&t->lock);
    for (int i = 0; i < BUCKETS; i++)
        for (struct session *s = t->bucket[i]; s; s = s->hash_next)
            if (s->params.owner == owner && s->phase == SESSION_READY)
                visit(ctx, s);
    pthread_mutex_unlock(&t->lock);
}

/* ---- birth and death ----------------------------------------------------------------------------
 */

enum err session_new(struct sessions *t, enum session_kind kind, const char *id,
                     const struct session_params *p, struct session **out)
{
    struct session *s = calloc(1, sizeof *s);
    struct timespec now;
    *out = NULL;
    if (!s)
        return err_set(ERR_NOMEM, "no memory for a stream");
    snprintf(s->id, sizeof s->id, "%s", id);
    clock_gettime(CLOCK_REALTIME, &now);
    s->created = (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
    s->kind = kind;
    s->params = *p;
    s->worker = hash(p->owner, s->id);
    s->table = t;
    s->refs = 1;
    s->last_seq = -1;
    s->lease.stored = SESSION_NOT_STORED;
    s->touched = clock_ns();
    if (t->sched)
        sched_pin(t->sched, s);
    *out = s;
    return ERR_OK;
}

void session_free(struct session *s)
{
    packets_close(s->decoder, NULL); /* its packets held references: there are none */
    free(s);
}

struct session *session_ref(struct session *s)
{
    atomic_fetch_add(&s->refs, 1);
    return s;
}

void session_unref(struct session *s)
{
    if (!s || atomic_fetch_sub(&s->refs, 1) != 1)
        return;
    if (s->table->sched)
        sched_release(s->table->sched, s);
    else
        session_free(s);
}

bool session_takes_nv12(const struct session *s)
{
    return s->params.model->takes_nv12 && s->params.format != MASK_OVERLAY;
}

bool session_same_resize(const struct stream_config *a, const struct stream_config *b)
{
    if (!a->resize_override || !b->resize_override)
        return a->resize_override == b->resize_override;
    return a->resize.kind == b->resize.kind && a->resize.width == b->resize.width &&
           a->resize.height == b->resize.height;
}

static bool same_state(const struct session_params *a, const struct session_params *b)
{
    return a->model == b->model && a->stream.mode == b->stream.mode &&
           session_same_resize(&a->stream, &b->stream);
}

/* With the lock held; NULL: none. */
static struct session *lookup(struct sessions *t, const struct owner *owner, const char *id)
{
    struct session *s = t->bucket[hash(owner, id) % BUCKETS];
    while (s && (s->params.owner != owner || strcmp(s->id, id) != 0))
        s = s->hash_next;
    return s;
}

/* With the lock held. */
static enum err make(struct sessions *t, const char *id, const struct session_params *p,
                     struct session **out)
{
    if (t->count >= (size_t)t->config->max_streams)
        return err_set(ERR_BUSY, "as many streams are open as there may be");
    TRY(owner_take_stream(p->owner));
    enum err e = session_new(t, SESSION_LIVE, id, p, out);
    if (e) {
        owner_give_stream(p->owner);
        return e;
    }
    struct session **bucket = &t->bucket[hash(p->owner, id) % BUCKETS];
    (*out)->hash_next = *bucket;
    (*out)->listed = true;
    (*out)->phase = t->handover ? SESSION_OPENING : SESSION_READY;
    *bucket = *out;
    t->count++;
    return ERR_OK;
}

/* With the lock held. */
static enum err usable(struct session *s)
{
    return atomic_load(&s->phase) == SESSION_READY
               ? ERR_OK
               : err_set(ERR_BUSY, "stream '%s' is just being opened or handed over", s->id);
}

enum err session_make(struct sessions *t, const char *id, const struct session_params *p,
                      bool *created, struct session **out)
{
    char own[SESSION_ID];
    enum err e = ERR_OK;
    *out = NULL;
    *created = false;
    if (id && !session_id_valid(id))
        return err_set(ERR_ARG, "a stream ID is 1 to 128 of A-Z a-z 0-9 . _ ~ -");
    if (!id)
        TRY(session_id_random(own));
    id = id ? id : own;
    pthread_mutex_lock(&t->lock);
    struct session *s = lookup(t, p->owner, id);
    *created = s == NULL;
    if (!s)
        e = make(t, id, p, &s);
    else if (usable(s))
        e = ERR_BUSY;
    else if (!same_state(&s->params, p))
        e = err_set(ERR_EXISTS, "stream '%s' is there with another model, mode or resize", id);
    if (!e)
        *out = session_ref(s);
    pthread_mutex_unlock(&t->lock);
    if (!e && *created)
        log_event(LOG_INFO, "stream_opened", "stream=%s key=%s model=%s", id, owner_label(p->owner),
                  p->model->name);
    return e;
}

enum err session_find(struct sessions *t, const struct owner *owner, const char *id,
                      struct session **out)
{
    pthread_mutex_lock(&t->lock);
    struct session *s = lookup(t, owner, id);
    enum err e = s ? usable(s) : err_set(ERR_NOT_FOUND, "there is no stream '%.128s'", id);
    *out = e ? NULL : session_ref(s);
    pthread_mutex_unlock(&t->lock);
    return e;
}

/* Whether it was in the table; then its reference is the caller's. */
static bool remove_session(struct sessions *t, struct session *s)
{
    pthread_mutex_lock(&t->lock);
    bool listed = s->listed;
    if (listed)
        unlist(t, s);
    pthread_mutex_unlock(&t->lock);
    atomic_store(&s->dead, true);
    return listed;
}

void session_delete(struct sessions *t, struct session *s)
{
    if (!remove_session(t, s))
        return;
    log_event(LOG_INFO, "stream_deleted", "stream=%s frames=%llu", s->id,
              (unsigned long long)atomic_load(&s->frames));
    if (t->handover)
        handover_forget(t->handover, s);
    session_unref(s);
}

void session_drop(struct sessions *t, struct session *s)
{
    if (remove_session(t, s))
        session_unref(s);
}

void session_leave(struct session *s)
{
    pthread_mutex_lock(&s->table->lock);
    atomic_store(&s->phase, SESSION_LEAVING);
    atomic_store(&s->dead, true);
    pthread_mutex_unlock(&s->table->lock);
}

void session_stay(struct sessions *t, struct session *s)
{
    pthread_mutex_lock(&t->lock);
    if (s->listed) {
        atomic_store(&s->dead, false);
        atomic_store(&s->phase, SESSION_READY);
    }
    pthread_mutex_unlock(&t->lock);
}

/* ---- connections and numbers --------------------------------------------------------------------
 */

enum err session_attach(struct session *s, void *connection, bool takeover, void **previous)
{
    enum err e = ERR_OK;
    *previous = NULL;
    pthread_mutex_lock(&s->table->lock);
    if (!s->listed) {
        e = err_set(ERR_NOT_FOUND, "stream '%s' was deleted", s->id);
    } else if (atomic_load(&s->phase) == SESSION_LEAVING) {
        e = usable(s);
    } else if (s->attached && s->attached != connection && !takeover) {
        e = err_set(ERR_EXISTS, "stream '%s' has a connection already; takeover=1 ends that one",
                    s->id);
    } else {
        *previous = s->attached == connection ? NULL : s->attached;
        s->attached = connection;
    }
    pthread_mutex_unlock(&s->table->lock);
    atomic_store(&s->touched, clock_ns());
    return e;
}

void session_detach(struct session *s, void *connection)
{
    pthread_mutex_lock(&s->table->lock);
    if (s->attached == connection)
        s->attached = NULL;
    pthread_mutex_unlock(&s->table->lock);
    atomic_store(&s->touched, clock_ns());
}

bool session_attached(struct session *s)
{
    pthread_mutex_lock(&s->table->lock);
    bool attached = s->attached != NULL;
    pthread_mutex_unlock(&s->table->lock);
    return attached;
}

int64_t session_number(struct session *s, int64_t seq, bool packet)
{
    pthread_mutex_lock(&s->table->lock);
    if (seq < 0)
        seq = s->next_seq;
    if (seq < (packet ? s->first_seq : s->next_seq) || seq == INT64_MAX)
        seq = -1;
    else if (seq >= s->next_seq)
        s->next_seq = seq + 1;
    pthread_mutex_unlock(&s->table->lock);
    return seq;
}

void session_renumber(struct session *s)
{
    pthread_mutex_lock(&s->table->lock);
    s->next_seq = s->first_seq = atomic_load(&s->last_seq) + 1;
    pthread_mutex_unlock(&s->table->lock);
}

/* ---- expiry -------------------------------------------------------------------------------------
 */

struct census {
    uint64_t now, linger; /* nanoseconds */
    size_t active, spilled, idle;
    uint64_t bytes;          /* of listed streams that stay */
    struct session *expired; /* unlisted, linked by hash_next */
    size_t expired_count;
    struct held *held; /* [active + idle], room for all */
};

/* With the lock held. */
static void expire(struct sessions *t, struct census *c, struct session *s)
{
    unlist(t, s);
    s->hash_next = c->expired;
    c->expired = s;
    c->expired_count++;
}

static uint64_t held_bytes(const struct session *s)
{
    return atomic_load(&s->state_bytes) + atomic_load(&s->spilled_bytes);
}

/* With the lock held. */
static void census_session(struct sessions *t, struct census *c, struct session *s)
{
    bool idle = !s->attached && atomic_load(&s->in_flight) == 0;
    uint64_t touched = atomic_load(&s->touched);
    if (atomic_load(&s->phase) != SESSION_READY)
        return;
    if (idle && c->now > touched && c->now - touched > c->linger) {
        expire(t, c, s);
        return;
    }
    if (t->sched)
        sched_drain_session(t->sched, s);
    uint64_t bytes = held_bytes(s);
    c->bytes += bytes;
    c->spilled += atomic_load(&s->spilled_bytes) > 0;
    c->held[c->active + c->idle] = (struct held){
        .session = s, .owner = s->params.owner, .bytes = bytes, .touched = touched, .idle = idle};
    *(idle ? &c->idle : &c->active) += 1;
}

/* With the lock held. When the device's share and that of spilled states are nearly full, streams
 * that no connection holds go. */
static void expire_bytes(struct sessions *t, struct census *c)
{
    uint64_t devices = t->sched ? (uint64_t)sched_devices(t->sched) : 1;
    uint64_t most = (devices * config_state_bytes(t->config) + t->config->max_spill_bytes) / 10 * 9;
    size_t count = c->active + c->idle;
    struct held *next;
    if (c->bytes <= most)
        return;
    shed_sort(c->held, count);
    while (c->bytes > most && (next = shed_next(c->held, count))) {
        c->bytes -= next->bytes;
        c->idle--;
        expire(t, c, next->session);
    }
}

static void take_census(struct sessions *t, struct census *c)
{
    pthread_mutex_lock(&t->lock);
    c->held = malloc((t->count + 1) * sizeof *c->held);
    for (int i = 0; c->held && i < BUCKETS; i++) {
        struct session *next;
        for (struct session *s = t->bucket[i]; s; s = next) {
            next = s->hash_next;
            census_session(t, c, s);
        }
    }
    if (c->held)
        expire_bytes(t, c);
    pthread_mutex_unlock(&t->lock);
    free(c->held);
}

void sessions_expire(struct sessions *t)
{
    struct census c = {.now = clock_ns(), .linger = (uint64_t)(t->config->stream_linger * 1e9)};
    take_census(t, &c);
    while (c.expired) {
        struct session *s = c.expired;
        c.expired = s->hash_next;
        log_event(LOG_INFO, "stream_expired", "stream=%s idle=%.1f", s->id,
                  (double)(c.now - atomic_load(&s->touched)) * 1e-9);
        if (t->handover)
            handover_forget(t->handover, s);
        session_unref(s);
    }
    metric_add(t->metrics, METRIC_STREAMS_EXPIRED, (int64_t)c.expired_count);
    metric_set(t->metrics, METRIC_STREAMS_ACTIVE, (double)c.active);
    metric_set(t->metrics, METRIC_STREAMS_IDLE, (double)c.idle);
    metric_set(t->metrics, METRIC_STREAMS_SPILLED, (double)c.spilled);
}
