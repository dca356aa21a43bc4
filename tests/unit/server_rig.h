/* Models, workers and scheduler of the daemon on tiny models, without any network. */
#ifndef TV3S_TESTS_SERVER_RIG_H
#define TV3S_TESTS_SERVER_RIG_H

#include "server/config.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/models.h"
#include "server/sched.h"
#include "server/session.h"
#include "server/workers.h"
#include "tests/unit/tiny_model.h"

#include <pthread.h>
#include <semaphore.h>

enum { DELIVERED_MAX = 256 };

struct rig {
    struct config config;
    struct metrics *metrics;
    struct models *models;
    struct workers *workers;
    struct sched *sched;
    struct sessions *sessions;
    bool stopped;

    pthread_mutex_t lock; /* guards what was delivered */
    pthread_cond_t more;
    struct item *delivered[DELIVERED_MAX]; /* in order; freed by rig_clear */
    int count;

    sem_t at_gate, gate; /* the engine thread stands at the gate */
};

/* Two models, "one" and "two", of other weights. Settings may be changed before rig_start. */
static inline void rig_open(struct rig *r)
{
    char path[2][32] = {"/tmp/tv3sd-one-XXXXXX", "/tmp/tv3sd-two-XXXXXX"}, flag[2][48];
    char *argv[] = {"tv3sd", "--model", flag[0], "--model", flag[1], "--threads", "1", NULL};
    enum config_action action;
    log_level_set(LOG_ERROR);
    struct arch a = tiny_arch(ENCODER_MIT, HEAD_TV3S);
    for (int i = 0; i < 2; i++) {
        close(mkstemp(path[i]));
        tiny_write(&a, (uint64_t)i + 1, path[i]);
        snprintf(flag[i], sizeof flag[i], "%s=%s", i ? "two" : "one", path[i]);
    }
    *r = (struct rig){.count = 0};
    assert_int_equal(config_load(&r->config, 7, argv, &action), ERR_OK);
    assert_int_equal(metrics_open(&r->metrics), ERR_OK);
    if (models_open(&r->config, &r->models))
        fail_msg("%s", err_text());
    unlink(path[0]);
    unlink(path[1]);
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->more, NULL);
    sem_init(&r->at_gate, 0, 0);
    sem_init(&r->gate, 0, 0);
}

static inline void rig_start(struct rig *r)
{
    assert_int_equal(workers_open(&r->config, r->metrics, NULL, &r->workers), ERR_OK);
    assert_int_equal(sched_open(&r->config, r->metrics, r->models, r->workers, &r->sched), ERR_OK);
    workers_connect(r->workers, r->sched);
    assert_int_equal(sessions_open(&r->config, r->metrics, &r->sessions), ERR_OK);
    sessions_connect(r->sessions, r->sched);
}

static inline void rig_clear(struct rig *r)
{
    for (int i = 0; i < r->count; i++)
        item_free(r->delivered[i]);
    r->count = 0;
}

static inline void rig_stop(struct rig *r)
{
    if (!r->stopped) {
        sched_stop(r->sched);
        workers_stop(r->workers);
    }
    r->stopped = true;
}

/* Every frame was delivered by now, and nothing is left in any gauge. */
static inline void rig_close(struct rig *r)
{
    rig_stop(r);
    rig_clear(r);
    sessions_close(r->sessions);
    assert_true(metric_get(r->metrics, METRIC_STATE_BYTES) == 0);
    assert_true(metric_get(r->metrics, METRIC_SPILLED_BYTES) == 0);
    assert_true(metric_get(r->metrics, METRIC_QUEUE_DECODE) == 0);
    assert_true(metric_get(r->metrics, METRIC_QUEUE_ENGINE) == 0);
    assert_true(metric_get(r->metrics, METRIC_QUEUE_ENCODE) == 0);
    sched_close(r->sched);
    workers_close(r->workers);
    models_close(r->models);
    metrics_close(r->metrics);
    config_free(&r->config);
    pthread_cond_destroy(&r->more);
    pthread_mutex_destroy(&r->lock);
}

/* ---- sessions -------------------------------------------------------------------------------- */

