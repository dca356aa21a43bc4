/* tv3s-client: videos, streams and images to a tv3sd and masks back, from the command line. */
#include "base/nearest.h"
#include "base/version.h"
#include "clients/c/cli/cli.h"

#include <getopt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char help[] =
    "usage: tv3s-client [OPTIONS] COMMAND ...\n"
    "\n"
    "  upload VIDEO -o OUT     sends a video, waits, and fetches its masks; with --webhook and\n"
    "                          without -o it does not wait, and says where the upload is\n"
    "  stream INPUT -o FOLDER  sends frame by frame; INPUT: a file, a URL such as rtsp://, or -\n"
    "  segment IMAGE -o MASK   one image, no memory\n"
    "  status [PATH]           what the server says of itself, or at PATH: /v1/streams, ...\n"
    "  save ID FILE            the hidden state of a stream into a file\n"
    "  restore ID FILE         and back, into a new stream where there is none\n"
    "  reset ID                the hidden state of a stream is zero again\n"
    "  delete ID               ends a stream; of an upload: /v1/videos/ID\n"
    "\n"
    "  -o, --output OUT        where masks go; '-' is standard output\n"
    "  --model, --mode, --format, --resize VALUE   as in proto/PROTOCOL.md\n"
    "  --webhook URL           of an upload: the server tells there of its end\n"
    "  --id ID                 of the stream; default: one made up\n"
    "  --drop none|oldest|newest, --credit N       of the stream\n"
    "  --takeover              take the stream from another connection\n"
    "  --resume                go on after the last frame that the stream has seen\n"
    "  --packets auto|on|off   send a video's packets without decoding it; default auto: where\n"
    "                          that gives the same pictures\n"
    "  --rate N                frames a second to send; default: as fast as answers come\n"
    "  --reconnects N          of a stream whose connection broke, in a row; default 8\n"
    "  --keep                  do not delete an upload when its masks are fetched\n"
    "  --url URL               default http://127.0.0.1:8080, or $TV3S_URL\n"
    "  --ws-url URL            of the WebSocket; default: the server says\n"
    "  --ca FILE               certificates to trust\n"
    "  --timeout SECONDS       without a byte; default 60\n"
    "  --json                  JSON lines on standard output\n"
    "  --quiet                 no progress\n"
    "\n"
    "An API key is taken from $TV3S_KEY.\n";

static const struct command {
    const char *name;
    int args_min, args_max;
    int (*run)(struct cli *c);
} commands[] = {
    {"upload", 1, 1, cmd_upload}, {"stream", 1, 1, cmd_stream}, {"segment", 1, 1, cmd_segment},
    {"status", 0, 1, cmd_status}, {"save", 2, 2, cmd_state},    {"restore", 2, 2, cmd_state},
    {"reset", 1, 1, cmd_end},     {"delete", 1, 1, cmd_end},
};

enum {
    OPT_MODEL = 256,
    OPT_MODE,
    OPT_FORMAT,
    OPT_RESIZE,
    OPT_WEBHOOK,
    OPT_ID,
    OPT_DROP,
    OPT_CREDIT,
    OPT_TAKEOVER,
    OPT_RESUME,
    OPT_PACKETS,
    OPT_RATE,
    OPT_RECONNECTS,
    OPT_KEEP,
    OPT_URL,
    OPT_WS_URL,
    OPT_CA,
    OPT_TIMEOUT,
    OPT_JSON,
    OPT_QUIET,
    OPT_VERSION
};

static const struct option options[] = {
    {"output", required_argument, NULL, 'o'},
    {"model", required_argument, NULL, OPT_MODEL},
    {"mode", required_argument, NULL, OPT_MODE},
    {"format", required_argument, NULL, OPT_FORMAT},
    {"resize", required_argument, NULL, OPT_RESIZE},
    {"webhook", required_argument, NULL, OPT_WEBHOOK},
    {"id", required_argument, NULL, OPT_ID},
    {"drop", required_argument, NULL, OPT_DROP},
    {"credit", required_argument, NULL, OPT_CREDIT},
    {"takeover", no_argument, NULL, OPT_TAKEOVER},
    {"resume", no_argument, NULL, OPT_RESUME},
    {"packets", required_argument, NULL, OPT_PACKETS},
    {"rate", required_argument, NULL, OPT_RATE},
    {"reconnects", required_argument, NULL, OPT_RECONNECTS},
    {"keep", no_argument, NULL, OPT_KEEP},
    {"url", required_argument, NULL, OPT_URL},
    {"ws-url", required_argument, NULL, OPT_WS_URL},
    {"ca", required_argument, NULL, OPT_CA},
    {"timeout", required_argument, NULL, OPT_TIMEOUT},
    {"json", no_argument, NULL, OPT_JSON},
    {"quiet", no_argument, NULL, OPT_QUIET},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, OPT_VERSION},
    {0},
};

/* ---- words --------------------------------------------------------------------------------------
 */

static bool drawing; /* a line of progress stands there, without its end */

void cli_end_line(void)
{
    if (drawing)
        fputc('\n', stderr);
    drawing = false;
}

int cli_error(const struct cli *c, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt ? fmt : tv3s_error(c->server), args);
    va_end(args);
    for (char *p = text; *p; p++)
        if ((unsigned char)*p < ' ') /* one line, whatever the server says */
            *p = ' ';
    cli_end_line();
    fprintf(stderr, "tv3s-client %s: %s\n", c->command, text);
    return CLI_FAILED;
}

