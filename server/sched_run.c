/* What the engine thread does with the engine: batches, commands, probes. */
#include "server/sched_parts.h"

#include "server/handover.h"
#include "server/log.h"

#include "base/try.h"
#include "sandbox/device_pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PROBE_SIDE = 64 };
static const uint64_t probe_age = 5000000000u; /* nanoseconds that a proof of life counts */

/* What the engine of this model says, passed on. ERR_DEVICE is for good: the thread goes on without
 * the device (sched.c), and the daemon ends. */
enum err lane_note(struct lane *l, const struct served_model *m, enum err e)
{
    if (e == ERR_DEVICE && !lane_failure(l)) {
        snprintf(l->failure, sizeof l->failure, "model '%s': %s", m->name, err_text());
        log_event(LOG_ERROR, "device_failed", "device=%s model=%s error=%s",
                  models_device(l->models, l->device), m->name, log_text(err_text()));
        atomic_store(&l->failed, true);
    }
    return e;
}

/* ---- one session --------------------------------------------------------------------------------
 */

static enum err open_stream(struct session *session)
{
    if (session->stream)
        return ERR_OK;
    return stream_open(session->params.model->engine[session_lane(session)->device],
                       &session->params.stream, &session->stream);
}

void sched_run_release(struct lane *l, struct session *session)
{
    stream_close(session->stream);
    session->stream = NULL;
    sched_place(l, session);
    session_free(session);
}

/* Frames were applied: what follows for the first of them and for the session. */
static void applied(struct lane *l, struct session *session, struct item *const *item, int count,
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
    sched_place(l, session);
}

/* ---- states that are stored ---------------------------------------------------------------------
 */

/* *state is NULL where there is none. Of a device that failed nothing is told, as of a frame that
 * was labelled by then and is not answered. ERR_BUSY: another time. */
static enum err state_to_keep(struct lane *l, const struct session *session,
                              const struct command *then, void **state, size_t *len)
{
    if (lane_failure(l))
        return err_set(ERR_DEVICE, "%s", lane_failure(l));
    if (then && then->kind == COMMAND_KEEP && !handover_room(l->handover))
        return err_set(ERR_BUSY, "too many states are on their way");
    enum err e = session->stream ? stream_export(session->stream, state, len) : ERR_OK;
    return e == ERR_NOT_FOUND || e == ERR_UNSUPPORTED ? ERR_OK : e; /* these have none */
}

/* The session's state goes to the store. `then`, or NULL, ends when it is there. */
static void keep(struct lane *l, struct session *session, struct command *then)
{
    void *state = NULL;
    size_t len = 0;
    enum err e = state_to_keep(l, session, then, &state, &len);
    if (!e) {
        handover_keep(l->handover, session, state, len, then);
        return;
    }
    log_event(e == ERR_BUSY ? LOG_DEBUG : LOG_WARNING, "keep_failed", "stream=%s error=%s",
              session->id, log_text(err_text()));
    handover_failed(l->handover, session, then);
    if (then)
        sched_end_command(then, then->kind == COMMAND_LEAVE ? e : ERR_OK);
}

