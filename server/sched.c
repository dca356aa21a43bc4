/* The scheduler to the rest of the daemon: its lanes, and what others hand to the one of a session.
 * sched_parts.h says what a lane is, sched_lane.c what its thread does. */
#include "server/sched_parts.h"

#include "base/try.h"

#include <stdlib.h>

/* ---- opening and ending -------------------------------------------------------------------------
 */

_Static_assert((int)DEVICES_MAX <= (int)METRIC_ENGINES_MAX, "a device without metrics");

static enum err open_lane(struct sched *s, struct models *models, struct workers *workers)
{
    pthread_condattr_t monotonic;
    struct lane *l = &s->lane[s->lanes];
    l->sched = s;
    l->device = s->lanes;
    l->config = s->config;
    l->metrics = s->metrics;
    l->models = models;
    l->workers = workers;
    l->model = calloc((size_t)models_count(models), sizeof *l->model);
    if (!l->model)
        return err_set(ERR_NOMEM, "no memory for the scheduler");
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&l->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    s->lanes++;
    metric_engine_name(s->metrics, l->device, models_device(models, l->device));
    return ERR_OK;
}

static enum err open_lanes(struct sched *s, struct models *models, struct workers *workers)
{
    for (int i = 0; i < models_devices(models); i++)
        TRY(open_lane(s, models, workers));
    for (int i = 0; i < s->lanes; i++)
        TRY(lane_start(&s->lane[i]));
    return ERR_OK;
}

enum err sched_open(const struct config *c, struct metrics *m, struct models *models,
                    struct workers *workers, struct sched **out)
{
    struct sched *s = calloc(1, sizeof *s + (size_t)models_devices(models) * sizeof s->lane[0]);
    *out = NULL;
    if (!s)
        return err_set(ERR_NOMEM, "no memory for the scheduler");
    s->config = c;
    s->metrics = m;
    pthread_mutex_init(&s->lock, NULL);
    enum err e = open_lanes(s, models, workers);
    if (e) {
        sched_stop(s);
        sched_close(s);
        return e;
    }
    *out = s;
    return ERR_OK;
}

void sched_hand_over(struct sched *s, struct handover *h)
{
    for (int i = 0; i < s->lanes; i++)
        s->lane[i].handover = h;
}

void sched_stop(struct sched *s)
{
    pthread_mutex_lock(&s->lock);
    s->stopped = true;
    for (int i = 0; i < s->lanes; i++)
        pthread_cond_signal(&s->lane[i].wake);
    pthread_mutex_unlock(&s->lock);
    for (int i = 0; i < s->lanes; i++)
        if (s->lane[i].started)
            pthread_join(s->lane[i].thread, NULL);
    pthread_mutex_lock(&s->lock);
    s->ended = true;
    pthread_mutex_unlock(&s->lock);
    for (int i = 0; i < s->lanes; i++)
        lane_end(&s->lane[i]);
}

void sched_close(struct sched *s)
{
    for (int i = 0; s && i < s->lanes; i++) {
        pthread_cond_destroy(&s->lane[i].wake);
        free(s->lane[i].model);
    }
    if (s)
        pthread_mutex_destroy(&s->lock);
    free(s);
}

const char *sched_failure(const struct sched *s)
{
    for (int i = 0; i < s->lanes; i++)
        if (lane_failure(&s->lane[i]))
            return lane_failure(&s->lane[i]);
    return NULL;
}

bool sched_failed_for(const struct session *session)
{
    return lane_failure(session_lane(session)) != NULL;
}

int sched_device(const struct session *session)
{
    return session_lane(session)->device;
}

int sched_devices(const struct sched *s)
{
    return s->lanes;
}

uint64_t sched_alive(const struct sched *s)
{
    uint64_t oldest = UINT64_MAX;
    for (int i = 0; i < s->lanes; i++) {
        uint64_t alive = atomic_load(&s->lane[i].alive);
        oldest = alive < oldest ? alive : oldest;
    }
    return oldest;
}

/* ---- pinning ------------------------------------------------------------------------------------
 */

int lane_pinned(const struct lane *l)
{
    int n = 0;
    for (int kind = 0; kind < SESSION_KINDS; kind++)
        n += l->pinned[kind];
    return n;
}

