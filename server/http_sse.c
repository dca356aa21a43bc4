/* Server-sent events: the progress of a job.
 *
 * An event stream is an answer without end whose bytes come from on_read, in the network thread.
 * With nothing to say, on_read suspends the connection. One thread of ours, the ticker, wakes it:
 * when its job has changed, 200 ms after its last event at the earliest, and for a comment when
 * KEEP_ALIVE_NS have passed in silence (which is also how a client that has gone is noticed).
 * Suspending and waking happen under one lock, so each wake meets one sleeper.
 *
 * A client sees every state: where a job went from queued to its end between two looks, an event
 * `running` is made up for it, with the frames of the end. */
#include "server/http.h"

#include "base/whole.h"
#include "server/describe.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { READ_BLOCK = 4096 };
#define EVENT_NS      200000000ull
#define KEEP_ALIVE_NS 15000000000ull

struct client {
    struct client *next, *previous; /* the lock */
    bool asleep;                    /* the lock: suspended */
    struct http *http;
    struct MHD_Connection *connection;
    struct job *job;      /* a reference */
    bool any, ended;      /* an event was sent; the last one was */
    enum job_state state; /* as sent last */
    uint64_t version, sent;
    struct buf text; /* being sent */
    size_t at;
};

struct sse {
    pthread_t ticker;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool news, draining, stopped;
    struct client *first;
};

/* ---- what is said -------------------------------------------------------------------------------
 */

static enum err say(struct client *c, const char *event, const json_t *o)
{
    char *json = o ? json_dumps(o, DESCRIBE_DUMP) : NULL;
    enum err e = json ? buf_printf(&c->text, "event: %s\ndata: %s\n\n", event, json)
                      : err_set(ERR_NOMEM, "no memory for an event");
    free(json);
    return e;
}

/* The job as it is now: its JSON and its state belong together. */
static json_t *look(struct client *c, enum job_state *state)
{
    static const char *const name[] = {"queued", "running", "succeeded", "failed", "cancelled"};
    c->version = job_version(c->job);
    json_t *o = job_json(c->job);
    const char *text = json_string_value(json_object_get(o, "state"));
    *state = c->state;
    for (int i = 0; text && i < 5; i++)
        if (strcmp(text, name[i]) == 0)
            *state = (enum job_state)i;
    return o;
}

static enum err say_running(struct client *c, const json_t *now)
{
    json_t *o = json_copy((json_t *)(uintptr_t)now);
    whole_put(&o, "state", json_string("running"));
    whole_put(&o, "finished", json_null());
    whole_put(&o, "error", json_null());
    whole_put(&o, "masks", json_null());
    enum err e = say(c, "progress", o);
    json_decref(o);
    return e;
}

static void compose_event(struct client *c)
{
    enum job_state state;
    json_t *o = look(c, &state);
    bool started = !json_is_null(json_object_get(o, "started")), end = state > JOB_RUNNING;
    enum err e = ERR_OK;
    if (c->any && c->state == JOB_QUEUED && end && started)
        e = say_running(c, o);
    if (!e && end)
        e = say(c, "progress", o);
    if (!e)
        e = say(c, end ? "end" : "progress", o);
    json_decref(o);
    if (e) { /* no memory: as if it had not been looked at, until the next turn */
        c->text.len = 0;
        c->version--;
        c->sent = clock_ns();
        return;
    }
    c->any = true;
    c->state = state;
    c->ended = end;
}

/* The next event into c->text, if one is due. */
static void compose(struct client *c)
{
    uint64_t now = clock_ns();
    c->text.len = c->at = 0;
    if (c->any && job_version(c->job) == c->version) {
        if (now - c->sent >= KEEP_ALIVE_NS)
            (void)!buf_text(&c->text, ": still here\n\n");
    } else if (!c->any || now - c->sent >= EVENT_NS) {
        compose_event(c);
    }
    if (c->text.len)
        c->sent = now;
}

/* ---- sending: the network thread ----------------------------------------------------------------
 */

static ssize_t on_read(void *client, uint64_t offset, char *to, size_t room)
{
    struct client *c = client;
    struct sse *s = c->http->sse;
    (void)offset;
    if (c->at == c->text.len) {
        if (c->ended || !owner_may(job_owner(c->job), ROLE_READ))
            return MHD_CONTENT_READER_END_OF_STREAM;
        compose(c);
    }
    if (c->at < c->text.len) {
        size_t n = c->text.len - c->at < room ? c->text.len - c->at : room;
        memcpy(to, c->text.data + c->at, n);
        c->at += n;
        return (ssize_t)n;
    }
    ssize_t result = 0;
    pthread_mutex_lock(&s->lock);
    if (s->draining) {
        result = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        c->asleep = true;
        s->news = true; /* it may have changed just now */
        pthread_cond_signal(&s->changed);
        MHD_suspend_connection(c->connection);
    }
    pthread_mutex_unlock(&s->lock);
    return result;
}

