#include "tools/segment.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_WARNINGS = 20, BAR_WIDTH = 24 };

struct progress {
    pthread_mutex_t lock; /* guards all below */
    const char *name;
    bool visible, bar, drawn; /* drawn: the bar is on the screen */
    int64_t expected, warnings;
    struct timespec start, last; /* last: when the bar was drawn */
};

static double since(const struct timespec *t)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)(now.tv_sec - t->tv_sec) + 1e-9 * (double)(now.tv_nsec - t->tv_nsec);
}

enum err progress_open(const char *name, bool visible, struct progress **out)
{
    struct progress *p = *out = calloc(1, sizeof *p);
    if (!p)
        return err_set(ERR_NOMEM, "no memory for the progress bar");
    pthread_mutex_init(&p->lock, NULL);
    p->name = name;
    p->visible = visible;
    p->bar = visible && isatty(STDERR_FILENO);
    return ERR_OK;
}

/* The caller holds the lock. */
static void erase(struct progress *p)
{
    if (p->drawn)
        fprintf(stderr, "\r\033[K");
    p->drawn = false;
}

void progress_start(struct progress *p, int64_t expected)
{
    pthread_mutex_lock(&p->lock);
    p->expected = expected;
    clock_gettime(CLOCK_MONOTONIC, &p->start);
    pthread_mutex_unlock(&p->lock);
}

/* The caller holds the lock. */
static void draw(struct progress *p, int64_t done)
{
    double seconds = since(&p->start), rate = seconds > 0 ? (double)done / seconds : 0;
    char bar[BAR_WIDTH + 1] = "";
    clock_gettime(CLOCK_MONOTONIC, &p->last);
    p->drawn = true;
    if (p->expected <= 0 || done > p->expected) {
        fprintf(stderr, "\r\033[K%lld frames  %.1f frames/s", (long long)done, rate);
        return;
    }
    for (int i = 0; i < BAR_WIDTH; i++)
        bar[i] = i < (int)(done * BAR_WIDTH / p->expected) ? '#' : '.';
    int left = rate > 0 ? (int)((double)(p->expected - done) / rate + 0.5) : 0;
    fprintf(stderr, "\r\033[K[%s] %lld/%lld  %.1f frames/s  %d:%02d left", bar, (long long)done,
            (long long)p->expected, rate, left / 60, left % 60);
}

void progress_frames(struct progress *p, int64_t done)
{
    pthread_mutex_lock(&p->lock);
    if (p->bar && (!p->drawn || since(&p->last) > 0.1))
        draw(p, done);
    pthread_mutex_unlock(&p->lock);
}

void progress_warn(struct progress *p, const char *text)
{
    pthread_mutex_lock(&p->lock);
    if (p->warnings++ < MAX_WARNINGS) {
        erase(p);
        fprintf(stderr, "%s: warning: %s\n", p->name, text);
    }
    pthread_mutex_unlock(&p->lock);
}

void progress_end(struct progress *p, const struct segment_result *r)
{
    pthread_mutex_lock(&p->lock);
    erase(p);
    if (p->warnings > MAX_WARNINGS)
        fprintf(stderr, "%s: warning: %lld more\n", p->name,
                (long long)(p->warnings - MAX_WARNINGS));
    bool told = strcmp(r->decoder, "cpu") != 0 || r->decoder_why[0];
    if (p->visible)
        fprintf(stderr, "%lld frames in %.1f s, %.1f frames/s, %lld corrupt%s%s%s%s%s\n",
                (long long)r->frames, r->seconds, (double)r->frames / r->seconds,
                (long long)r->corrupt, told ? ", decoded by " : "", told ? r->decoder : "",
                r->decoder_why[0] ? " (" : "", r->decoder_why, r->decoder_why[0] ? ")" : "");
    pthread_mutex_unlock(&p->lock);
}

void progress_close(struct progress *p)
{
    if (!p)
        return;
    erase(p);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
