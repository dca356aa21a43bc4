/* Decode and encode workers.
 *
 * Each worker is a thread with two lists under one lock: what is to be decoded, and what is to be
 * encoded, which goes first since it is nearly done. Both lists link the items themselves, so
 * nothing is allocated and encoding always has room; decoding is bounded by queue_max.
 *
 * A frame may keep its decoder for as long as decode_timeout. Nobody else is to notice: after
 * SANDBOX_LATE_MS the thread that waits for it steps aside with its session, and another takes
 * its place. Frames of that session then go to the list of the one aside, which ends when it has
 * done them: so a session's frames stay in order, each by one thread at a time.
 *
 * A command travels in the decode list by its carrier, behind the frames that came before it. */
#include "server/workers.h"

#include "server/config.h"
#include "server/decode.h"
#include "server/decode_packet.h"
#include "server/metrics.h"
#include "server/sched.h"

#include "sandbox/sandbox.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct list {
    struct item *head, *tail;
    int count;
};

enum { ASIDE_MAX = 32 }; /* of a worker; then its queue waits */

/* A thread of a worker. */
struct hand {
    struct worker *worker;
    struct image_decoder *images;
    struct session *session; /* of the frame that it decodes; NULL: none */
    /* the worker's lock guards the next three */
    bool aside;
    struct list waiting; /* frames of the session, once aside */
    struct hand *next;
};

struct worker {
    struct workers *all;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t wake, gone;
    struct list decode, encode;
    bool stopped;
    struct hand *aside; /* threads that stepped aside */
    int aside_count, aside_items;
    int threads;
};

