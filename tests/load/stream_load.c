/* Many WebSocket streams from one thread, as a load on the daemon: JSON on standard output.
 *
 * Each stream sends the same images in turn, each from another one on, as often as --rate says or
 * as fast as its credit allows. A frame carries the time when it was due as its presentation time,
 * which comes back with the answer, so latency is that of the client's clock and a frame that had
 * to wait for credit is not forgiven. What is counted is what arrives between --warmup and
 * --warmup + --seconds after the last stream said hello.
 *
 * --frames N: no clock; each stream sends N frames and then stays open, idle ("idle" on standard
 * output says when), until standard input ends, or says a line: then each sends one more.
 *
 * --flood: sends without regard to credit, dropped or not, as fast as the daemon reads. */
#include "proto/message.h"

#include <getopt.h>
#include <jansson.h>
#include <libwebsockets.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { IMAGES = 256, CONNECTING = 32, FLOOD_CREDIT = 64, STAGES = 4 };

struct stream {
    struct lws *wsi;
    int number, in_flight, next_image, left; /* left: frames to send yet, -1 without end */
    int64_t seq, due;                        /* microseconds: when the next frame is */
    bool open, answering;                    /* answering: an answer whose end is not here yet */
    struct answer_message answer;
    int64_t answered, dropped, failed;
};

struct samples {
    uint32_t *of;
    size_t count, room;
};

static struct {
    int port, streams, frames, credit;
    double rate, warmup, seconds;
    bool flood;
    const char *prefix, *format;
} o = {.streams = 16, .credit = 4, .warmup = 1, .seconds = 5, .prefix = "load", .format = "png"};