void cli_progress(struct cli *c, const char *name, int64_t done, int64_t total, bool last)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    int64_t now = (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
    bool early = name == c->progress && now - c->drawn < 100;
    if (c->quiet || !isatty(STDERR_FILENO) || (!last && early))
        return;
    c->progress = name;
    c->drawn = now;
    fprintf(stderr, "\r\033[K%s %lld", name, (long long)done);
    if (total > 0)
        fprintf(stderr, " of %lld", (long long)total);
    drawing = true;
    if (last)
        cli_end_line();
}

int cli_json(const struct cli *c, json_t *o)
{
    if (c->json) {
        json_dumpf(o, stdout, JSON_COMPACT);
        putchar('\n');
    }
    json_decref(o);
    return fflush(stdout) || ferror(stdout) ? cli_error(c, "cannot write: %m") : CLI_OK;
}

/* ---- arguments ----------------------------------------------------------------------------------
 */

static int wrong(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int wrong(const char *fmt, ...)
{
    va_list args;
    fputs("tv3s-client: ", stderr);
    va_start(args, fmt);
    vfprintf(stderr, fmt, args);
    va_end(args);
    fputs(" (--help shows the usage)\n", stderr);
    return CLI_USAGE;
}

static bool whole(const char *text, int lo, int hi, int *out)
{
    char *end;
    long n = strtol(text, &end, 10);
    *out = (int)n;
    return end != text && !*end && n >= lo && n <= hi;
}

/* Which of three names. */
static bool one_of(const char *const names[3], const char *text, int *out)
{
    for (*out = 0; *out < 3; ++*out)
        if (strcmp(text, names[*out]) == 0)
            return true;
    return false;
}

static bool drop_policy(const char *text, enum tv3s_drop *out)
{
    int i;
    bool known = one_of((const char *const[3]){"none", "oldest", "newest"}, text, &i);
    *out = known ? (enum tv3s_drop)i : TV3S_DROP_NONE;
    return known;
}

static bool what_to_send(const char *text, enum feed_kind *out)
{
    int i;
    bool known = one_of((const char *const[3]){"auto", "off", "on"}, text, &i);
    *out = known ? (enum feed_kind)i : FEED_AUTO;
    return known;
}

static bool frames_a_second(const char *text, double *out)
{
    char *end;
    *out = strtod(text, &end);
    return end != text && !*end && *out > 0 && *out <= 10000;
}

/* Takes one option's value; false if it is out of range. */
static bool take(struct cli *c, struct tv3s_options *o, int option, const char *value)
{
    struct tv3s_params *p = &c->stream.params;
    int seconds = 0;
    switch (option) {
    case 'o':
        c->output = value;
        return true;
    case OPT_MODEL:
        p->model = value;
        return true;
    case OPT_MODE:
        p->mode = value;
        return true;
    case OPT_FORMAT:
        p->format = value;
        return true;
    case OPT_RESIZE:
        p->resize = value;
        return true;
    case OPT_WEBHOOK:
        p->webhook = value;
        return true;
    case OPT_ID:
        c->id = value;
        return true;
    case OPT_DROP:
        return drop_policy(value, &c->stream.drop);
    case OPT_CREDIT:
        return whole(value, 1, 64, &c->stream.credit);
    case OPT_TAKEOVER:
        return c->stream.takeover = true;
    case OPT_RESUME:
        return c->resume = true;
    case OPT_PACKETS:
        return what_to_send(value, &c->packets);
    case OPT_RATE:
        return frames_a_second(value, &c->rate);
    case OPT_RECONNECTS:
        return whole(value, 0, 1000000, &c->stream.reconnects);
    case OPT_KEEP:
        return c->keep = true;
    case OPT_URL:
        o->url = value;
        return true;
    case OPT_WS_URL:
        o->ws_url = value;
        return true;
    case OPT_CA:
        o->ca = value;
        return true;
    case OPT_TIMEOUT:
        if (!whole(value, 1, 86400, &seconds))
            return false;
        o->timeout_ms = 1000 * seconds;
        return true;
    case OPT_JSON:
        return c->json = true;
    default:
        return c->quiet = true;
    }
}

static const struct command *find(const char *name)
{
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

static int unknown(const char *name)
{
    struct nearest n = nearest_to(name);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        nearest_offer(&n, commands[i].name);
    if (!nearest_name(&n))
        return wrong("there is no command '%s'", name);
    return wrong("there is no command '%s'; did you mean '%s'?", name, nearest_name(&n));
}

static int run(struct cli *c, const struct tv3s_options *o, const struct command *command)
{
    int status = tv3s_open(o, &c->server) ? cli_error(c, "no memory") : command->run(c);
    tv3s_close(c->server);
    return status;
}

int main(int argc, char **argv)
{
    struct cli c = {.stream.reconnects = 8};
    struct tv3s_options o = {.url = getenv("TV3S_URL"), .key = getenv("TV3S_KEY")};
    int option, index = 0;
    signal(SIGPIPE, SIG_IGN);
    while ((option = getopt_long(argc, argv, "o:h", options, &index)) != -1) {
        if (option == '?') {
            nearest_option(argv, options);
            return CLI_USAGE;
        }
        if (option == 'h')
            return fputs(help, stdout) < 0;
        if (option == OPT_VERSION)
            return puts("tv3s-client " TV3S_VERSION) < 0;
        if (!take(&c, &o, option, optarg))
            return wrong("--%s cannot be '%s'", options[index].name, optarg);
    }
    if (optind == argc)
        return wrong("a command is needed");
    const struct command *command = find(argv[optind]);
    c.command = argv[optind];
    c.args = argv + optind + 1;
    c.count = argc - optind - 1;
    if (!command)
        return unknown(c.command);
    if (c.count < command->args_min || c.count > command->args_max)
        return wrong("'%s' takes %d to %d arguments", c.command, command->args_min,
                     command->args_max);
    return run(&c, &o, command);
}