/* Snapshots of those of the batch that are due. */
static void keep_due(struct lane *l, struct session *const *session, int count)
{
    int kept = 0;
    for (int i = 0; l->handover && i < count; i++) {
        if (session[i]->stream && handover_due(l->handover, session[i], kept)) {
            keep(l, session[i], NULL);
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
static enum err prepare_state(struct lane *l, struct session *session, const struct item *first,
                              int count)
{
    const struct session_params *p = &session->params;
    struct geometry g;
    TRY(open_stream(session));
    TRY(engine_geometry(&p->model->model->arch, first->width, first->height,
                        p->stream.resize_override ? &p->stream.resize : NULL, &g));
    uint64_t after = stream_state_bytes_after(session->stream, &g, count);
    if (!stream_continues(session->stream, &g))
        return sched_room(l, session, after);
    uint64_t spilled = stream_spilled_bytes(session->stream);
    TRY(sched_room(l, session, after > spilled ? after : spilled));
    return sched_fetch(l, session);
}

/* A stream with its state, room for that, and for the labels. */
static enum err prepare(struct lane *l, struct session *session, struct item *const *item,
                        int count)
{
    TRY(prepare_state(l, session, item[0], count));
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
static void prepare_all(struct lane *l, struct batch *b)
{
    int kept = 0;
    sched_room_begin(l);
    for (int i = 0; i < b->runs; i++) {
        struct item *const *item = &b->item[b->run[i].first];
        enum err e = lane_note(l, b->model, prepare(l, b->run[i].session, item, b->run[i].count));
        if (e)
            fail_items(item, b->run[i].count, e);
        else
            b->run[kept++] = b->run[i];
    }
    b->runs = kept;
}

/* Pictures on a device are a decoder's, which makes NV12 alone. */
static enum metric_id given(const struct image *image)
{
    return image->on_device                      ? METRIC_GIVEN_NV12_DEVICE
           : image->format.layout == PIXELS_NV12 ? METRIC_GIVEN_NV12
                                                 : METRIC_GIVEN_RGB24;
}

static struct engine_run engine_run_of(struct lane *l, struct step_args *j, const struct batch *b,
                                       int run)
{
    int first = b->run[run].first;
    for (int i = first; i < first + b->run[run].count; i++) {
        const struct item *item = b->item[i];
        j->image[i] = image_of(item->picture ? device_picture_pixels(item->picture) : item->pixels,
                               item->width, item->height, item->pixel_format);
        j->image[i].on_device = item->picture != NULL;
        j->labels[i] = item->labels;
        metric_add(l->metrics, given(&j->image[i]), 1);
    }
    j->frames_before[run] = stream_frames(b->run[run].session->stream);
    return (struct engine_run){.stream = b->run[run].session->stream,
                               .count = b->run[run].count,
                               .frames = &j->image[first],
                               .labels = &j->labels[first]};
}

/* One frame after the other, so that one that fails fails alone. */
static void step_each(struct lane *l, struct batch *b, const struct step_args *j)
{
    for (int i = 0; i < b->runs; i++) {
        for (int k = b->run[i].first; k < b->run[i].first + b->run[i].count; k++) {
            uint64_t before = stream_frames(j->run[i].stream);
            const struct engine_run one = {j->run[i].stream, 1, &j->image[k], &j->labels[k], NULL};
            enum err e = engine_step(b->model->engine[l->device], &one, 1);
            if (e)
                item_fail(b->item[k], e);
            else
                applied(l, b->run[i].session, &b->item[k], 1, before);
        }
    }
}

/* Returns whether the batch is under way; else it is done, or failed, frame by frame. */
static bool start(struct lane *l, struct batch *b)
{
    struct step_args j;
    if (b->runs == 0)
        return false;
    for (int i = 0; i < b->runs; i++)
        j.run[i] = engine_run_of(l, &j, b, i);
    enum err e = lane_note(l, b->model, engine_submit(b->model->engine[l->device], j.run, b->runs));
    if (e) {
        log_event(LOG_WARNING, "batch_failed", "model=%s frames=%d error=%s", b->model->name,
                  b->frames, log_text(err_text()));
        sched_end_ahead(l);
        step_each(l, b, &j);
        return false;
    }
    for (int i = 0; i < b->runs; i++)
        applied(l, b->run[i].session, &b->item[b->run[i].first], b->run[i].count,
                j.frames_before[i]);
    return true;
}

static void measure(struct lane *l, const struct batch *b, uint64_t began, uint64_t ended)
{
    double seconds = (double)(ended - began) * 1e-9;
    for (int i = 0; i < b->frames; i++) {
        metric_observe(l->metrics, METRIC_SECONDS_QUEUE,
                       (double)(began - b->item[i]->decoded) * 1e-9);
        metric_observe(l->metrics, METRIC_SECONDS_ENGINE, seconds);
    }
    for (int i = 0; i < b->frames; i++)
        sched_charge(l, b->item[i]->session, seconds * b->item[i]->gflop / b->gflop, ended);
    metric_engine_add(l->metrics, l->device, METRIC_ENGINE_BATCHES, 1);
    metric_engine_add(l->metrics, l->device, METRIC_ENGINE_FRAMES, b->frames);
    metric_add(l->metrics, METRIC_BATCHES, 1);
    metric_add(l->metrics, METRIC_BATCH_FRAMES, b->frames);
    metric_set(l->metrics, METRIC_BATCH_OCCUPANCY,
               (double)b->frames / (double)l->config->batch_max);
    metric_set(l->metrics, METRIC_ENGINE_GFLOPS, seconds > 0 ? b->gflop / seconds : 0);
}

static void send_on(struct lane *l, struct batch *b)
{
    for (int i = 0; i < b->frames; i++) {
        struct item *item = b->item[i];
        item->batched = b->began;
        item->labelled = l->free_since;
        device_picture_release(item->picture);
        item->picture = NULL;
        if (item->error)
            item_deliver(item, l->metrics);
        else
            workers_encode(l->workers, item);
    }
    keep_due(l, b->held, b->holds);
    for (int i = 0; i < b->holds; i++) {
        sched_settle(l, b->held[i]); /* commands that waited for these frames */
        session_unref(b->held[i]);
    }
}

static struct model_state *model_of(struct lane *l, const struct batch *b)
{
    int i = 0;
    while (models_at(l->models, i) != b->model)
        i++;
    return &l->model[i];
}

/* What was computed goes on. Time that the engine had for the batch before is not this one's. */
static void end_batch(struct lane *l, struct batch *b)
{
    uint64_t now = clock_ns();
    measure(l, b, b->began > l->free_since ? b->began : l->free_since, now);
    l->free_since = now;
    send_on(l, b);
}

/* A device that fails fails in a wait, for good; nothing else does. */
static void wait_for(struct lane *l, struct batch *b)
{
    enum err e = lane_note(l, b->model, engine_wait(b->model->engine[l->device]));
    for (int i = 0; e && i < b->runs; i++)
        fail_items(&b->item[b->run[i].first], b->run[i].count, e);
    if (!e)
        model_of(l, b)->ok = clock_ns();
    end_batch(l, b);
}

void sched_end_ahead(struct lane *l)
{
    struct batch b = l->ahead;
    l->ahead.frames = 0;
    if (b.frames > 0)
        wait_for(l, &b);
}

void sched_run_batch(struct lane *l)
{
    struct batch *b = &l->batch;
    b->began = clock_ns();
    for (b->holds = 0; b->holds < b->runs; b->holds++)
        b->held[b->holds] = session_ref(b->run[b->holds].session); /* items may be the last to */
    prepare_all(l, b);
    l->last_runs = b->runs;
    bool under_way = start(l, b);
    if (under_way && l->ahead.frames > 0)
        metric_add(l->metrics, METRIC_BATCHES_AHEAD, 1);
    sched_end_ahead(l);
    if (under_way && engine_depth(b->model->engine[l->device]) > 1)
        l->ahead = *b;
    else if (under_way)
        wait_for(l, b);
    else
        end_batch(l, b);
}

/* ---- commands -----------------------------------------------------------------------------------
 */

struct newcomer {
    struct lane *lane;
    struct session *session;
};

static enum err room_for_import(void *newcomer, size_t bytes)
{
    struct newcomer *n = newcomer;
    sched_room_begin(n->lane);
    return sched_room(n->lane, n->session, bytes);
}

/* Others' idle states go to make room. Where that is not enough the state comes in all the same. */
static enum err room_for_move(void *newcomer, size_t bytes)
{
    room_for_import(newcomer, bytes);
    return ERR_OK;
}

static enum err run_command(struct lane *l, struct session *session, struct command *c)
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
                             &(struct newcomer){l, session});
    case COMMAND_MOVE: /* beyond max_state_bytes rather than not at all */
        return stream_import(session->stream, c->data, c->len, room_for_move,
                             &(struct newcomer){l, session});
    case COMMAND_KEEP:
        return ERR_OK;
    case COMMAND_LEAVE:
        if (!l->handover || !atomic_load(&session->lease.ours))
            return err_set(ERR_BUSY, "stream '%s' has no lease", session->id);
        session_leave(session);
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

void sched_run_command(struct lane *l, struct command *c)
{
    struct session *session = c->session;
    enum err e = lane_note(l, session->params.model, run_command(l, session, c));
    if (session->stream)
        sched_place(l, session);
    bool stores = l->handover && c->kind != COMMAND_EXPORT && c->kind != COMMAND_MOVE &&
                  atomic_load(&session->lease.ours);
    if (c->kind != COMMAND_KEEP && c->kind != COMMAND_MOVE)
        atomic_store(&session->touched, clock_ns());
    if (!e && stores)
        keep(l, session, c);
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
    const struct image image = image_of_rgb24(rgb, PROBE_SIDE, PROBE_SIDE);
    struct engine_run run = {.count = 1, .frames = &image, .labels = &out};
    memset(rgb, 128, sizeof rgb);
    TRY(stream_open(e, &c, &run.stream));
    enum err r = engine_step(e, &run, 1);
    stream_close(run.stream);
    return r;
}

enum err sched_run_probe(struct lane *l)
{
    sched_end_ahead(l);
    for (int i = 0; i < models_count(l->models); i++) {
        struct served_model *m = models_at(l->models, i);
        if (l->model[i].ok && clock_ns() - l->model[i].ok < probe_age)
            continue;
        enum err e = lane_note(l, m, probe_engine(m->engine[l->device]));
        if (e)
            return err_context(e, "model '%s'", m->name);
        l->model[i].ok = clock_ns();
    }
    return ERR_OK;
}
