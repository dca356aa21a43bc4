/* tv3s-client stream: a file or a camera, frame by frame, its masks as they come.
 *
 * Frames are sent as packets, where that gives the same pictures, or decoded here and sent as RGB24
 * (feed.h). The masks are those of `tv3s segment` on the same file, and after a lost connection
 * every frame that the server did not apply is sent again. */
#include "base/outfile.h"
#include "clients/c/cli/cli.h"
#include "proto/mask.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

struct job {
    struct cli *c;
    struct tv3s_stream *stream;
    struct feed *feed;
    const char *extension;
    bool rewound; /* the feed has gone back since the end of its frames */
    int64_t due, sent, answered, dropped, failed; /* due: when the next frame is, nanoseconds */
};

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* ---- what comes back ----------------------------------------------------------------------------
 */

static int write_mask(const struct job *j, const struct tv3s_event *e)
{
    char path[4096];
    const char *folder = j->c->output;
    struct outfile *file;
    if (!folder)
        return CLI_OK;
    if (strcmp(folder, "-") == 0)
        return fwrite(e->mask, 1, e->mask_len, stdout) == e->mask_len && fflush(stdout) == 0
                   ? CLI_OK
                   : cli_error(j->c, "cannot write: %m");
    snprintf(path, sizeof path, "%s/%06" PRId64 ".%s", folder, e->seq, j->extension);
    if (outfile_open(path, &file))
        return cli_error(j->c, "%s", err_text());
    if (outfile_write(file, e->mask, e->mask_len)) {
        outfile_abort(file);
        return cli_error(j->c, "%s", err_text());
    }
    return outfile_commit(file) ? cli_error(j->c, "%s", err_text()) : CLI_OK;
}

static json_t *describe(const struct tv3s_event *e)
{
    static const char *const names[] = {"answer",    "dropped",   "unanswered", "failed",
                                        "restarted", "connected", "ended"};
    if (e->kind == TV3S_ANSWER)
        return json_pack("{s:s, s:I, s:i, s:i, s:b, s:I, s:I, s:I, s:I, s:I}", "event", "answer",
                         "seq", (json_int_t)e->seq, "width", e->width, "height", e->height,
                         "from_zero", e->from_zero, "bytes", (json_int_t)e->mask_len, "decode_us",
                         (json_int_t)e->decode_us, "queue_us", (json_int_t)e->queue_us,
                         "compute_us", (json_int_t)e->compute_us, "encode_us",
                         (json_int_t)e->encode_us);
    return json_pack("{s:s, s:I, s:s}", "event", names[e->kind], "seq", (json_int_t)e->seq,
                     "reason", e->text);
}

/* What an event means for the frames to come. Returns how many of them cannot be sent again. */
static int64_t follow(struct job *j, const struct tv3s_event *e)
{
    if (!feed_packets(j->feed))
        return 0;
    if (e->kind == TV3S_ANSWER)
        feed_settle(j->feed, e->seq, tv3s_stream_stored(j->stream));
    if (e->kind != TV3S_RECONNECTED)
        return 0;
    j->rewound = true;
    return feed_rewind(j->feed, e->seq);
}

/* In words, but for answers and the end. */
static void say(const struct tv3s_event *e)
{
    cli_end_line();
    if (e->kind == TV3S_RECONNECTED && e->seq < 0)
        fputs("the connection is back; no frame had been labelled\n", stderr);
    else if (e->kind == TV3S_RECONNECTED)
        fprintf(stderr, "the connection is back; the last frame labelled is %" PRId64 "\n", e->seq);
    else
        fprintf(stderr, "frame %" PRId64 ": %s\n", e->seq,
                e->kind == TV3S_RESTARTED    ? "the state began anew"
                : e->kind == TV3S_UNANSWERED ? "its mask went with the connection"
                                             : e->text);
}

static int take(struct job *j, const struct tv3s_event *e)
{
    int status = CLI_OK;
    int64_t lost = follow(j, e);
    if (e->kind == TV3S_ANSWER && !e->mask)
        return CLI_OK; /* it had its mask */
    if (e->kind == TV3S_ANSWER)
        status = write_mask(j, e);
    j->answered += e->kind == TV3S_ANSWER;
    j->dropped += lost + (e->kind == TV3S_DROPPED || e->kind == TV3S_UNANSWERED);
    j->failed += e->kind == TV3S_FAILED_FRAME;
    if (!j->c->json && !j->c->quiet && e->kind != TV3S_ANSWER && e->kind != TV3S_ENDED)
        say(e);
    if (lost && !j->c->quiet) {
        cli_end_line();
        fprintf(stderr, "%" PRId64 " frames after that cannot be sent again\n", lost);
    }
    cli_progress(j->c, "masks:", j->answered, -1, e->kind == TV3S_ENDED);
    return status ? status : cli_json(j->c, describe(e));
}

