/* What the engine thread does with the engine: batches, commands, probes. */
#include "server/sched_parts.h"

#include "server/handover.h"
#include "server/log.h"

#include "base/try.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROBE_SIDE = 64 };
static const uint64_t probe_age = 5000000000u; /* nanoseconds that a proof of life counts */

/* What the engine of this model says, passed on. ERR_DEVICE is for good: the thread goes on without
 * the device (sched.c), and the daemon ends. */
static enum err noted(struct sched *s, const struct served_model *m, enum err e)
{
    if (e == ERR_DEVICE && !sched_failure(s)) {
        snprintf(s->failure, sizeof s->failure, "model '%s': %s", m->name, err_text());
        log_event(LOG_ERROR, "device_failed", "model=%s error=%s", m->name, log_text(err_text()));
        atomic_store(&s->failed, true);
    }
    return e;
}

/* ---- one session --------------------------------------------------------------------------------
 */

static enum err open_stream(struct session *session)
{
    if (session->stream)
        return ERR_OK;
    return stream_open(session->params.model->engine, &session->params.stream, &session->stream);
}

void sched_run_release(struct sched *s, struct session *session)
{
    stream_close(session->stream);
    session->stream = NULL;
    sched_place(s, session);
    session_free(session);
}

/* Frames were applied: what follows for the first of them and for the session. */
static void applied(struct sched *s, struct session *session, struct item *const *item, int count,
                    uint64_t frames_before)
{
    const struct item *last = item[count - 1];
    bool no_state = session->params.stream.mode == MODE_FRAME;
    bool began = stream_frames(session->stream) == (uint64_t)count; /* the count starts anew too */
    for (int i = 0; i < count; i++) {
        item[i]->applied = !no_state;
        item[i]->from_zero = no_state || (began && i == 0);
    }
    item[0]->restarted = !no_state && began && (frames_before > 0 || session->began_anew);
    session->began_anew = false;
    atomic_store(&session->last_seq, last->seq);
    atomic_fetch_add(&session->frames, (unsigned)count);
    atomic_store(&session->frame_width, last->width);
    atomic_store(&session->frame_height, last->height);
    sched_place(s, session);
}

/* ---- states that are stored ---------------------------------------------------------------------
 */

/* The session's state goes to the store. `then`, or NULL, ends when it is there. */
static void keep(struct sched *s, struct session *session, struct command *then)
{
    void *state = NULL;
    size_t len = 0;
    enum err e = session->stream ? stream_export(session->stream, &state, &len) : ERR_OK;
    if (!e || e == ERR_NOT_FOUND || e == ERR_UNSUPPORTED) { /* these have none */
        handover_keep(s->handover, session, state, len, then);
        return;
    }
    log_event(LOG_WARNING, "keep_failed", "stream=%s error=%s", session->id, log_text(err_text()));
    handover_failed(s->handover, session, then);
    if (then)
        sched_end_command(then, then->kind == COMMAND_LEAVE ? e : ERR_OK);
}

/* Snapshots of those of the batch that are due. */
static void keep_due(struct sched *s, struct session *const *session, int count)
{
    int kept = 0;
    for (int i = 0; s->handover && i < count; i++) {
        if (session[i]->stream && handover_due(s->handover, session[i], kept)) {
            keep(s, session[i], NULL);
            kept++;
        }
    }
}

/* ---- batches ------------------------------------------------------------------------------------
 */

/* The batch in the engine's terms. */
struct step_args {
    struct engine_run run[BATCH_MAX];
    struct image image[BATCH_MAX];
    uint8_t *labels[BATCH_MAX];
    uint64_t frames_before[BATCH_MAX]; /* by run */
};

/* The session's state on the device, with room for what these frames make of it. One that they do
 * not go on from stays where it is: it ends with the batch. */
static enum err prepare_state(struct sched *s, struct session *session, const struct item *first,
                              int count)
{
    const struct session_params *p = &session->params;
    struct geometry g;
    TRY(open_stream(session));
    TRY(engine_geometry(&p->model->model->arch, first->width, first->height,
                        p->stream.resize_override ? &p->stream.resize : NULL, &g));
    uint64_t after = stream_state_bytes_after(session->stream, &g, count);
    if (!stream_continues(session->stream, &g))
        return sched_room(s, session, after);
    uint64_t spilled = stream_spilled_bytes(session->stream);
    TRY(sched_room(s, session, after > spilled ? after : spilled));
    return sched_fetch(s, session);
}

/* A stream with its state, room for that, and for the labels. */
static enum err prepare(struct sched *s, struct session *session, struct item *const *item,
                        int count)
{
    TRY(prepare_state(s, session, item[0], count));
    for (int i = 0; i < count; i++) {
        size_t pixels = (size_t)item[i]->width * (size_t)item[i]->height;
        if (!item[i]->silent && !item[i]->labels && !(item[i]->labels = malloc(pixels)))
            return err_set(ERR_NOMEM, "no memory for labels");
    }
    return ERR_OK;
}

