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
#include "tests/load/options.h"
#include "tests/load/samples.h"

#include <jansson.h>
#include <libwebsockets.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { CONNECTING = 32, STAGES = 4, GRACE = 120 }; /* GRACE: seconds, for the last answers */

struct stream {
    struct lws *wsi;
    int number, in_flight, next_image, left; /* left: frames to send yet, -1 without end */
    int turn, next_turn; /* images until the clip begins again, and from then on, with --masks */
    int resets;          /* asked for and not acknowledged */
    int64_t seq, due;    /* microseconds: when the next frame is */
    int64_t last;        /* number of the last answer */
    int64_t unsure;      /* answers before this one have no known mask */
    uint8_t place[CREDIT_MAX]; /* the image of frame `seq`, at seq % CREDIT_MAX */
    bool open;
    struct buf message; /* that comes in, as far as it is here */
    char bye[32];
    int64_t sent, answered, dropped, failed;
};

static struct options o = {.streams = 16, .credit = 4, .warmup = 1, .seconds = 5, .prefix = "load"};

static struct {
    struct lws_context *context;
    lws_sorted_usec_list_t timer;
    struct stream *stream;
    int connecting, connected, settled; /* settled: answered all they sent, with --frames */
    struct clip clip;
    uint8_t *sending; /* a copy, since libwebsockets masks in place */
    int64_t from, to; /* microseconds; the window that counts */
    struct samples latency, stage[STAGES];
    size_t *part; /* with --every: how many of latency there are when each part ends */
    int parts;
    int64_t masks_right;
    json_t *errors; /* kind: how many */
    bool failed, stopping, over;
    atomic_bool woken, again;
} l;

static int64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void fail(const char *what, const char *more)
{
    if (!l.failed)
        fprintf(stderr, "stream_load: %s %s\n", what, more);
    l.failed = l.over = true;
}

static void say(const char *line)
{
    puts(line);
    fflush(stdout);
}

/* Once of each kind it is told at once. */
static void count_error(const struct stream *s, const char *kind, const char *more)
{
    json_int_t before = json_integer_value(json_object_get(l.errors, kind));
    if (before == 0)
        fprintf(stderr, "stream_load: stream %d: %s: %s\n", s->number, kind, more);
    json_object_set_new(l.errors, kind, json_integer(before + 1));
}

/* ---- frames out ---------------------------------------------------------------------------------
 */

static void cannot_send(struct stream *s)
{
    count_error(s, "cannot send", "");
    s->open = false;
}

static void send_frame(struct stream *s, int64_t now)
{
    const struct buf *image = &l.clip.image[s->next_image];
    uint8_t *message = l.sending + LWS_PRE;
    const struct frame_message f = {
        .kind = MESSAGE_IMAGE, .seq = s->seq, .pts = o.rate > 0 ? s->due : now};
    message_write_frame(&f, message);
    memcpy(message + FRAME_HEADER, image->data, image->len);
    s->place[s->seq++ % CREDIT_MAX] = (uint8_t)s->next_image;
    s->next_image = (s->next_image + 1) % l.clip.images;
    s->turn--;
    s->due += o.rate > 0 ? (int64_t)(1e6 / o.rate) : 0;
    s->left -= s->left > 0;
    s->in_flight++;
    s->sent++;
    if (lws_write(s->wsi, message, FRAME_HEADER + image->len, LWS_WRITE_BINARY) < 0)
        cannot_send(s);
}

static void take_turn(struct stream *s)
{
    s->turn = s->next_turn;
    s->next_turn = l.clip.images;
}

static void send_reset(struct stream *s)
{
    static const char reset[] = "{\"type\":\"reset\"}";
    memcpy(l.sending + LWS_PRE, reset, sizeof reset - 1);
    s->next_image = 0;
    take_turn(s);
    s->resets++;
    if (lws_write(s->wsi, l.sending + LWS_PRE, sizeof reset - 1, LWS_WRITE_TEXT) < 0)
        cannot_send(s);
}

/* Sends what may be sent now, one at a time, or sets the timer. */
static void on_writable(struct stream *s)
{
    int64_t now = now_us();
    if (!s->open || l.stopping || s->left == 0 || (!o.flood && s->in_flight >= o.credit))
        return;
    if (o.rate > 0 && now < s->due) {
        lws_set_timer_usecs(s->wsi, s->due - now);
        return;
    }
    if (o.masks && s->turn == 0)
        send_reset(s);
    else
        send_frame(s, now);
    lws_callback_on_writable(s->wsi);
}