/* What is there, without waiting. */
static int take_all(struct job *j)
{
    struct tv3s_event e;
    enum tv3s_result r = TV3S_OK;
    int status = CLI_OK;
    while (!status && (r = tv3s_next(j->stream, 0, &e)) == TV3S_OK && e.kind != TV3S_ENDED)
        status = take(j, &e);
    if (!status && r == TV3S_OK)
        return cli_error(j->c, "the server ended the stream: %s", e.text);
    return !status && r != TV3S_TIMEOUT ? cli_error(j->c, NULL) : status;
}

/* To the end, or until there is more to send. */
static int take_rest(struct job *j)
{
    struct tv3s_event e = {0};
    int status = CLI_OK;
    while (!status && e.kind != TV3S_ENDED && !j->rewound) {
        if (tv3s_next(j->stream, -1, &e))
            return cli_error(j->c, NULL);
        status = take(j, &e);
    }
    return !status && !j->rewound && strcmp(e.text, "end") != 0
               ? cli_error(j->c, "the server ended the stream: %s", e.text)
               : status;
}

/* ---- what goes out ------------------------------------------------------------------------------
 */

static int wait_for_turn(struct job *j)
{
    if (j->c->rate <= 0)
        return CLI_OK;
    for (int64_t left; (left = j->due - now_ns()) > 0;) {
        int status = take_all(j);
        if (status)
            return status;
        nanosleep(&(struct timespec){.tv_nsec = left < 2000000 ? left : 2000000}, NULL);
    }
    j->due += (int64_t)(1e9 / j->c->rate);
    return CLI_OK;
}

/* Up to the end of the input, which the server is told. */
static int send_all(struct job *j)
{
    struct tv3s_frame f;
    enum tv3s_result r;
    bool end = false;
    j->rewound = false;
    for (int status = CLI_OK; !status;) {
        if ((status = wait_for_turn(j)))
            return status;
        if (feed_next(j->feed, &f, &end))
            return cli_error(j->c, "%s", err_text());
        r = end ? tv3s_end(j->stream) : tv3s_send(j->stream, &f, NULL);
        if (end && !r)
            return CLI_OK;
        if (r && r != TV3S_AGAIN)
            return cli_error(j->c, NULL);
        j->sent += !r;
        if ((status = take_all(j)))
            return status;
    }
    return CLI_OK;
}

static void warn(void *job, const char *text)
{
    const struct job *j = job;
    if (j->c->quiet)
        return;
    cli_end_line();
    fprintf(stderr, "tv3s-client stream: %s\n", text);
}

static int run(struct job *j)
{
    int status = CLI_OK;
    if (feed_begin(j->feed, tv3s_stream_last_seq(j->stream), j->c->resume))
        return cli_error(j->c, "%s", err_text());
    j->due = now_ns();
    do {
        status = send_all(j);
        status = status ? status : take_rest(j);
    } while (!status && j->rewound);
    if (status)
        return status;
    const char *as = feed_packets(j->feed) ? "packets" : "pictures";
    status = cli_json(j->c,
                      json_pack("{s:s, s:I, s:I, s:I, s:I, s:s}", "event", "summary", "sent",
                                (json_int_t)j->sent, "answered", (json_int_t)j->answered, "dropped",
                                (json_int_t)j->dropped, "failed", (json_int_t)j->failed, "as", as));
    return status ? status : j->failed ? CLI_FAILED : CLI_OK;
}

/* Where masks go: nothing is made before there is something to send, and a server to send it to. */
static int make_folder(const struct cli *c)
{
    if (c->output && strcmp(c->output, "-") != 0 && mkdir(c->output, 0777) && errno != EEXIST)
        return cli_error(c, "cannot make the folder %s: %m", c->output);
    return CLI_OK;
}

int cmd_stream(struct cli *c)
{
    struct job j = {.c = c};
    struct decoder *input;
    const struct decode_options decode = {.report = warn, .ctx = &j};
    enum mask_format format = MASK_PNG;
    char made[32];
    int status = CLI_FAILED;
    if (c->stream.params.format && mask_format_parse(c->stream.params.format, &format))
        return cli_error(c, "%s", err_text());
    j.extension = mask_format_extension(format);
    if (!c->id) {
        snprintf(made, sizeof made, "client-%llx", (unsigned long long)now_ns());
        c->id = made;
    }
    if (decoder_open(c->args[0], &decode, &input))
        return cli_error(c, "%s", err_text());
    if (feed_open(input, c->packets, &j.feed))
        cli_error(c, "%s", err_text());
    else
        c->stream.rewinds = feed_packets(j.feed);
    if (j.feed && tv3s_stream_open(c->server, c->id, &c->stream, &j.stream))
        cli_error(c, NULL);
    if (j.stream && !make_folder(c))
        status = run(&j);
    tv3s_stream_close(j.stream);
    feed_close(j.feed);
    decoder_close(input);
    return status;
}
