/* The pipeline: three threads, three queues, a handful of slots.
 *
 *        +------------------------- idle <------------------------+
 *        v                                                        |
 *     decode thread --> decoded --> engine (main) --> labelled --> encode thread
 *
 * A slot is a frame and its labels. The slots go round, so the pipeline holds batch + 4 frames and
 * allocates nothing once it runs. A slot belongs to the queue or the thread that has it; all of
 * them are freed by the one who made them, after the threads are gone.
 *
 * Whoever fails first records the error and stops all queues; the others wake, find ERR_CANCELLED,
 * and leave. An interrupt is such a failure. The output is committed by the encode thread when the
 * labelled queue has ended well, and aborted otherwise, so it is whole or absent. */
#include "tools/segment.h"

#include "base/queue.h"
#include "kernels/device_memory.h"
#include "media/sink.h"
#include "tools/input.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct slot {
    struct frame frame;
    struct device_memory *memory; /* of pictures on the device, or NULL */
    uint8_t *labels;
    size_t capacity;
};

struct pipeline {
    const struct segment_job *job;
    struct model *model;
    struct input *input;
    struct sink *sink; /* the encode thread's; it commits or aborts */
    struct engine *engine;
    struct stream *stream;
    bool draws; /* over the frames, which are to be RGB24 then */
    struct queue *idle, *decoded, *labelled;
    struct slot *slots;
    size_t slot_count;
    struct segment_result result;

    pthread_mutex_t lock; /* guards error and text */
    enum err error;       /* the first */
    char text[512];
    atomic_bool stopped;
};

/* ---- errors -------------------------------------------------------------------------------------
 */

/* Records the calling thread's error if it is the first, and has everybody leave. */
static void fail(struct pipeline *p, enum err e)
{
    pthread_mutex_lock(&p->lock);
    if (!p->error) {
        p->error = e;
        snprintf(p->text, sizeof p->text, "%s", err_text());
    }
    pthread_mutex_unlock(&p->lock);
    atomic_store(&p->stopped, true);
    queue_stop(p->idle);
    queue_stop(p->decoded);
    queue_stop(p->labelled);
}

static bool leaving(void *pipeline)
{
    const struct pipeline *p = pipeline;
    return atomic_load(&p->stopped) || atomic_load(p->job->interrupt);
}

static void warn(void *pipeline, const char *text)
{
    const struct pipeline *p = pipeline;
    progress_warn(p->job->progress, text);
}

/* ---- decode thread ------------------------------------------------------------------------------
 */

static enum err decode_all(struct pipeline *p)
{
    for (;;) {
        struct slot *slot;
        bool end = false;
        enum err e = queue_get(p->idle, (void **)&slot);
        if (!e && leaving(p))
            e = err_set(ERR_CANCELLED, "interrupted");
        if (!e)
            e = input_next(p->input, &slot->frame, &slot->memory, &end);
        if (e || end)
            return e;
        e = queue_put(p->decoded, slot);
        if (e)
            return e;
    }
}

static void *decode_thread(void *pipeline)
{
    struct pipeline *p = pipeline;
    enum err e = decode_all(p);
    if (e)
        fail(p, e);
    queue_finish(p->decoded);
    return NULL;
}

/* ---- engine (the calling thread) ----------------------------------------------------------------
 */

static enum err reserve_labels(struct slot *s)
{
    size_t need = (size_t)s->frame.width * (size_t)s->frame.height;
    if (need <= s->capacity)
        return ERR_OK;
    free(s->labels);
    s->capacity = 0;
    s->labels = malloc(need);
    if (!s->labels)
        return err_set(ERR_NOMEM, "no memory for labels of %dx%d", s->frame.width, s->frame.height);
    s->capacity = need;
    return ERR_OK;
}

/* Labels `n` frames of one size and hands them on. */
static enum err label_batch(struct pipeline *p, struct slot **batch, int n)
{
    struct image images[SEGMENT_MAX_BATCH];
    uint8_t *labels[SEGMENT_MAX_BATCH];
    for (int i = 0; i < n; i++) {
        const struct frame *f = &batch[i]->frame;
        enum err e = reserve_labels(batch[i]);
        if (e)
            return e;
        images[i] = image_of(f->device_pixels ? f->device_pixels : f->pixels, f->width, f->height,
                             f->format);
        images[i].on_device = f->device_pixels != NULL;
        labels[i] = batch[i]->labels;
    }
    struct engine_run run = {.stream = p->stream, .count = n, .frames = images, .labels = labels};
    enum err e = engine_step(p->engine, &run, 1);
    for (int i = 0; i < n && !e; i++)
        e = queue_put(p->labelled, batch[i]);
    p->result.frames += n;
    progress_frames(p->job->progress, p->result.frames);
    return e;
}

/* Runs of up to `batch` frames of one size; a new size starts the stream anew (engine_step). A slot
 * that was handed on is not looked at again. */
static enum err label_all(struct pipeline *p)
{
    struct slot *batch[SEGMENT_MAX_BATCH], *next = NULL;
    enum err e = queue_get(p->decoded, (void **)&next);
    while (!e && next) {
        int n = 0, width = next->frame.width, height = next->frame.height;
        do {
            batch[n++] = next;
            e = queue_get(p->decoded, (void **)&next);
        } while (!e && next && next->frame.width == width && next->frame.height == height &&
                 n < p->job->batch);
        if (!e)
            e = label_batch(p, batch, n);
    }
    return e;
}

/* ---- encode thread ------------------------------------------------------------------------------
 */