static inline struct session *rig_session(struct rig *r, enum session_kind kind, const char *id,
                                          const char *model, enum stream_mode mode)
{
    struct session_params p = {.stream = {.mode = mode}, .format = MASK_RAW};
    struct session *s;
    bool created;
    assert_int_equal(models_find(r->models, model, &p.model), ERR_OK);
    if (kind == SESSION_LIVE)
        assert_int_equal(session_make(r->sessions, id, &p, &created, &s), ERR_OK);
    else
        assert_int_equal(session_new(r->sessions, kind, id, &p, &s), ERR_OK);
    return s;
}

static inline struct session *rig_live(struct rig *r, const char *id)
{
    return rig_session(r, SESSION_LIVE, id, "one", MODE_STREAM);
}

/* ---- frames ---------------------------------------------------------------------------------- */

static inline void rig_deliver(struct item *item)
{
    struct rig *r = item->owner;
    pthread_mutex_lock(&r->lock);
    assert_true(r->count < DELIVERED_MAX);
    r->delivered[r->count++] = item;
    pthread_cond_broadcast(&r->more);
    pthread_mutex_unlock(&r->lock);
}

/* Frame t of clip `seed` as raw pixels. */
static inline struct item *rig_frame(struct rig *r, struct session *s, int seed, int t, int width,
                                     int height)
{
    struct item *item = item_new(s, ITEM_RGB24);
    size_t bytes = (size_t)width * (size_t)height * 3;
    assert_int_equal(buf_reserve(&item->input, bytes), ERR_OK);
    tiny_frame(item->input.data, width, height, seed, t);
    item->input.len = bytes;
    item->width = width;
    item->height = height;
    item->seq = t;
    item->deliver = rig_deliver;
    item->owner = r;
    return item;
}

/* The same, past the decode worker: it is in the scheduler's inbox when this returns. */
static inline void rig_submit(struct rig *r, struct session *s, int seed, int t, int width,
                              int height)
{
    struct item *item = rig_frame(r, s, seed, t, width, height);
    item->kind = ITEM_DECODED;
    item->pixels = item->input.data;
    item->input = (struct buf){0};
    sched_submit(r->sched, item);
}

static inline void rig_wait(struct rig *r, int count)
{
    pthread_mutex_lock(&r->lock);
    while (r->count < count)
        pthread_cond_wait(&r->more, &r->lock);
    pthread_mutex_unlock(&r->lock);
}

/* The delivered item of a session and number; *place (or NULL) says which one it was. */
static inline const struct item *rig_find(struct rig *r, const struct session *s, int64_t seq,
                                          int *place)
{
    for (int i = 0; i < r->count; i++) {
        if (r->delivered[i]->session != s || r->delivered[i]->seq != seq)
            continue;
        if (place)
            *place = i;
        return r->delivered[i];
    }
    fail_msg("frame %d of %s was not delivered", (int)seq, s->id);
    return NULL;
}

/* ---- commands -------------------------------------------------------------------------------- */

struct rig_command {
    struct command command; /* first */
    sem_t done;
};

static inline void rig_done(struct command *c)
{
    sem_post(&((struct rig_command *)c)->done);
}

static inline struct rig_command *rig_command(struct session *s, enum command_kind kind)
{
    struct rig_command *c = calloc(1, sizeof *c);
    c->command.kind = kind;
    c->command.session = session_ref(s);
    c->command.done = rig_done;
    sem_init(&c->done, 0, 0);
    return c;
}

/* Frees it. */
static inline enum err rig_await(struct rig_command *c)
{
    sem_wait(&c->done);
    enum err e = c->command.error;
    free(c->command.data);
    free(c);
    return e;
}

/* ---- the gate: the engine thread waits, so that what comes in now is there all at once ---------
 */

static inline void rig_at_gate(void *rig, enum err e, const char *text)
{
    struct rig *r = rig;
    (void)e;
    (void)text;
    sem_post(&r->at_gate);
    sem_wait(&r->gate);
}

static inline void rig_hold(struct rig *r)
{
    sched_probe(r->sched, rig_at_gate, r);
    sem_wait(&r->at_gate);
}

static inline void rig_let_go(struct rig *r)
{
    sem_post(&r->gate);
}

#endif