struct workers {
    const struct config *config;
    struct metrics *metrics;
    struct sched *sched;
    struct sandbox *sandbox;
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

static struct sandbox_wait wait_of(struct hand *h);

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

static struct packet_way packet_way(struct workers *w, const struct sandbox_wait *wait)
{
    return (struct packet_way){w->sandbox, wait, w->config->max_pixels, pass_on, w};
}

static void decode(struct hand *h, struct item *item)
{
    struct workers *w = h->worker->all;
    const struct sandbox_wait wait = wait_of(h);
    const struct packet_way way = packet_way(w, &wait);
    const struct session *s = item->session;
    if (item->kind == ITEM_COMMAND)
        sched_command(w->sched, command_of(item));
    else if (item->kind == ITEM_PACKET)
        decode_packet(item, &way);
    else if (s && atomic_load(&s->dead))
        pass_on(w, item, err_set(ERR_NOT_FOUND, "stream '%s' was deleted", s->id));
    else if (item->kind == ITEM_DECODED)
        pass_on(w, item, ERR_OK);
    else
        pass_on(w, item, image_decode(h->images, item, w->config->max_pixels));
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

/* With the lock held: the list of the thread that has this item's session, or NULL. */
static struct list *aside_of(struct worker *k, const struct item *item)
{
    for (struct hand *h = item->session ? k->aside : NULL; h; h = h->next)
        if (h->session == item->session)
            return &h->waiting;
    return NULL;
}

/* With the lock held: the next item for the worker's thread, or NULL. *encodes: which kind. */
static struct item *next_item(struct worker *k, bool *encodes)
{
    *encodes = k->encode.head != NULL;
    if (*encodes)
        return pop(&k->encode);
    for (struct item *item; (item = pop(&k->decode));) {
        struct list *elsewhere = aside_of(k, item);
        if (!elsewhere)
            return item;
        push(elsewhere, item);
        k->aside_items++;
    }
    return NULL;
}

/* With the lock held: what is left goes to the head of the queue, for workers_stop. */
static void give_back(struct hand *h)
{
    struct worker *k = h->worker;
    while (k->decode.head)
        push(&h->waiting, pop(&k->decode));
    k->decode = h->waiting;
    h->waiting = (struct list){0};
}

/* With the lock held: the next item of the session, or NULL when that was all. */
static struct item *next_aside(struct hand *h)
{
    struct worker *k = h->worker;
    struct item *item = k->stopped ? NULL : pop(&h->waiting);
    if (item) {
        k->aside_items--;
        return item;
    }
    k->aside_items -= h->waiting.count;
    give_back(h);
    struct hand **at = &k->aside;
    while (*at != h)
        at = &(*at)->next;
    *at = h->next;
    k->aside_count--;
    return NULL;
}

/* Waits for something to do. NULL: the thread is to end. */
static struct item *next_work(struct hand *h, bool *encodes)
{
    struct worker *k = h->worker;
    struct item *item = NULL;
    *encodes = false;
    pthread_mutex_lock(&k->lock);
    if (h->aside) {
        item = next_aside(h);
    } else {
        while (!k->stopped && !(item = next_item(k, encodes)))
            pthread_cond_wait(&k->wake, &k->lock);
        h->session = item && !*encodes ? item->session : NULL;
    }
    pthread_mutex_unlock(&k->lock);
    return item;
}

static void *worker_main(void *hand)
{
    struct hand *h = hand;
    struct worker *k = h->worker;
    struct workers *w = k->all;
    bool encodes;
    pthread_setname_np(pthread_self(), "worker");
    for (struct item *item; (item = next_work(h, &encodes));) {
        metric_add(w->metrics, encodes ? METRIC_QUEUE_ENCODE : METRIC_QUEUE_DECODE, -1);
        if (encodes)
            encode(w, item);
        else
            decode(h, item);
    }
    image_decoder_close(h->images);
    free(h);
    pthread_mutex_lock(&k->lock);
    k->threads--;
    pthread_cond_signal(&k->gone);
    pthread_mutex_unlock(&k->lock);
    return NULL;
}

/* With the lock held, or before there is another thread. */
static enum err start_thread(struct worker *k)
{
    pthread_t thread;
    struct hand *h = calloc(1, sizeof *h);
    if (!h)
        return err_set(ERR_NOMEM, "no memory for a worker");
    h->worker = k;
    const struct sandbox_wait wait = wait_of(h);
    enum err e = image_decoder_open(k->all->sandbox, &wait, &h->images);
    if (!e && pthread_create(&thread, NULL, worker_main, h) != 0)
        e = err_set(ERR_NOMEM, "a worker thread does not start");
    if (e) {
        image_decoder_close(h->images);
        free(h);
        return e;
    }
    pthread_detach(thread);
    k->threads++;
    return ERR_OK;
}

/* ---- waiting for a decoder ----------------------------------------------------------------------
 */

static bool is_stopped(void *hand)
{
    struct worker *k = ((struct hand *)hand)->worker;
    pthread_mutex_lock(&k->lock);
    bool stopped = k->stopped;
    pthread_mutex_unlock(&k->lock);
    return stopped;
}

static void step_aside(void *hand)
{
    struct hand *h = hand;
    struct worker *k = h->worker;
    pthread_mutex_lock(&k->lock);
    if (!h->aside && h->session && !k->stopped && k->aside_count < ASIDE_MAX &&
        start_thread(k) == ERR_OK) {
        h->aside = true;
        h->next = k->aside;
        k->aside = h;
        k->aside_count++;
    }
    pthread_mutex_unlock(&k->lock);
}

static struct sandbox_wait wait_of(struct hand *h)
{
    return (struct sandbox_wait){is_stopped, step_aside, h};
}

static enum err start(struct workers *w, struct worker *k)
{
    k->all = w;
    pthread_mutex_init(&k->lock, NULL);
    pthread_cond_init(&k->wake, NULL);
    pthread_cond_init(&k->gone, NULL);
    return start_thread(k);
}

enum err workers_open(const struct config *c, struct metrics *m, struct sandbox *sandbox,
                      struct workers **out)
{
    unsigned count = (unsigned)c->workers;
    struct workers *w = calloc(1, sizeof *w + count * sizeof w->of[0]);
    *out = NULL;
    if (!w)
        return err_set(ERR_NOMEM, "no memory for the workers");
    w->config = c;
    w->metrics = m;
    w->sandbox = sandbox;
    while (w->count < count) {
        enum err e = start(w, &w->of[w->count++]);
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

static bool is_over(void *ctx)
{
    (void)ctx;
    return true;
}

/* An item that no thread will take any more. Commands and the packet that empties a decoder still
 * go their way, since others wait for what they set free. */
static void end_item(struct workers *w, struct item *item)
{
    const struct sandbox_wait hurry = {.cancelled = is_over};
    const struct packet_way way = packet_way(w, &hurry);
    if (item->kind == ITEM_COMMAND)
        sched_command(w->sched, command_of(item));
    else if (item->kind == ITEM_PACKET && item->input.len == 0)
        decode_packet(item, &way);
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
        pthread_mutex_lock(&k->lock);
        while (k->threads > 0)
            pthread_cond_wait(&k->gone, &k->lock);
        pthread_mutex_unlock(&k->lock);
        metric_add(w->metrics, METRIC_QUEUE_DECODE, -k->decode.count);
        metric_add(w->metrics, METRIC_QUEUE_ENCODE, -k->encode.count);
        while ((item = pop(&k->encode)) || (item = pop(&k->decode)))
            end_item(w, item);
    }
}

void workers_close(struct workers *w)
{
    for (unsigned i = 0; w && i < w->count; i++) {
        pthread_cond_destroy(&w->of[i].gone);
        pthread_cond_destroy(&w->of[i].wake);
        pthread_mutex_destroy(&w->of[i].lock);
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
    } else if (most && l->count + k->aside_items >= most) {
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
