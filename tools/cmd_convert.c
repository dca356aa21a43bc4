/* tv3s convert: a checkpoint in, a model file out. */
#include "base/nearest.h"
#include "engine/import/import.h"
#include "tools/tool.h"

#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: tv3s convert IN [-o OUT.safetensors] [--window N] [--shift N] [--resize PRESET]\n"
    "                    [--output direct|add]\n"
    "\n"
    "Makes a model file of a checkpoint: published TV3S and SegFormer .pth archives, SegFormer in\n"
    "Hugging Face naming (.bin, or .safetensors with config.json beside), or a model file again.\n"
    "The architecture is inferred from the shapes of the tensors; what no shape tells:\n"
    "  -o, --out FILE     the model file; default: IN with the extension .safetensors\n"
    "  --window N         side of the state-space windows; default 20\n"
    "  --shift N          shift of the windows in odd layers; default half the window\n"
    "  --resize PRESET    vspw, cityscapes, native or WxH; default by the number of classes\n"
    "  --output KIND      direct, or add: the grid's features added before the classifier\n";

struct arguments {
    const char *in;
    char out[PATH_MAX];
    struct import_options options;
    bool help;
};

static int parse_number(const char *name, const char *option, int low, const char *text, int *out)
{
    char *end;
    long n = strtol(text, &end, 10);
    if (end == text || *end || n < low || n > 64)
        return tool_usage(name, "--%s is a number %d to 64, not '%s'", option, low, text);
    *out = (int)n;
    return TOOL_OK;
}

/* IN with its extension replaced. */
static int default_output(const char *name, struct arguments *a)
{
    const char *base = strrchr(a->in, '/');
    base = base ? base + 1 : a->in;
    const char *dot = strrchr(base, '.');
    int stem = dot && dot != base ? (int)(dot - a->in) : (int)strlen(a->in);
    if (snprintf(a->out, sizeof a->out, "%.*s.safetensors", stem, a->in) >= (int)sizeof a->out)
        return tool_error(name, "the path is too long");
    if (strcmp(a->out, a->in) == 0)
        return tool_error(name, "%s would be overwritten; name another file with -o", a->in);
    return TOOL_OK;
}

static int parse_option(const char *name, int option, const char *text, struct arguments *a)
{
    struct import_options *o = &a->options;
    switch (option) {
    case 'h':
        a->help = true;
        return TOOL_OK;
    case 'o':
        if (snprintf(a->out, sizeof a->out, "%s", text) >= (int)sizeof a->out || !*text)
            return tool_usage(name, "-o needs a file name");
        return TOOL_OK;
    case 'w':
        return parse_number(name, "window", 1, text, &o->window);
    case 's':
        o->set_shift = true;
        return parse_number(name, "shift", 0, text, &o->shift);
    case 'r':
        o->set_resize = true;
        if (resize_parse(text, &o->resize))
            return tool_usage(name, "%s", err_text());
        return TOOL_OK;
    case 'p':
        o->set_output = true;
        o->output = strcmp(text, "add") == 0 ? OUTPUT_ADD : OUTPUT_DIRECT;
        if (o->output != OUTPUT_ADD && strcmp(text, "direct") != 0)
            return tool_usage(name, "--output is direct or add, not '%s'", text);
        return TOOL_OK;
    default:
        return TOOL_USAGE;
    }
}

static int parse(int argc, char **argv, struct arguments *a)
{
    static const struct option options[] = {
        {"out", required_argument, NULL, 'o'},
        {"window", required_argument, NULL, 'w'},
        {"shift", required_argument, NULL, 's'},
        {"resize", required_argument, NULL, 'r'},
        {"output", required_argument, NULL, 'p'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int status = TOOL_OK;
    for (int c; !status && (c = getopt_long(argc, argv, "o:h", options, NULL)) != -1;) {
        if (c == '?') /* getopt_long has printed its line */
            nearest_option(argv, options);
        status = parse_option(argv[0], c, optarg, a);
    }
    if (status || a->help)
        return status;
    if (optind + 1 != argc)
        return tool_usage(argv[0],
                          optind == argc ? "which checkpoint?" : "one checkpoint at a time");
    a->in = argv[optind];
    return a->out[0] ? TOOL_OK : default_output(argv[0], a);
}

/* With what no shape tells, so that a default that is wrong for the checkpoint is seen. */
static void describe(const char *out, const struct import_report *report)
{
    const struct arch *a = &report->arch;
    char resize[64];
    resize_format(&a->resize, resize, sizeof resize);
    printf("%s: %s %s, %d classes, %.1f M parameters", out, a->name,
           a->head == HEAD_TV3S ? "TV3S" : "SegFormer", a->classes,
           (double)report->parameters / 1e6);
    if (a->head == HEAD_TV3S)
        printf(", windows of %d shifted by %d", a->window, a->shift);
    printf(", resize %s\n", resize);
}

int cmd_convert(int argc, char **argv)
{
    struct arguments a = {0};
    struct import_report report;
    int status = parse(argc, argv, &a);
    if (status)
        return status;
    if (a.help) {
        fputs(usage, stdout);
        return TOOL_OK;
    }
    signal(SIGXFSZ, SIG_IGN); /* a file that grows too large is an error like a full disk */
    if (import_checkpoint(a.in, a.out, &a.options, &report))
        return tool_error(argv[0], "%s", err_text());
    if (report.note)
        fprintf(stderr, "%s: note: %s\n", argv[0], report.note);
    describe(a.out, &report);
    return TOOL_OK;
}