/* ---- messages in --------------------------------------------------------------------------------
 */

static void settle(struct stream *s)
{
    if (o.frames && s->left == 0 && s->in_flight == 0)
        l.settled++;
    lws_callback_on_writable(s->wsi);
}

static void check_answer(struct stream *s, const struct answer_message *a)
{
    if (a->seq <= s->last || a->seq >= s->seq) {
        count_error(s, "answer out of order", "");
        return;
    }
    s->last = a->seq;
    if (!o.masks || a->seq < s->unsure)
        return;
    int place = s->place[a->seq % CREDIT_MAX];
    const struct buf *mask = &l.clip.mask[place];
    if (a->from_zero != (place == 0))
        count_error(s, "wrong state", a->from_zero ? "it is new" : "it was not reset");
    if (a->none || a->format != o.format || a->len != mask->len ||
        memcmp(a->payload, mask->data, a->len) != 0)
        count_error(s, "wrong mask", "");
    else
        l.masks_right++;
}

static void take_answer(struct stream *s)
{
    struct answer_message a;
    int64_t now = now_us();
    if (message_parse_answer(s->message.data, s->message.len, &a)) {
        count_error(s, "no answer", err_text());
        return;
    }
    s->in_flight--;
    check_answer(s, &a);
    if (o.frames || (now >= l.from && now < l.to)) {
        s->answered++;
        samples_add(&l.latency, now - a.pts);
        samples_add(&l.stage[0], a.decode_us);
        samples_add(&l.stage[1], a.queue_us);
        samples_add(&l.stage[2], a.compute_us);
        samples_add(&l.stage[3], a.encode_us);
        if (l.parts)
            l.part[(int)((double)(now - l.from) / (o.every * 1e6))] = l.latency.count;
    }
    settle(s);
}

static void begin_streams(void)
{
    int64_t now = now_us();
    if (!o.frames)
        say("begun");
    l.from = now + (int64_t)(o.warmup * 1e6);
    l.to = l.from + (int64_t)(o.seconds * 1e6);
    for (int i = 0; i < o.streams; i++) {
        struct stream *s = &l.stream[i];
        s->due = now + (o.rate > 0 ? (int64_t)(1e6 / o.rate * i / o.streams) : 0);
        s->open = true;
        lws_callback_on_writable(s->wsi);
    }
}

/* A frame had no effect on the state: masks of those that are on their way are anybody's guess. */
static void begin_anew(struct stream *s)
{
    s->turn = 0;
    s->unsure = s->seq;
}

/* A frame, or the stream, was refused. */
static void take_error(struct stream *s, const json_t *m)
{
    const json_t *problem = json_object_get(m, "problem");
    const char *type = json_string_value(json_object_get(problem, "type"));
    const char *detail = json_string_value(json_object_get(problem, "detail"));
    bool frame = json_is_integer(json_object_get(m, "seq"));
    char kind[96];
    snprintf(kind, sizeof kind, "%s %s", frame ? "frame" : "stream",
             type && strrchr(type, '/') ? strrchr(type, '/') + 1 : "without a problem");
    count_error(s, kind, detail ? detail : "");
    if (!frame)
        return;
    s->failed++;
    s->in_flight--;
    begin_anew(s);
    settle(s);
}

static void take_text(struct stream *s)
{
    json_t *m = json_loadb((const char *)s->message.data, s->message.len, 0, NULL);
    const char *type = json_string_value(json_object_get(m, "type"));
    const char *reason = json_string_value(json_object_get(m, "reason"));
    if (!type) {
        count_error(s, "not a message", (const char *)s->message.data);
    } else if (strcmp(type, "hello") == 0) {
        s->last = json_integer_value(json_object_get(m, "last_seq"));
        s->seq = s->last + 1;
        if (s->seq == 0) /* else it was there before, and has a state */
            take_turn(s);
        l.connecting--;
        if (++l.connected == o.streams)
            begin_streams();
    } else if (strcmp(type, "dropped") == 0) {
        size_t count = json_array_size(json_object_get(m, "seq"));
        s->dropped += (int64_t)count;
        s->in_flight -= (int)count;
        begin_anew(s);
    } else if (strcmp(type, "error") == 0) {
        take_error(s, m);
    } else if (strcmp(type, "reset") == 0) {
        s->resets--;
    } else if (strcmp(type, "bye") == 0) {
        snprintf(s->bye, sizeof s->bye, "%s", reason ? reason : "");
        s->open = false;
    } else {
        count_error(s, "unexpected message", type);
    }
    json_decref(m);
}

