/* Decode and encode workers.
 *
 * Each worker is a thread with two lists under one lock: what is to be decoded, and what is to be
 * encoded, which goes first since it is nearly done. Both lists link the items themselves, so
 * nothing is allocated and encoding always has room; decoding is bounded by queue_max.
 *
 * A command travels in the decode list by its carrier, behind the frames that came before it. */
#include "server/workers.h"

#include "server/config.h"
#include "server/decode.h"
#include "server/decode_packet.h"
#include "server/metrics.h"
#include "server/sched.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct list {
    struct item *head, *tail;
    int count;
};

struct worker {
    struct workers *all;
    pthread_t thread;
    pthread_mutex_t lock; /* guards the next four */
    pthread_cond_t wake;
    struct list decode, encode;
    bool stopped;
    struct image_decoder *images; /* the thread's */
};

struct workers {
    const struct config *config;
    struct metrics *metrics;
    struct sched *sched;
    unsigned count;
    struct worker of[];
};

static void push(struct list *l, struct item *item)
{
    item->next = NULL;
    if (l->tail)
        l->tail->next = item;
    else
        l->head = item;
    l->tail = item;
    l->count++;
}

static struct item *pop(struct list *l)
{
    struct item *item = l->head;
    if (!item)
        return NULL;
    l->head = item->next;
    if (!l->head)
        l->tail = NULL;
    l->count--;
    item->next = NULL;
    return item;
}

static struct worker *worker_of(struct workers *w, const struct item *item)
{
    return &w->of[item->session ? item->session->worker % w->count : 0];
}

/* ---- the work -----------------------------------------------------------------------------------
 */

static void deliver_error(struct workers *w, struct item *item, enum err e)
{
    item_fail(item, e);
    item_deliver(item, w->metrics);
}

/* A decoded frame, or the reason why not, on its way. */
static void pass_on(void *workers, struct item *item, enum err e)
{
    struct workers *w = workers;
    item->decoded = clock_ns();
    if (!item->empty)
        metric_observe(w->metrics, METRIC_SECONDS_DECODE,
                       (double)(item->decoded - item->received) * 1e-9);
    if (e)
        deliver_error(w, item, e);
    else if (item->empty || item->dropped)
        item_deliver(item, w->metrics);
    else
        sched_submit(w->sched, item);
}

static void decode(struct worker *k, struct item *item)
{
    struct workers *w = k->all;
    const struct session *s = item->session;
    if (item->kind == ITEM_COMMAND)
        sched_command(w->sched, command_of(item));
    else if (item->kind == ITEM_PACKET)
        decode_packet(item, w->config->max_pixels, pass_on, w);
    else if (s && atomic_load(&s->dead))
        pass_on(w, item, err_set(ERR_NOT_FOUND, "stream '%s' was deleted", s->id));
    else if (item->kind == ITEM_DECODED)
        pass_on(w, item, ERR_OK);
    else
        pass_on(w, item, image_decode(k->images, item, w->config->max_pixels));
}

static enum err encode_mask(struct item *item)
{
    const struct arch *a = &item->session->params.model->model->arch;
    bool timed = item->pts != ITEM_NO_PTS;
    const struct mask m = {.width = item->width,
                           .height = item->height,
                           .labels = item->labels,
                           .palette = a->palette,
                           .colours = a->classes,
                           .rgb = item->rgb,
                           .frame = item->seq,
                           .time = timed ? (double)item->pts * 1e-6 : NAN};
    return mask_encode(item->format, &m, &item->output);
}

static void encode(struct workers *w, struct item *item)
{
    enum err e = item->silent ? ERR_OK : encode_mask(item);
    if (item->session->kind != SESSION_UPLOAD) { /* which may want them for a video */
        free(item->rgb);
        free(item->labels);
        item->rgb = item->labels = NULL;
    }
    item->encoded = clock_ns();
    metric_observe(w->metrics, METRIC_SECONDS_ENCODE,
                   (double)(item->encoded - item->labelled) * 1e-9);
    if (e)
        deliver_error(w, item, e);
    else
        item_deliver(item, w->metrics);
}

/* ---- the threads --------------------------------------------------------------------------------
 */

static void *worker_main(void *worker)
{
    struct worker *k = worker;
    struct workers *w = k->all;
    pthread_setname_np(pthread_self(), "worker");
    for (;;) {
        pthread_mutex_lock(&k->lock);
        while (!k->stopped && !k->encode.head && !k->decode.head)
            pthread_cond_wait(&k->wake, &k->lock);
        bool stopped = k->stopped;
        bool done = !stopped && k->encode.head;
        struct item *item = stopped ? NULL : pop(done ? &k->encode : &k->decode);
        pthread_mutex_unlock(&k->lock);
        if (stopped)
            return NULL;
        metric_add(w->metrics, done ? METRIC_QUEUE_ENCODE : METRIC_QUEUE_DECODE, -1);
        if (done)
            encode(w, item);
        else
            decode(k, item);
    }
}