static void fail_items(struct item *const *item, int count, enum err e)
{
    for (int i = 0; i < count; i++)
        item_fail(item[i], e);
}

/* Drops runs that cannot be: their items have an error. */
static void prepare_all(struct sched *s, struct batch *b)
{
    int kept = 0;
    sched_room_begin(s);
    for (int i = 0; i < b->runs; i++) {
        struct item *const *item = &b->item[b->run[i].first];
        enum err e = noted(s, b->model, prepare(s, b->run[i].session, item, b->run[i].count));
        if (e)
            fail_items(item, b->run[i].count, e);
        else
            b->run[kept++] = b->run[i];
    }
    b->runs = kept;
}

static struct engine_run engine_run_of(struct step_args *j, const struct batch *b, int run)
{
    int first = b->run[run].first;
    for (int i = first; i < first + b->run[run].count; i++) {
        const struct item *item = b->item[i];
        j->image[i] = (struct image){item->rgb, item->width, item->height, 3 * item->width};
        j->labels[i] = item->labels;
    }
    j->frames_before[run] = stream_frames(b->run[run].session->stream);
    return (struct engine_run){.stream = b->run[run].session->stream,
                               .count = b->run[run].count,
                               .frames = &j->image[first],
                               .labels = &j->labels[first]};
}

/* One frame after the other, so that one that fails fails alone. */
static void step_each(struct sched *s, struct batch *b, const struct step_args *j)
{
    for (int i = 0; i < b->runs; i++) {
        for (int k = b->run[i].first; k < b->run[i].first + b->run[i].count; k++) {
            uint64_t before = stream_frames(j->run[i].stream);
            const struct engine_run one = {j->run[i].stream, 1, &j->image[k], &j->labels[k], NULL};
            enum err e = engine_step(b->model->engine, &one, 1);
            if (e)
                item_fail(b->item[k], e);
            else
                applied(s, b->run[i].session, &b->item[k], 1, before);
        }
    }
}

/* Returns whether the batch is under way; else it is done, or failed, frame by frame. */
static bool start(struct sched *s, struct batch *b)
{
    struct step_args j;
    if (b->runs == 0)
        return false;
    for (int i = 0; i < b->runs; i++)
        j.run[i] = engine_run_of(&j, b, i);
    enum err e = noted(s, b->model, engine_submit(b->model->engine, j.run, b->runs));
    if (e) {
        log_event(LOG_WARNING, "batch_failed", "model=%s frames=%d error=%s", b->model->name,
                  b->frames, log_text(err_text()));
        sched_end_ahead(s);
        step_each(s, b, &j);
        return false;
    }
    for (int i = 0; i < b->runs; i++)
        applied(s, b->run[i].session, &b->item[b->run[i].first], b->run[i].count,
                j.frames_before[i]);
    return true;
}

static void measure(struct sched *s, const struct batch *b, uint64_t began, uint64_t ended)
{
    double seconds = (double)(ended - began) * 1e-9, gflop = 0;
    for (int i = 0; i < b->frames; i++) {
        gflop += b->item[i]->gflop;
        metric_observe(s->metrics, METRIC_SECONDS_QUEUE,
                       (double)(began - b->item[i]->decoded) * 1e-9);
        metric_observe(s->metrics, METRIC_SECONDS_ENGINE, seconds);
    }
    for (int i = 0; i < b->frames; i++)
        sched_charge(s, b->item[i]->session, seconds * b->item[i]->gflop / gflop, ended);
    metric_add(s->metrics, METRIC_BATCHES, 1);
    metric_add(s->metrics, METRIC_BATCH_FRAMES, b->frames);
    metric_set(s->metrics, METRIC_BATCH_OCCUPANCY,
               (double)b->frames / (double)s->config->batch_max);
    metric_set(s->metrics, METRIC_ENGINE_GFLOPS, seconds > 0 ? gflop / seconds : 0);
}

static void send_on(struct sched *s, struct batch *b)
{
    for (int i = 0; i < b->frames; i++) {
        struct item *item = b->item[i];
        item->batched = b->began;
        item->labelled = s->free_since;
        if (item->error)
            item_deliver(item, s->metrics);
        else
            workers_encode(s->workers, item);
    }
    keep_due(s, b->held, b->holds);
    for (int i = 0; i < b->holds; i++) {
        sched_settle(s, b->held[i]); /* commands that waited for these frames */
        session_unref(b->held[i]);
    }
}

static struct model_state *model_of(struct sched *s, const struct batch *b)
{
    int i = 0;
    while (models_at(s->models, i) != b->model)
        i++;
    return &s->model[i];
}

/* What was computed goes on. Time that the engine had for the batch before is not this one's. */
static void end_batch(struct sched *s, struct batch *b)
{
    uint64_t now = clock_ns();
    measure(s, b, b->began > s->free_since ? b->began : s->free_since, now);
    s->free_since = now;
    send_on(s, b);
}

