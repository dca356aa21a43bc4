/* Many WebSocket streams from one thread, as a load on the daemon: JSON on standard output.
 *
 * Each stream sends the same images in turn, each from another one on, as often as --rate says or
 * as fast as its credit allows. A frame carries the time when it was due as its presentation time,
 * which comes back with the answer, so latency is that of the client's clock and a frame that had
 * to wait for credit is not forgiven. What is counted is what arrives between --warmup and
 * --warmup + --seconds after the last stream said hello.
 *
 * A line of standard output says "begun" when all are connected, and the last one is the report,
 * before they are closed.
 *
 * --frames N: no clock; each stream sends N frames and then stays open, idle ("idle" on standard
 * output says when), until standard input ends, or says a line: then each sends one more.
 *
 * --flood: sends without regard to credit, dropped or not, as fast as the daemon reads.
 *
 * --masks FOLDER: every answer is compared with the mask of its image, which is that of a stream
 * that began with the first image. So each stream begins there, and after the last asks for a reset
 * and begins again; its first turn is cut short at another image than those of its neighbours, so
 * that streams are at different places, and one that got another's answer or state is found.
 *
 * --ca FILE: by TLS, with localhost, whose certificate an authority in FILE has signed.
 *
 * What goes wrong is counted by kind in `errors`, and the other streams go on. Only where nothing
 * can be measured any more (no connection at the start, a stream lost with --frames) is the exit
 * status not 0. */
#include "proto/message.h"
#include "tests/load/stream.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>

enum { CONNECTING = 32, GRACE = 120 }; /* GRACE: seconds, for the last answers */

int64_t load_now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

void load_fail(struct load *l, const char *what, const char *more)
{
    if (!l->failed)
        fprintf(stderr, "stream_load: %s %s\n", what, more);
    l->failed = l->over = true;
}

void load_say(const char *line)
{
    puts(line);
    fflush(stdout);
}

/* ---- the way through ----------------------------------------------------------------------------
 */

static void connect_more(struct load *l, int *made)
{
    while (*made < l->o.streams && l->connecting < CONNECTING && !l->failed) {
        l->connecting++;
        stream_connect(l, (*made)++);
    }
}

/* The service loop sleeps until something happens; this does. */
static void wake_up(struct load *l)
{
    atomic_store(&l->woken, true);
    lws_cancel_service(l->context);
}

static void on_time(lws_sorted_usec_list_t *timer)
{
    wake_up(lws_container_of(timer, struct load, timer));
}

static bool under_way(struct load *l)
{
    for (int i = 0; i < l->o.streams; i++)
        if (l->stream[i].open && (l->stream[i].in_flight || l->stream[i].resets))
            return true;
    return false;
}

static void run_by_clock(struct load *l)
{
    lws_sul_schedule(l->context, 0, &l->timer, on_time, l->to - load_now_us());
    while (!l->failed && !l->woken)
        lws_service(l->context, 0);
    l->stopping = true;
    l->woken = false;
    lws_sul_schedule(l->context, 0, &l->timer, on_time, (lws_usec_t)GRACE * LWS_US_PER_SEC);
    while (!l->failed && !l->woken && under_way(l))
        lws_service(l->context, 0);
}

/* A thread: standard input can be waited for in no other way beside the streams. */
static void *await_line(void *load)
{
    struct load *l = load;
    char line[16];
    atomic_store(&l->again, fgets(line, sizeof line, stdin) != NULL);
    wake_up(l);
    return NULL;
}

static void await_settled(struct load *l)
{
    while (!l->failed && l->settled < l->o.streams)
        lws_service(l->context, 0);
}

static void run_counted(struct load *l)
{
    await_settled(l);
    load_say("idle");
    pthread_t t;
    if (pthread_create(&t, NULL, await_line, l) != 0)
        load_fail(l, "no", "thread");
    while (!l->failed && !l->woken)
        lws_service(l->context, 0);
    pthread_detach(t);
    if (!l->again)
        return;
    l->settled = 0;
    for (int i = 0; i < l->o.streams; i++) {
        l->stream[i].left = 1;
        lws_callback_on_writable(l->stream[i].wsi);
    }
    await_settled(l);
}

static void begin_streams(struct load *l)
{
    int64_t now = load_now_us();
    if (!l->o.frames)
        load_say("begun");
    l->from = now + (int64_t)(l->o.warmup * 1e6);
    l->to = l->from + (int64_t)(l->o.seconds * 1e6);
    for (int i = 0; i < l->o.streams; i++)
        stream_begin(&l->stream[i],
                     now + (l->o.rate > 0 ? (int64_t)(1e6 / l->o.rate * i / l->o.streams) : 0));
}

static void run(struct load *l)
{
    for (int made = 0; !l->failed && l->connected < l->o.streams;) {
        connect_more(l, &made);
        lws_service(l->context, 0);
    }
    if (!l->failed)
        begin_streams(l);
    if (l->o.frames)
        run_counted(l);
    else
        run_by_clock(l);
    l->over = true;
}

/* ---- the start ----------------------------------------------------------------------------------
 */

static size_t longest_image(const struct load *l)
{
    size_t longest = 0;
    for (int i = 0; i < l->clip.images; i++)
        longest = l->clip.image[i].len > longest ? l->clip.image[i].len : longest;
    return longest;
}

static void allow_files(void)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < r.rlim_max) {
        r.rlim_cur = r.rlim_max < 1 << 16 ? r.rlim_max : 1 << 16;
        setrlimit(RLIMIT_NOFILE, &r);
    }
}

int main(int argc, char **argv)
{
    static struct load l = {
        .o = {.streams = 16, .credit = 4, .warmup = 1, .seconds = 5, .prefix = "load"}};
    static const struct lws_protocols protocols[] = {
        {"tv3s.v1", stream_on_event, 0, 16 << 10, 0, NULL, 1 << 20},
        {NULL, NULL, 0, 0, 0, NULL, 0}};
    if (!options_read(&l.o, &l.clip, argc, argv))
        return 2;
    const struct lws_context_creation_info info = {
        .port = CONTEXT_PORT_NO_LISTEN,
        .protocols = protocols,
        .gid = (gid_t)-1,
        .uid = (uid_t)-1,
        .options = l.o.ca ? LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT : 0,
        .client_ssl_ca_filepath = l.o.ca};
    allow_files();
    lws_set_log_level(LLL_ERR, NULL);
    l.parts = l.o.every > 0 && !l.o.frames ? (int)ceil(l.o.seconds / l.o.every) : 0;
    l.part = calloc((size_t)l.parts + 1, sizeof *l.part);
    l.stream = calloc((size_t)l.o.streams, sizeof *l.stream);
    l.sending = malloc(LWS_PRE + FRAME_HEADER + longest_image(&l));
    l.errors = json_object();
    l.context = lws_create_context(&info);
    if (!l.part || !l.stream || !l.sending || !l.errors || !l.context)
        return 1;
    run(&l);
    load_report(&l);
    lws_context_destroy(l.context);
    return l.failed;
}