static enum err start(struct workers *w, struct worker *k)
{
    k->all = w;
    enum err e = image_decoder_open(&k->images);
    if (e)
        return e;
    pthread_mutex_init(&k->lock, NULL);
    pthread_cond_init(&k->wake, NULL);
    if (pthread_create(&k->thread, NULL, worker_main, k) == 0)
        return ERR_OK;
    pthread_cond_destroy(&k->wake);
    pthread_mutex_destroy(&k->lock);
    image_decoder_close(k->images);
    return err_set(ERR_NOMEM, "a worker thread does not start");
}

enum err workers_open(const struct config *c, struct metrics *m, struct workers **out)
{
    unsigned count = (unsigned)c->workers;
    struct workers *w = calloc(1, sizeof *w + count * sizeof w->of[0]);
    *out = NULL;
    if (!w)
        return err_set(ERR_NOMEM, "no memory for the workers");
    w->config = c;
    w->metrics = m;
    for (; w->count < count; w->count++) {
        enum err e = start(w, &w->of[w->count]);
        if (e) {
            workers_stop(w);
            workers_close(w);
            return e;
        }
    }
    *out = w;
    return ERR_OK;
}

void workers_connect(struct workers *w, struct sched *s)
{
    w->sched = s;
}

unsigned workers_count(const struct workers *w)
{
    return w->count;
}

/* ---- ending -------------------------------------------------------------------------------------
 */

/* An item that no thread will take any more. Commands and the packet that empties a decoder still
 * go their way, since others wait for what they set free. */
static void end_item(struct workers *w, struct item *item)
{
    if (item->kind == ITEM_COMMAND)
        sched_command(w->sched, command_of(item));
    else if (item->kind == ITEM_PACKET && item->input.len == 0)
        decode_packet(item, w->config->max_pixels, pass_on, w);
    else
        deliver_error(w, item, err_set(ERR_CANCELLED, "the server is stopping"));
}

void workers_stop(struct workers *w)
{
    for (unsigned i = 0; i < w->count; i++) {
        pthread_mutex_lock(&w->of[i].lock);
        w->of[i].stopped = true;
        pthread_cond_signal(&w->of[i].wake);
        pthread_mutex_unlock(&w->of[i].lock);
    }
    for (unsigned i = 0; i < w->count; i++) {
        struct worker *k = &w->of[i];
        struct item *item;
        pthread_join(k->thread, NULL);
        metric_add(w->metrics, METRIC_QUEUE_DECODE, -k->decode.count);
        metric_add(w->metrics, METRIC_QUEUE_ENCODE, -k->encode.count);
        while ((item = pop(&k->encode)) || (item = pop(&k->decode)))
            end_item(w, item);
    }
}

void workers_close(struct workers *w)
{
    for (unsigned i = 0; w && i < w->count; i++) {
        pthread_cond_destroy(&w->of[i].wake);
        pthread_mutex_destroy(&w->of[i].lock);
        image_decoder_close(w->of[i].images);
    }
    free(w);
}

/* ---- taking -------------------------------------------------------------------------------------
 */

/* ERR_CANCELLED after the stop. `most` items; 0: no limit. */
static enum err put(struct worker *k, struct list *l, struct item *item, int most)
{
    enum err e = ERR_OK;
    pthread_mutex_lock(&k->lock);
    if (k->stopped) {
        e = ERR_CANCELLED;
    } else if (most && l->count >= most) {
        e = ERR_BUSY;
    } else {
        push(l, item);
        metric_add(k->all->metrics, l == &k->encode ? METRIC_QUEUE_ENCODE : METRIC_QUEUE_DECODE, 1);
        pthread_cond_signal(&k->wake);
    }
    pthread_mutex_unlock(&k->lock);
    return e;
}

enum err workers_decode(struct workers *w, struct item *item)
{
    struct worker *k = worker_of(w, item);
    bool empties = item->kind == ITEM_PACKET && item->input.len == 0;
    enum err e = put(k, &k->decode, item, empties ? 0 : w->config->queue_max);
    if (e == ERR_BUSY)
        return err_set(e, "%d frames wait to be decoded", (int)w->config->queue_max);
    if (e)
        end_item(w, item);
    return ERR_OK;
}

void workers_encode(struct workers *w, struct item *item)
{
    struct worker *k = worker_of(w, item);
    if (put(k, &k->encode, item, 0))
        end_item(w, item);
}

void workers_command(struct workers *w, struct command *c)
{
    struct item *item = command_carrier(c);
    struct worker *k = worker_of(w, item);
    if (put(k, &k->decode, item, 0))
        end_item(w, item);
}
