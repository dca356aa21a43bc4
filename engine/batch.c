/* Batches: engine_submit, engine_wait, engine_step.
 *
 *   submit:  runs -> struct step: plans, buffers for what the runs leave -> the backend starts it
 *            -> the streams have what they will have when it succeeds (apply)
 *   wait:    the backend finishes it -> what the streams had before goes back (settle)
 *                                or, after an error, is what they have again (undo)
 *
 * So the next batch may be submitted before the last one is done, of the same streams too: it
 * continues from buffers that the device fills first. Nothing that a stream had before a batch is
 * written by it. What may fail before the device starts (arguments, memory) fails in submit and
 * changes nothing. After that only the device itself can fail: then all batches under way have
 * failed, the later ones being made of what the earlier ones left. */
#include "engine/step.h"

#include "base/try.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- from runs to a step ------------------------------------------------------------------------
 */

static enum err check_frame(const struct engine *e, const struct image *f)
{
    const struct pixel_format *p = &f->format;
    if ((unsigned)p->layout >= PIXELS_LAYOUTS || (unsigned)p->matrix >= YUV_MATRICES ||
        !f->pixels || f->stride < (ptrdiff_t)pixels_row(p->layout, f->width))
        return err_set(ERR_ARG, "a frame must have pixels of a known format, and whole rows");
    if (f->on_device && !engine_takes_nv12(e))
        return err_set(ERR_UNSUPPORTED, "%s takes no pixels of a device", engine_description(e));
    if (f->on_device && f->stride != (ptrdiff_t)pixels_row(p->layout, f->width))
        return err_set(ERR_ARG, "the rows of a frame on a device must be packed");
    if (p->layout != PIXELS_NV12)
        return ERR_OK;
    if (!engine_takes_nv12(e))
        return err_set(ERR_UNSUPPORTED, "%s takes no NV12", engine_description(e));
    return pixels_nv12_size(f->width, f->height)
               ? ERR_OK
               : err_set(ERR_ARG, "NV12 of %dx%d", f->width, f->height);
}

static enum err check_run(const struct engine *e, const struct engine_run *r)
{
    if (!r->stream || r->stream->engine != e || r->count < 1 || r->count > ENGINE_RUN_MAX)
        return err_set(ERR_ARG, "a run needs a stream of this engine and 1 to %d frames",
                       ENGINE_RUN_MAX);
    if (r->stream->in_batch)
        return err_set(ERR_ARG, "a batch has two runs of one stream");
    for (int i = 0; i < r->count; i++) {
        const struct image *f = &r->frames[i];
        if (f->width != r->frames[0].width || f->height != r->frames[0].height)
            return err_set(ERR_ARG, "the frames of a run must have one size");
        TRY(check_frame(e, f));
    }
    return ERR_OK;
}

static enum err nomem(void)
{
    return err_set(ERR_NOMEM, "out of memory for a batch");
}

/* Buffers for what the run leaves: its state, or its features. */
static enum err take_buffers(struct engine *e, struct work *w)
{
    enum stream_mode mode = w->stream->config.mode;
    void *p;
    if (mode == MODE_STREAM && e->model->arch.head == HEAD_TV3S) {
        TRY(engine_take(e, step_state_bytes(w->plan), &p));
        w->state = p;
    }
    if (mode != MODE_CLIP)
        return ERR_OK;
    w->feature = calloc((size_t)w->count, sizeof *w->feature);
    if (!w->feature)
        return nomem();
    for (int i = 0; i < w->count; i++)
        TRY(engine_take(e, engine_feature_bytes(e, w->plan), &w->feature[i]));
    return ERR_OK;
}

static enum err add_run(struct step *s, const struct engine_run *r)
{
    struct work *w = &s->work[s->runs];
    TRY(check_run(s->e, r));
    w->run = r;
    w->count = r->count;
    w->stream = r->stream;
    w->stream->in_batch = true;
    s->runs++;
    s->frames += r->count;
    TRY(engine_plan(s->e, &w->stream->config, r->frames[0].width, r->frames[0].height, &w->plan));
    w->plan->users++;
    w->fresh = w->stream->held.plan != w->plan;
    if (!w->fresh)
        TRY(stream_fetch(w->stream));
    return take_buffers(s->e, w);
}

static enum err fill_step(struct step *s, const struct engine_run *runs, int count)
{
    int most = 0;
    s->work = calloc((size_t)count, sizeof *s->work);
    if (!s->work)
        return nomem();
    for (int i = 0; i < count; i++) {
        TRY(add_run(s, &runs[i]));
        most = runs[i].count > most ? runs[i].count : most;
    }
    s->frame = malloc((size_t)s->frames * sizeof *s->frame);
    if (!s->frame)
        return nomem();
    s->frames = 0;
    for (int j = 0; j < most; j++)
        for (int i = 0; i < count; i++)
            if (j < runs[i].count)
                s->frame[s->frames++] = (struct frame_ref){&s->work[i], j};
    return ERR_OK;
}

/* ---- what becomes of the streams ----------------------------------------------------------------
 */