static enum err encode_all(struct pipeline *p)
{
    for (;;) {
        struct slot *slot;
        enum err e = queue_get(p->labelled, (void **)&slot);
        if (!e && slot)
            e = sink_put(p->sink, &slot->frame, slot->labels);
        if (e || !slot)
            return e;
        queue_put(p->idle, slot); /* refused when the decoder is done: nobody needs it */
    }
}

static void *encode_thread(void *pipeline)
{
    struct pipeline *p = pipeline;
    enum err e = encode_all(p);
    if (!e && leaving(p))
        e = err_set(ERR_CANCELLED, "interrupted");
    if (e) {
        fail(p, e); /* first: clean-up may have errors of its own */
        sink_abort(p->sink);
    } else if ((e = sink_commit(p->sink))) {
        fail(p, e);
    }
    p->sink = NULL;
    return NULL;
}

/* ---- the whole ----------------------------------------------------------------------------------
 */

/* An overlay, as the output's name or the format says, is drawn here over frames that are here. */
static bool is_drawn(const struct segment_job *job)
{
    struct sink_options o;
    return sink_choose(job->output, job->format, &(struct decode_info){0}, &o) == ERR_OK &&
           o.format == MASK_OVERLAY;
}

static enum err open_input(struct pipeline *p)
{
    const struct segment_job *job = p->job;
    bool on_gpu = job->engine.device == DEVICE_CUDA;
    p->draws = is_drawn(job);
    struct input_options in = {
        .path = job->input,
        .device = on_gpu && !p->draws && !job->decode_on_cpu ? job->engine.device_index : -1,
        .why = !on_gpu              ? NULL
               : job->decode_on_cpu ? "as --decoder says"
                                    : "overlays are drawn there",
        .decode = {.threads = on_gpu ? 4 : 1, .report = warn, .cancelled = leaving, .ctx = p},
    };
    return input_open(&in, &p->input);
}

static enum err open_output(struct pipeline *p)
{
    const struct arch *arch = &p->model->arch;
    struct sink_options out;
    enum err e = sink_choose(p->job->output, p->job->format, input_info(p->input), &out);
    if (e)
        return e;
    out.palette = arch->palette;
    out.colours = arch->classes;
    out.threads = p->job->engine.device == DEVICE_CPU ? 1 : 4;
    return sink_open(&out, &p->sink);
}

static enum err open_slots(struct pipeline *p)
{
    p->slot_count = (size_t)p->job->batch + 4;
    p->slots = calloc(p->slot_count, sizeof *p->slots);
    if (!p->slots)
        return err_set(ERR_NOMEM, "no memory for frames");
    enum err e = queue_open(p->slot_count, &p->idle);
    if (!e)
        e = queue_open(p->slot_count, &p->decoded);
    if (!e)
        e = queue_open(p->slot_count, &p->labelled);
    for (size_t i = 0; i < p->slot_count && !e; i++)
        e = queue_put(p->idle, &p->slots[i]);
    return e;
}

static enum err open_pipeline(struct pipeline *p)
{
    enum err e = model_open(p->job->model, &p->model);
    if (!e)
        e = open_input(p);
    if (!e)
        e = open_output(p);
    if (!e)
        e = open_slots(p);
    if (!e)
        e = engine_open(p->model, &p->job->engine, &p->engine);
    if (!e)
        e = stream_open(p->engine, &p->job->stream, &p->stream);
    for (size_t i = 0; i < p->slot_count && !e; i++)
        p->slots[i].frame.takes_nv12 = engine_takes_nv12(p->engine) && !p->draws;
    return e;
}

static void close_pipeline(struct pipeline *p)
{
    sink_abort(p->sink); /* still here if the threads never ran */
    stream_close(p->stream);
    engine_close(p->engine);
    for (size_t i = 0; p->slots && i < p->slot_count; i++) {
        frame_free(&p->slots[i].frame);
        device_memory_close(p->slots[i].memory);
        free(p->slots[i].labels);
    }
    free(p->slots);
    queue_close(p->idle);
    queue_close(p->decoded);
    queue_close(p->labelled);
    input_close(p->input);
    model_close(p->model);
    pthread_mutex_destroy(&p->lock);
}

static void run_threads(struct pipeline *p)
{
    pthread_t decode, encode;
    int r = pthread_create(&decode, NULL, decode_thread, p);
    if (r != 0) {
        fail(p, err_set(ERR_NOMEM, "cannot start a thread: %s", strerror(r)));
        return;
    }
    r = pthread_create(&encode, NULL, encode_thread, p);
    enum err e =
        r != 0 ? err_set(ERR_NOMEM, "cannot start a thread: %s", strerror(r)) : label_all(p);
    if (e)
        fail(p, e);
    queue_finish(p->labelled);
    pthread_join(decode, NULL);
    if (r == 0)
        pthread_join(encode, NULL);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

enum err segment_run(const struct segment_job *job, struct segment_result *out)
{
    struct pipeline p = {.job = job};
    const char *why;
    pthread_mutex_init(&p.lock, NULL);
    enum err e = open_pipeline(&p);
    if (e)
        goto done;
    double start = now();
    progress_start(job->progress, input_info(p.input)->frames);
    run_threads(&p);
    p.result.seconds = now() - start;
    p.result.corrupt = input_corrupt(p.input);
    p.result.decoder = input_place(p.input, &why);
    snprintf(p.result.decoder_why, sizeof p.result.decoder_why, "%s", why ? why : "");
    *out = p.result;
    e = p.error ? err_set(p.error, "%s", p.text) : ERR_OK;
done:
    close_pipeline(&p);
    return e;
}