static void on_end(void *client)
{
    struct client *c = client;
    struct sse *s = c->http->sse;
    pthread_mutex_lock(&s->lock);
    *(c->previous ? &c->previous->next : &s->first) = c->next;
    if (c->next)
        c->next->previous = c->previous;
    pthread_mutex_unlock(&s->lock);
    job_unref(c->job);
    buf_free(&c->text);
    free(c);
}

enum err video_events(struct request *r)
{
    struct sse *s = r->http->sse;
    enum err e = request_job(r);
    if (e)
        return e;
    struct client *c = calloc(1, sizeof *c);
    struct MHD_Response *answer =
        c ? MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, READ_BLOCK, on_read, c, on_end)
          : NULL;
    if (!answer) {
        free(c);
        return err_set(ERR_NOMEM, "no memory for an event stream");
    }
    c->http = r->http;
    c->connection = r->connection;
    c->job = r->job; /* the reference goes over */
    r->job = NULL;
    pthread_mutex_lock(&s->lock);
    c->next = s->first;
    if (s->first)
        s->first->previous = c;
    s->first = c;
    pthread_mutex_unlock(&s->lock);
    reply_header(&answer, "Content-Type", "text/event-stream");
    reply_send(r, 200, answer);
    return ERR_OK;
}

/* ---- waking: the ticker -------------------------------------------------------------------------
 */

static bool due(const struct client *c, uint64_t now)
{
    uint64_t quiet = now - c->sent;
    return quiet >= KEEP_ALIVE_NS || (quiet >= EVENT_NS && job_version(c->job) != c->version);
}

/* With the lock held. Returns whether a client has news whose turn has not come. */
static bool wake_due(struct sse *s)
{
    uint64_t now = clock_ns();
    bool later = false;
    for (struct client *c = s->first; c; c = c->next) {
        if (!c->asleep)
            continue;
        if (s->draining || due(c, now)) {
            c->asleep = false;
            loop_resume(c->http, c->connection);
        } else if (job_version(c->job) != c->version) {
            later = true;
        }
    }
    return later;
}

/* With the lock held: until there is news, or `ns` have passed. */
static void wait_for_news(struct sse *s, uint64_t ns)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    ns += (uint64_t)t.tv_nsec;
    t.tv_sec += (time_t)(ns / 1000000000u);
    t.tv_nsec = (long)(ns % 1000000000u);
    while (!s->news && !s->stopped)
        if (pthread_cond_timedwait(&s->changed, &s->lock, &t) != 0)
            break;
    s->news = false;
}

static void *ticker(void *sse)
{
    struct sse *s = sse;
    bool later = false;
    pthread_mutex_lock(&s->lock);
    while (!s->stopped) {
        wait_for_news(s, later ? EVENT_NS / 4 : s->first ? 1000000000u : 60000000000u);
        later = wake_due(s);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* From jobs_listen: any thread, with the jobs' lock held. (job_version takes no lock, so asking
 * for it with ours held is no circle.) */
static void on_changed(void *sse)
{
    struct sse *s = sse;
    pthread_mutex_lock(&s->lock);
    s->news = true;
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

/* ---- opening and closing ------------------------------------------------------------------------
 */

enum err sse_open(struct http *h)
{
    pthread_condattr_t monotonic;
    struct sse *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(ERR_NOMEM, "no memory for event streams");
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    if (pthread_create(&s->ticker, NULL, ticker, s) != 0) {
        pthread_cond_destroy(&s->changed);
        pthread_mutex_destroy(&s->lock);
        free(s);
        return err_set(ERR_NOMEM, "no thread for event streams");
    }
    h->sse = s;
    jobs_listen(h->server->jobs, on_changed, s);
    return ERR_OK;
}

void sse_drain(struct http *h)
{
    struct sse *s = h->sse;
    pthread_mutex_lock(&s->lock);
    s->draining = s->news = true;
    wake_due(s);
    pthread_mutex_unlock(&s->lock);
}

void sse_close(struct http *h)
{
    struct sse *s = h->sse;
    if (!s)
        return;
    jobs_listen(h->server->jobs, NULL, NULL);
    pthread_mutex_lock(&s->lock);
    s->stopped = true;
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->ticker, NULL);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s);
}