static void apply(struct work *w)
{
    struct stream *s = w->stream;
    struct held *h = &s->held;
    w->before = *h;
    if (w->fresh) {
        *h = (struct held){.plan = w->plan};
        w->plan->users++;
    }
    if (w->state)
        h->state = w->state;
    for (int i = 0; w->feature && i < w->count; i++)
        h->history[(h->frames + (uint64_t)i) % stream_history(s)] = w->feature[i];
    h->frames += (uint64_t)w->count;
    w->after = *h;
    s->flights++;
}

static bool holds(const struct held *h, const void *p)
{
    bool found = h->state == p;
    for (int i = 0; !found && i < CLIP_HISTORY; i++)
        found = h->history[i] == p;
    return found;
}

static void give_unless(struct engine *e, const struct held *kept, void *p, size_t bytes)
{
    if (p && !(kept && holds(kept, p)))
        engine_give(e, p, bytes);
}

/* What the run made goes back, but for what `kept` has of it. NULL: all. */
static void give_made(struct engine *e, const struct work *w, const struct held *kept)
{
    if (!w->plan)
        return;
    give_unless(e, kept, w->state, step_state_bytes(w->plan));
    for (int i = 0; w->feature && i < w->count; i++)
        give_unless(e, kept, w->feature[i], engine_feature_bytes(e, w->plan));
}

/* The batch succeeded: what the stream had before and has no more goes back. */
static void settle(struct engine *e, struct work *w)
{
    struct held *b = &w->before;
    give_made(e, w, &w->after);
    if (b->plan) {
        give_unless(e, &w->after, b->state, step_state_bytes(b->plan));
        for (int i = 0; i < CLIP_HISTORY; i++)
            give_unless(e, &w->after, b->history[i], engine_feature_bytes(e, b->plan));
        b->plan->users -= w->fresh;
    }
    if (b->spilled)
        e->be->ops->host_give(e->be, b->spilled, b->spilled_bytes);
    w->stream->flights--;
}

static void undo(struct engine *e, struct work *w)
{
    give_made(e, w, NULL);
    w->plan->users -= w->fresh;
    w->stream->held = w->before;
    w->stream->flights--;
}

static void step_close(struct step *s)
{
    for (int i = 0; i < s->runs; i++) {
        if (s->work[i].plan)
            s->work[i].plan->users--;
        free(s->work[i].feature);
    }
    free(s->work);
    free(s->frame);
    free(s);
}

/* ---- batches under way --------------------------------------------------------------------------
 */

static void land(struct flight *f, enum err result)
{
    step_close(f->step);
    f->step = NULL;
    f->result = result;
    snprintf(f->why, sizeof f->why, "%s", result == ERR_OK ? "" : err_text());
}

/* The device failed in the batch `first`: no later one counts, and the last made is undone first.
 */
static void crash(struct engine *e, int first, enum err result)
{
    for (int i = e->flights - 1; i >= first; i--) {
        struct step *s = e->flight[i].step;
        for (int j = 0; j < s->runs; j++)
            undo(e, &s->work[j]);
        land(&e->flight[i], result);
    }
}

static void finish(struct engine *e, int index)
{
    struct flight *f = &e->flight[index];
    if (!f->step)
        return;
    enum err r = e->be->ops->finish(e->be);
    if (r != ERR_OK) {
        crash(e, index, r);
        return;
    }
    for (int i = 0; i < f->step->runs; i++)
        settle(e, &f->step->work[i]);
    land(f, ERR_OK);
}

void engine_drain(struct engine *e)
{
    engine_enter(e);
    for (int i = 0; i < e->flights; i++)
        finish(e, i);
}

static enum err start(struct step *s, const struct engine_run *runs, int count)
{
    struct backend *be = s->e->be;
    engine_enter(s->e);
    enum err r = fill_step(s, runs, count);
    if (r == ERR_OK)
        r = be->ops->start(be, step_walk, s);
    for (int i = 0; i < s->runs; i++) {
        s->work[i].stream->in_batch = false;
        if (r == ERR_OK)
            apply(&s->work[i]);
        else
            give_made(s->e, &s->work[i], NULL);
    }
    return r;
}

enum err engine_submit(struct engine *e, const struct engine_run *runs, int count)
{
    if (count < 1)
        return err_set(ERR_ARG, "a batch needs a run");
    if (e->flights == e->be->depth)
        return err_set(ERR_BUSY, "%d batches are under way", e->flights);
    struct step *s = calloc(1, sizeof *s);
    if (!s)
        return nomem();
    s->e = e;
    enum err r = start(s, runs, count);
    if (r == ERR_OK)
        e->flight[e->flights++] = (struct flight){.step = s};
    else
        step_close(s);
    return r;
}

enum err engine_wait(struct engine *e)
{
    struct flight f;
    if (e->flights == 0)
        return err_set(ERR_ARG, "no batch is under way");
    engine_enter(e);
    finish(e, 0);
    f = e->flight[0];
    e->flights--;
    memmove(&e->flight[0], &e->flight[1], (size_t)e->flights * sizeof f);
    return f.result == ERR_OK ? ERR_OK : err_set(f.result, "%s", f.why);
}

enum err engine_step(struct engine *e, const struct engine_run *runs, int count)
{
    if (count < 1)
        return ERR_OK;
    TRY(engine_submit(e, runs, count));
    return engine_wait(e);
}

int engine_depth(const struct engine *e)
{
    return e->be->depth;
}