/* A message comes in pieces. */
static void on_receive(struct stream *s, const void *data, size_t len)
{
    if (buf_append(&s->message, data, len))
        fail("out of", "memory");
    else if (!lws_is_final_fragment(s->wsi))
        return;
    else if (lws_frame_is_binary(s->wsi))
        take_answer(s);
    else
        take_text(s);
    s->message.len = 0;
}

/* Whoever waits for this stream would wait for ever, so that only a run by the clock goes on. */
static void on_closed(struct stream *s)
{
    char kind[64];
    s->open = false;
    if (l.over)
        return;
    snprintf(kind, sizeof kind, "closed: %s", s->bye[0] ? s->bye : "without a word");
    count_error(s, kind, "");
    if (o.frames || l.connected < o.streams)
        fail("the daemon closed", "a stream");
}

static int on_event(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
                    size_t len)
{
    struct stream *s = lws_get_opaque_user_data(wsi);
    (void)user;
    switch (reason) {
    case LWS_CALLBACK_CLIENT_RECEIVE:
        on_receive(s, in, len);
        return 0;
    case LWS_CALLBACK_TIMER:
    case LWS_CALLBACK_CLIENT_WRITEABLE:
        on_writable(s);
        return 0;
    case LWS_CALLBACK_CLIENT_CONNECTION_ERROR:
        fail("no connection:", in ? in : "");
        return 0;
    case LWS_CALLBACK_CLIENT_CLOSED:
        on_closed(s);
        return 0;
    default:
        return 0;
    }
}

/* ---- the way through ----------------------------------------------------------------------------
 */

static void connect_one(struct stream *s, int number)
{
    char path[256];
    int image = number * 7 % l.clip.images; /* where this one is, and its neighbour is not */
    *s = (struct stream){.number = number,
                         .next_image = o.masks ? 0 : image,
                         .next_turn = image + 1,
                         .left = o.frames ? o.frames : -1};
    snprintf(path, sizeof path, "/v1/streams/%s-%d/ws?credit=%d&format=%s%s", o.prefix, number,
             o.flood ? CREDIT_MAX : o.credit, mask_format_name(o.format),
             o.flood ? "&drop=newest" : "");
    const struct lws_client_connect_info info = {.context = l.context,
                                                 .address = "127.0.0.1",
                                                 .host = o.ca ? "localhost" : "127.0.0.1",
                                                 .ssl_connection = o.ca ? LCCSCF_USE_SSL : 0,
                                                 .alpn = "http/1.1",
                                                 .port = o.port,
                                                 .path = path,
                                                 .protocol = "tv3s.v1",
                                                 .pwsi = &s->wsi,
                                                 .opaque_user_data = s};
    if (!lws_client_connect_via_info(&info))
        fail("no connection to", path);
}

static void connect_more(int *made)
{
    while (*made < o.streams && l.connecting < CONNECTING && !l.failed) {
        l.connecting++;
        connect_one(&l.stream[*made], *made);
        ++*made;
    }
}

/* The service loop sleeps until something happens; this does. */
static void wake_up(void)
{
    atomic_store(&l.woken, true);
    lws_cancel_service(l.context);
}

static void on_time(lws_sorted_usec_list_t *timer)
{
    (void)timer;
    wake_up();
}

static bool under_way(void)
{
    for (int i = 0; i < o.streams; i++)
        if (l.stream[i].open && (l.stream[i].in_flight || l.stream[i].resets))
            return true;
    return false;
}

static void run_by_clock(void)
{
    lws_sul_schedule(l.context, 0, &l.timer, on_time, l.to - now_us());
    while (!l.failed && !l.woken)
        lws_service(l.context, 0);
    l.stopping = true;
    l.woken = false;
    lws_sul_schedule(l.context, 0, &l.timer, on_time, (lws_usec_t)GRACE * LWS_US_PER_SEC);
    while (!l.failed && !l.woken && under_way())
        lws_service(l.context, 0);
}

/* A thread: standard input can be waited for in no other way beside the streams. */
static void *await_line(void *unused)
{
    char line[16];
    (void)unused;
    atomic_store(&l.again, fgets(line, sizeof line, stdin) != NULL);
    wake_up();
    return NULL;
}

static void await_settled(void)
{
    while (!l.failed && l.settled < o.streams)
        lws_service(l.context, 0);
}