static bool has_fewer(const struct lane *a, const struct lane *b, enum session_kind kind)
{
    if (a->closed != b->closed) /* there always is one that is not */
        return !a->closed;
    if (atomic_load(&a->drained) != atomic_load(&b->drained))
        return !atomic_load(&a->drained);
    if (a->pinned[kind] != b->pinned[kind])
        return a->pinned[kind] < b->pinned[kind];
    return lane_pinned(a) < lane_pinned(b);
}

/* With the lock held. */
static void count_pinned(struct lane *l, const struct session *session, int n)
{
    l->pinned[session->kind] += n;
    metric_engine_add(l->metrics, l->device, METRIC_ENGINE_SESSIONS, n);
}

/* With the lock held. */
static struct lane *pin(struct sched *s, struct session *session)
{
    struct lane *l = &s->lane[0];
    for (int i = 1; i < s->lanes; i++)
        if (has_fewer(&s->lane[i], l, session->kind))
            l = &s->lane[i];
    count_pinned(l, session, 1);
    atomic_store(&session->lane, l);
    return l;
}

void sched_pin(struct sched *s, struct session *session)
{
    pthread_mutex_lock(&s->lock);
    pin(s, session);
    pthread_mutex_unlock(&s->lock);
}

struct lane *lane_repin(struct lane *from, struct session *session)
{
    count_pinned(from, session, -1);
    return pin(from->sched, session);
}

/* ---- handing over -------------------------------------------------------------------------------
 */

void lane_post(struct lane *l, struct item *item)
{
    item->next = NULL;
    if (l->inbox_tail)
        l->inbox_tail->next = item;
    else
        l->inbox_head = item;
    l->inbox_tail = item;
    pthread_cond_signal(&l->wake);
}

/* False after the end: the item stays the caller's. */
static bool post(struct sched *s, struct item *item)
{
    pthread_mutex_lock(&s->lock);
    bool open = !s->ended;
    if (open)
        lane_post(session_lane(item->session), item);
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
    if (g.gflop > (double)s->config->max_gflop)
        return err_set(ERR_LIMIT,
                       "a frame of %dx%d is %.0f GFLOP of work; max_gflop allows %lld: resize it",
                       item->width, item->height, g.gflop, (long long)s->config->max_gflop);
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
    struct lane *l = session_lane(item->session); /* what is counted is the same on any */
    sched_count(l, item, 1);
    if (post(s, item))
        return;
    sched_count(l, item, -1);
    lane_end_item(l, item);
}

void sched_command(struct sched *s, struct command *c)
{
    struct item *carrier = command_carrier(c);
    if (!post(s, carrier))
        lane_end_item(session_lane(c->session), carrier);
}

void sched_release(struct sched *s, struct session *session)
{
    pthread_mutex_lock(&s->lock);
    struct lane *l = session_lane(session);
    count_pinned(l, session, -1);
    if (s->ended) {
        sched_run_release(l, session);
    } else {
        session->sched_next = l->released;
        l->released = session;
        pthread_cond_signal(&l->wake);
    }
    pthread_mutex_unlock(&s->lock);
}

/* With the lock held. */
static void post_probe(struct lane *l, struct probe *p)
{
    p->next = l->probes;
    l->probes = p;
    pthread_cond_signal(&l->wake);
}

void sched_probe(struct sched *s, void (*done)(void *owner, enum err e, const char *text),
                 void *owner)
{
    struct probing *p = calloc(1, sizeof *p + (size_t)s->lanes * sizeof p->part[0]);
    if (!p) {
        done(owner, ERR_NOMEM, "no memory for a probe");
        return;
    }
    *p = (struct probing){.done = done, .owner = owner, .left = s->lanes};
    pthread_mutex_lock(&s->lock);
    bool open = !s->ended;
    for (int i = 0; i < s->lanes; i++) {
        p->part[i].of = p;
        if (open)
            post_probe(&s->lane[i], &p->part[i]);
    }
    pthread_mutex_unlock(&s->lock);
    for (int i = s->lanes; !open && i > 0; i--)
        lane_answer(&s->lane[i - 1], &p->part[i - 1], lane_no_more(&s->lane[i - 1]));
}
