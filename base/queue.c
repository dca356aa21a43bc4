#include "base/queue.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

struct queue {
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t not_full, not_empty;
    bool finished, stopped;
    size_t capacity, count, head; /* items[head] is the oldest */
    void *items[];
};

enum err queue_open(size_t capacity, struct queue **out)
{
    *out = NULL;
    if (capacity == 0 || capacity > 1u << 20)
        return err_set(ERR_ARG, "a queue holds 1 to %u items, not %zu", 1u << 20, capacity);
    struct queue *q = calloc(1, sizeof *q + capacity * sizeof *q->items);
    if (!q)
        return err_set(ERR_NOMEM, "no memory for a queue of %zu", capacity);
    q->capacity = capacity;
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->not_full, NULL);
    pthread_cond_init(&q->not_empty, NULL);
    *out = q;
    return ERR_OK;
}

void queue_close(struct queue *q)
{
    if (!q)
        return;
    pthread_cond_destroy(&q->not_empty);
    pthread_cond_destroy(&q->not_full);
    pthread_mutex_destroy(&q->lock);
    free(q);
}

enum err queue_put(struct queue *q, void *item)
{
    enum err e = ERR_OK;
    pthread_mutex_lock(&q->lock);
    while (q->count == q->capacity && !q->stopped && !q->finished)
        pthread_cond_wait(&q->not_full, &q->lock);
    if (q->stopped || q->finished) {
        e = ERR_CANCELLED;
    } else {
        q->items[(q->head + q->count++) % q->capacity] = item;
        pthread_cond_signal(&q->not_empty);
    }
    pthread_mutex_unlock(&q->lock);
    return e ? err_set(e, "the queue takes no more") : ERR_OK;
}

/* The caller holds the lock; there is an item. */
static void *take(struct queue *q)
{
    void *item = q->items[q->head];
    q->head = (q->head + 1) % q->capacity;
    q->count--;
    pthread_cond_signal(&q->not_full);
    return item;
}

enum err queue_get(struct queue *q, void **item)
{
    enum err e = ERR_OK;
    *item = NULL;
    pthread_mutex_lock(&q->lock);
    while (q->count == 0 && !q->stopped && !q->finished)
        pthread_cond_wait(&q->not_empty, &q->lock);
    if (q->stopped)
        e = ERR_CANCELLED;
    else if (q->count > 0)
        *item = take(q);
    pthread_mutex_unlock(&q->lock);
    return e ? err_set(e, "the queue was stopped") : ERR_OK;
}

static void end(struct queue *q, bool *flag)
{
    pthread_mutex_lock(&q->lock);
    *flag = true;
    pthread_cond_broadcast(&q->not_full);
    pthread_cond_broadcast(&q->not_empty);
    pthread_mutex_unlock(&q->lock);
}

void queue_finish(struct queue *q)
{
    end(q, &q->finished);
}

void queue_stop(struct queue *q)
{
    end(q, &q->stopped);
}

void *queue_drain(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    void *item = q->count ? take(q) : NULL;
    pthread_mutex_unlock(&q->lock);
    return item;
}

size_t queue_count(struct queue *q)
{
    pthread_mutex_lock(&q->lock);
    size_t n = q->count;
    pthread_mutex_unlock(&q->lock);
    return n;
}