static void run_counted(void)
{
    await_settled();
    say("idle");
    pthread_t t;
    if (pthread_create(&t, NULL, await_line, NULL) != 0)
        fail("no", "thread");
    while (!l.failed && !l.woken)
        lws_service(l.context, 0);
    pthread_detach(t);
    if (!l.again)
        return;
    l.settled = 0;
    for (int i = 0; i < o.streams; i++) {
        l.stream[i].left = 1;
        lws_callback_on_writable(l.stream[i].wsi);
    }
    await_settled();
}

static void run(void)
{
    for (int made = 0; !l.failed && l.connected < o.streams;) {
        connect_more(&made);
        lws_service(l.context, 0);
    }
    if (o.frames)
        run_counted();
    else
        run_by_clock();
    l.over = true;
}

/* ---- the report ---------------------------------------------------------------------------------
 */

static json_t *parts(void)
{
    json_t *list = json_array();
    size_t from = 0;
    for (int i = 0; i < l.parts; i++) {
        size_t to = l.part[i] > from ? l.part[i] : from;
        json_array_append_new(list, json_pack("{s:f, s:I, s:o}", "from_s", i * o.every, "answered",
                                              (json_int_t)(to - from), "latency_ms",
                                              samples_report(&l.latency, from, to)));
        from = to;
    }
    return list;
}

static double cpu_seconds(void)
{
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) +
           1e-6 * (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec);
}

static void report(void)
{
    static const char *const name[STAGES] = {"decode", "queue", "compute", "encode"};
    json_t *stages = json_object(), *in_parts = parts();
    int64_t sent = 0, answered = 0, dropped = 0, failed = 0, least = INT64_MAX, most = 0;
    int unanswered = 0, resets = 0;
    for (int i = 0; i < o.streams; i++) {
        const struct stream *s = &l.stream[i];
        sent += s->sent;
        answered += s->answered;
        dropped += s->dropped;
        failed += s->failed;
        unanswered += s->in_flight;
        resets += s->resets;
        least = s->answered < least ? s->answered : least;
        most = s->answered > most ? s->answered : most;
    }
    for (int i = 0; i < STAGES; i++)
        json_object_set_new(stages, name[i], samples_report(&l.stage[i], 0, l.stage[i].count));
    json_t *j = json_pack(
        "{s:i, s:I, s:I, s:I, s:I, s:i, s:i, s:I, s:O, s:[II], s:f, s:f, s:o, s:o, s:o}", "streams",
        o.streams, "sent", (json_int_t)sent, "answered", (json_int_t)answered, "dropped",
        (json_int_t)dropped, "failed", (json_int_t)failed, "unanswered", unanswered,
        "resets_unanswered", resets, "masks_right", (json_int_t)l.masks_right, "errors", l.errors,
        "per_stream", (json_int_t)least, (json_int_t)most, "frames_per_second",
        o.frames ? 0.0 : (double)answered / o.seconds, "cpu_seconds", cpu_seconds(), "stage_ms",
        stages, "parts", in_parts, "latency_ms", samples_report(&l.latency, 0, l.latency.count));
    char *text = json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(6));
    say(text ? text : "");
    free(text);
    json_decref(j);
}

/* ---- the start ----------------------------------------------------------------------------------
 */

static size_t longest_image(void)
{
    size_t longest = 0;
    for (int i = 0; i < l.clip.images; i++)
        longest = l.clip.image[i].len > longest ? l.clip.image[i].len : longest;
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
    static const struct lws_protocols protocols[] = {
        {"tv3s.v1", on_event, 0, 16 << 10, 0, NULL, 1 << 20}, {NULL, NULL, 0, 0, 0, NULL, 0}};
    if (!options_read(&o, &l.clip, argc, argv))
        return 2;
    const struct lws_context_creation_info info = {
        .port = CONTEXT_PORT_NO_LISTEN,
        .protocols = protocols,
        .gid = (gid_t)-1,
        .uid = (uid_t)-1,
        .options = o.ca ? LWS_SERVER_OPTION_DO_SSL_GLOBAL_INIT : 0,
        .client_ssl_ca_filepath = o.ca};
    allow_files();
    lws_set_log_level(LLL_ERR, NULL);
    l.parts = o.every > 0 && !o.frames ? (int)ceil(o.seconds / o.every) : 0;
    l.part = calloc((size_t)l.parts + 1, sizeof *l.part);
    l.stream = calloc((size_t)o.streams, sizeof *l.stream);
    l.sending = malloc(LWS_PRE + FRAME_HEADER + longest_image());
    l.errors = json_object();
    l.context = lws_create_context(&info);
    if (!l.part || !l.stream || !l.sending || !l.errors || !l.context)
        return 1;
    run();
    report();
    lws_context_destroy(l.context);
    return l.failed;
}