static struct {
    struct lws_context *context;
    struct stream *stream;
    int connecting, connected, settled; /* settled: answered all they sent, with --frames */
    struct {
        uint8_t *bytes;
        size_t len;
    } image[IMAGES];
    uint8_t *sending; /* a copy, since libwebsockets masks in place */
    size_t longest;
    int images;
    int64_t begun, from, to; /* microseconds; the window that counts */
    struct samples latency, stage[STAGES];
    bool failed, over;
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

static void add(struct samples *s, int64_t value)
{
    if (s->count == s->room) {
        s->room = s->room ? 2 * s->room : 4096;
        s->of = realloc(s->of, s->room * sizeof *s->of);
        if (!s->of)
            abort();
    }
    s->of[s->count++] = value < 0 ? 0 : value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

/* ---- frames out ---------------------------------------------------------------------------------
 */

static void send_frame(struct stream *s, int64_t now)
{
    size_t len = l.image[s->next_image].len;
    uint8_t *message = l.sending + LWS_PRE;
    const struct frame_message f = {
        .kind = MESSAGE_IMAGE, .seq = s->seq++, .pts = o.rate > 0 ? s->due : now};
    message_write_frame(&f, message);
    memcpy(message + FRAME_HEADER, l.image[s->next_image].bytes, len);
    s->next_image = (s->next_image + 1) % l.images;
    s->due += o.rate > 0 ? (int64_t)(1e6 / o.rate) : 0;
    s->left -= s->left > 0;
    s->in_flight++;
    if (lws_write(s->wsi, message, FRAME_HEADER + len, LWS_WRITE_BINARY) < 0)
        fail("cannot send on", "a stream");
}

/* Sends what may be sent now, one at a time, or sets the timer. */
static void on_writable(struct stream *s)
{
    int64_t now = now_us();
    if (!s->open || s->left == 0 || (!o.flood && s->in_flight >= o.credit))
        return;
    if (o.rate > 0 && now < s->due) {
        lws_set_timer_usecs(s->wsi, s->due - now);
        return;
    }
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

static void take_answer(struct stream *s)
{
    const struct answer_message *a = &s->answer;
    int64_t now = now_us();
    s->in_flight--;
    if (o.frames || (now >= l.from && now < l.to)) {
        s->answered++;
        add(&l.latency, now - a->pts);
        add(&l.stage[0], a->decode_us);
        add(&l.stage[1], a->queue_us);
        add(&l.stage[2], a->compute_us);
        add(&l.stage[3], a->encode_us);
    }
    settle(s);
}

static void begin_streams(void)
{
    int64_t now = now_us();
    l.from = now + (int64_t)(o.warmup * 1e6);
    l.to = l.from + (int64_t)(o.seconds * 1e6);
    for (int i = 0; i < o.streams; i++) {
        struct stream *s = &l.stream[i];
        s->due = now + (o.rate > 0 ? (int64_t)(1e6 / o.rate * i / o.streams) : 0);
        s->open = true;
        lws_callback_on_writable(s->wsi);
    }
}

static void take_text(struct stream *s, const char *text, size_t len)
{
    json_t *m = json_loadb(text, len, 0, NULL);
    const char *type = m ? json_string_value(json_object_get(m, "type")) : NULL;
    if (!type) {
        fail("not a message:", text);
    } else if (strcmp(type, "hello") == 0) {
        s->seq = json_integer_value(json_object_get(m, "last_seq")) + 1;
        l.connecting--;
        if (++l.connected == o.streams)
            begin_streams();
    } else if (strcmp(type, "dropped") == 0) {
        size_t count = json_array_size(json_object_get(m, "seq"));
        s->dropped += (int64_t)count;
        s->in_flight -= (int)count;
    } else if (strcmp(type, "error") == 0) {
        if (s->failed++ == 0)
            fprintf(stderr, "stream_load: %.*s\n", (int)len, text);
        s->in_flight--;
        settle(s);
    } else {
        fail("unexpected message:", type);
    }
    json_decref(m);
}

/* A message comes in pieces; of an answer the head is enough. */
static void on_receive(struct stream *s, const void *data, size_t len)
{
    if (lws_frame_is_binary(s->wsi)) {
        if (!s->answering && message_parse_answer(data, len, &s->answer))
            fail("no answer:", err_text());
        s->answering = !lws_is_final_fragment(s->wsi);
        if (!s->answering)
            take_answer(s);
    } else if (lws_is_first_fragment(s->wsi) && lws_is_final_fragment(s->wsi)) {
        take_text(s, data, len);
    } else {
        fail("a text message came in", "pieces");
    }
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
        if (!l.over)
            fail("the daemon closed", "a stream");
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
    *s = (struct stream){
        .number = number, .next_image = number * 7 % l.images, .left = o.frames ? o.frames : -1};
    snprintf(path, sizeof path, "/v1/streams/%s-%d/ws?credit=%d&format=%s%s", o.prefix, number,
             o.flood ? FLOOD_CREDIT : o.credit, o.format, o.flood ? "&drop=newest" : "");
    const struct lws_client_connect_info info = {.context = l.context,
                                                 .address = "127.0.0.1",
                                                 .host = "127.0.0.1",
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

/* The service loop sleeps until something happens: this thread sees to it that it looks again when
 * a line came in, or when the time is over. */
static void *wake_up(void *unused)
{
    char line[16];
    (void)unused;
    if (!o.frames)
        usleep((useconds_t)((o.warmup + o.seconds) * 1e6) + 1000);
    else
        atomic_store(&l.again, fgets(line, sizeof line, stdin) != NULL);
    atomic_store(&l.woken, true);
    lws_cancel_service(l.context);
    return NULL;
}

static void await_wake_up(void)
{
    pthread_t t;
    if (pthread_create(&t, NULL, wake_up, NULL) != 0)
        fail("no", "thread");
    while (!l.failed && !atomic_load(&l.woken))
        lws_service(l.context, 0);
    pthread_detach(t);
}

static void await_settled(void)
{
    while (!l.failed && l.settled < o.streams)
        lws_service(l.context, 0);
}

static void run_counted(void)
{
    await_settled();
    puts("idle");
    fflush(stdout);
    await_wake_up();
    if (!atomic_load(&l.again))
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
        await_wake_up();
    l.over = true;
}

/* ---- the report ---------------------------------------------------------------------------------
 */

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static json_t *percentiles(struct samples *s)
{
    if (s->count == 0)
        return json_null();
    qsort(s->of, s->count, sizeof *s->of, compare);
    size_t last = s->count - 1;
    return json_pack("{s:f, s:f, s:f}", "p50", s->of[last / 2] * 1e-3, "p99",
                     s->of[(size_t)((double)last * 0.99 + 0.5)] * 1e-3, "max", s->of[last] * 1e-3);
}

static void report(void)
{
    static const char *const name[STAGES] = {"decode", "queue", "compute", "encode"};
    json_t *stages = json_object();
    int64_t answered = 0, dropped = 0, failed = 0, least = INT64_MAX, most = 0;
    for (int i = 0; i < o.streams; i++) {
        const struct stream *s = &l.stream[i];
        answered += s->answered;
        dropped += s->dropped;
        failed += s->failed;
        least = s->answered < least ? s->answered : least;
        most = s->answered > most ? s->answered : most;
    }
    for (int i = 0; i < STAGES; i++)
        json_object_set_new(stages, name[i], percentiles(&l.stage[i]));
    json_t *j =
        json_pack("{s:i, s:I, s:I, s:I, s:[II], s:f, s:o, s:o}", "streams", o.streams, "answered",
                  (json_int_t)answered, "dropped", (json_int_t)dropped, "failed",
                  (json_int_t)failed, "per_stream", (json_int_t)least, (json_int_t)most,
                  "frames_per_second", o.frames ? 0.0 : (double)answered / o.seconds, "latency_ms",
                  percentiles(&l.latency), "stage_ms", stages);
    json_dumpf(j, stdout, JSON_COMPACT | JSON_REAL_PRECISION(6));
    puts("");
    json_decref(j);
}

/* ---- the start ----------------------------------------------------------------------------------
 */

static bool load_image(const char *path)
{
    FILE *f = l.images < IMAGES ? fopen(path, "rb") : NULL;
    long len = -1;
    if (f && fseek(f, 0, SEEK_END) == 0)
        len = ftell(f);
    uint8_t *bytes = len > 0 ? malloc((size_t)len) : NULL;
    if (bytes) {
        rewind(f);
        l.image[l.images].bytes = bytes;
        l.image[l.images].len = fread(bytes, 1, (size_t)len, f);
        l.longest = l.image[l.images].len > l.longest ? l.image[l.images].len : l.longest;
        l.images++;
    }
    if (f)
        fclose(f);
    return bytes != NULL;
}

static bool read_options(int argc, char **argv)
{
    static const struct option options[] = {
        {"port", 1, NULL, 'p'},    {"streams", 1, NULL, 'n'}, {"frames", 1, NULL, 'f'},
        {"credit", 1, NULL, 'c'},  {"rate", 1, NULL, 'r'},    {"warmup", 1, NULL, 'w'},
        {"seconds", 1, NULL, 's'}, {"flood", 0, NULL, 'F'},   {"prefix", 1, NULL, 'x'},
        {"format", 1, NULL, 'o'},  {NULL, 0, NULL, 0}};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (c) {
        case 'p':
            o.port = atoi(optarg);
            break;
        case 'n':
            o.streams = atoi(optarg);
            break;
        case 'f':
            o.frames = atoi(optarg);
            break;
        case 'c':
            o.credit = atoi(optarg);
            break;
        case 'r':
            o.rate = atof(optarg);
            break;
        case 'w':
            o.warmup = atof(optarg);
            break;
        case 's':
            o.seconds = atof(optarg);
            break;
        case 'F':
            o.flood = true;
            break;
        case 'x':
            o.prefix = optarg;
            break;
        case 'o':
            o.format = optarg;
            break;
        default:
            return false;
        }
    }
    for (int i = optind; i < argc; i++)
        if (!load_image(argv[i]))
            return false;
    return l.images > 0 && o.port > 0 && o.streams > 0 && o.seconds <= 600 && o.streams <= 10000;
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
    const struct lws_context_creation_info info = {
        .port = CONTEXT_PORT_NO_LISTEN, .protocols = protocols, .gid = (gid_t)-1, .uid = (uid_t)-1};
    if (!read_options(argc, argv)) {
        fputs("usage: stream_load --port P [--streams N] [--credit N] [--rate FPS] [--warmup S]\n"
              "       [--seconds S | --frames N] [--flood] [--prefix ID] [--format F] IMAGE...\n",
              stderr);
        return 2;
    }
    allow_files();
    lws_set_log_level(LLL_ERR, NULL);
    l.stream = calloc((size_t)o.streams, sizeof *l.stream);
    l.sending = malloc(LWS_PRE + FRAME_HEADER + l.longest);
    l.context = lws_create_context(&info);
    if (!l.stream || !l.sending || !l.context)
        return 1;
    run();
    report();
    lws_context_destroy(l.context);
    return l.failed;
}
