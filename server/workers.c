/* Decode and encode workers: the threads, and what waits for them. work.c is what they do.
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
#include "server/metrics.h"
#include "server/sched.h"
#include "server/work.h"

#include <pthread.h>
#include <stdlib.h>

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
    struct work work;
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
    const struct sandbox_wait wait = wait_of(h);
    bool encodes;
    pthread_setname_np(pthread_self(), "worker");
    for (struct item *item; (item = next_work(h, &encodes));) {
        metric_add(w->work.metrics, encodes ? METRIC_QUEUE_ENCODE : METRIC_QUEUE_DECODE, -1);
        if (encodes)
            work_encode(&w->work, item);
        else
            work_decode(&w->work, h->images, &wait, item);
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
    enum err e = image_decoder_open(k->all->work.sandbox, &wait, &h->images);
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
    w->work = (struct work){.config = c, .metrics = m, .sandbox = sandbox};
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
    w->work.sched = s;
}

unsigned workers_count(const struct workers *w)
{
    return w->count;
}

/* ---- ending -------------------------------------------------------------------------------------
 */

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
        metric_add(w->work.metrics, METRIC_QUEUE_DECODE, -k->decode.count);
        metric_add(w->work.metrics, METRIC_QUEUE_ENCODE, -k->encode.count);
        while ((item = pop(&k->encode)) || (item = pop(&k->decode)))
            work_end(&w->work, item);
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
        metric_add(k->all->work.metrics,
                   l == &k->encode ? METRIC_QUEUE_ENCODE : METRIC_QUEUE_DECODE, 1);
        pthread_cond_signal(&k->wake);
    }
    pthread_mutex_unlock(&k->lock);
    return e;
}

enum err workers_decode(struct workers *w, struct item *item)
{
    struct worker *k = worker_of(w, item);
    bool empties = item->kind == ITEM_PACKET && item->input.len == 0;
    enum err e = put(k, &k->decode, item, empties ? 0 : w->work.config->queue_max);
    if (e == ERR_BUSY)
        return err_set(e, "%d frames wait to be decoded", (int)w->work.config->queue_max);
    if (e)
        work_end(&w->work, item);
    return ERR_OK;
}

void workers_encode(struct workers *w, struct item *item)
{
    struct worker *k = worker_of(w, item);
    if (put(k, &k->encode, item, 0))
        work_end(&w->work, item);
}

void workers_command(struct workers *w, struct command *c)
{
    struct item *item = command_carrier(c);
    struct worker *k = worker_of(w, item);
    if (put(k, &k->decode, item, 0))
        work_end(&w->work, item);
}