/* A device that fails fails in a wait, for good; nothing else does. */
static void wait_for(struct sched *s, struct batch *b)
{
    enum err e = noted(s, b->model, engine_wait(b->model->engine));
    for (int i = 0; e && i < b->runs; i++)
        fail_items(&b->item[b->run[i].first], b->run[i].count, e);
    if (!e)
        model_of(s, b)->ok = clock_ns();
    end_batch(s, b);
}

void sched_end_ahead(struct sched *s)
{
    struct batch b = s->ahead;
    s->ahead.frames = 0;
    if (b.frames > 0)
        wait_for(s, &b);
}

void sched_run_batch(struct sched *s)
{
    struct batch *b = &s->batch;
    b->began = clock_ns();
    for (b->holds = 0; b->holds < b->runs; b->holds++)
        b->held[b->holds] = session_ref(b->run[b->holds].session); /* items may be the last to */
    prepare_all(s, b);
    s->last_runs = b->runs;
    bool under_way = start(s, b);
    if (under_way && s->ahead.frames > 0)
        metric_add(s->metrics, METRIC_BATCHES_AHEAD, 1);
    sched_end_ahead(s);
    if (under_way && engine_depth(b->model->engine) > 1)
        s->ahead = *b;
    else if (under_way)
        wait_for(s, b);
    else
        end_batch(s, b);
}

/* ---- commands -----------------------------------------------------------------------------------
 */

struct newcomer {
    struct sched *sched;
    struct session *session;
};

static enum err room_for_import(void *newcomer, size_t bytes)
{
    struct newcomer *n = newcomer;
    sched_room_begin(n->sched);
    return sched_room(n->sched, n->session, bytes);
}

static enum err run_command(struct sched *s, struct session *session, struct command *c)
{
    if (atomic_load(&session->dead))
        return err_set(ERR_NOT_FOUND, "stream '%s' was deleted", session->id);
    TRY(open_stream(session));
    switch (c->kind) {
    case COMMAND_RESET:
        stream_reset(session->stream);
        return ERR_OK;
    case COMMAND_EXPORT:
        return stream_export(session->stream, &c->data, &c->len);
    case COMMAND_IMPORT:
        return stream_import(session->stream, c->data, c->len, room_for_import,
                             &(struct newcomer){s, session});
    case COMMAND_KEEP:
        return ERR_OK;
    case COMMAND_LEAVE:
        if (!s->handover || !atomic_load(&session->lease.ours))
            return err_set(ERR_BUSY, "stream '%s' has no lease", session->id);
        atomic_store(&session->phase, SESSION_LEAVING);
        atomic_store(&session->dead, true);
        return ERR_OK;
    }
    return err_set(ERR_INTERNAL, "command %d", (int)c->kind);
}

void sched_end_command(struct command *c, enum err e)
{
    struct session *session = c->session;
    c->error = e;
    snprintf(c->error_text, sizeof c->error_text, "%s", e ? err_text() : "");
    c->done(c);
    session_unref(session);
}

void sched_run_command(struct sched *s, struct command *c)
{
    struct session *session = c->session;
    enum err e = noted(s, session->params.model, run_command(s, session, c));
    if (session->stream)
        sched_place(s, session);
    bool stores = s->handover && c->kind != COMMAND_EXPORT && atomic_load(&session->lease.ours);
    if (c->kind != COMMAND_KEEP)
        atomic_store(&session->touched, clock_ns());
    if (!e && stores)
        keep(s, session, c);
    else
        sched_end_command(c, e);
}

/* ---- probes -------------------------------------------------------------------------------------
 */

static enum err probe_engine(struct engine *e)
{
    uint8_t rgb[PROBE_SIDE * PROBE_SIDE * 3], labels[PROBE_SIDE * PROBE_SIDE], *out = labels;
    const struct stream_config c = {
        .mode = MODE_FRAME, .resize_override = true, .resize = {.kind = RESIZE_NATIVE}};
    const struct image image = {rgb, PROBE_SIDE, PROBE_SIDE, 3 * PROBE_SIDE};
    struct engine_run run = {.count = 1, .frames = &image, .labels = &out};
    memset(rgb, 128, sizeof rgb);
    TRY(stream_open(e, &c, &run.stream));
    enum err r = engine_step(e, &run, 1);
    stream_close(run.stream);
    return r;
}

enum err sched_run_probe(struct sched *s)
{
    sched_end_ahead(s);
    for (int i = 0; i < models_count(s->models); i++) {
        struct served_model *m = models_at(s->models, i);
        if (s->model[i].ok && clock_ns() - s->model[i].ok < probe_age)
            continue;
        enum err e = noted(s, m, probe_engine(m->engine));
        if (e)
            return err_context(e, "model '%s'", m->name);
        s->model[i].ok = clock_ns();
    }
    return ERR_OK;
}
