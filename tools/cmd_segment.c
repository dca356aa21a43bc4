#include "base/nearest.h"
#include "tools/options.h"
#include "tools/segment.h"
#include "tools/tool.h"

#include <getopt.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "usage: tv3s segment MODEL INPUT -o OUT [OPTIONS]\n"
    "\n"
    "Labels every pixel of every frame. MODEL is a file that 'tv3s convert' made. INPUT is a\n"
    "video or an image that FFmpeg opens ('-': standard input), or a folder of images, taken in\n"
    "the order of their names. Masks have the size of the frames as a player shows them.\n"
    "\n"
    "  -o, --output OUT     required. Its form tells the format, unless --format does:\n"
    "                       .zip or a folder: numbered PNGs; .mp4: overlay; .mkv: labels;\n"
    "                       .jsonl: rle; for an image also .png, .raw, .json. A new folder's\n"
    "                       name ends in '/'; frames of a folder keep their names there\n"
    "  --format FORMAT      png, raw, rle, coco_rle, overlay, labels\n"
    "  --mode MODE          stream (default): the hidden state goes from frame to frame;\n"
    "                       clip: frames t-9, t-6, t-3 and t afresh; frame: each by itself\n"
    "  --device DEVICE      cpu (default), cuda or cuda:N\n"
    "  --decoder WHERE      auto (default): a GPU decodes the video too where it can; cpu\n"
    "  --dtype TYPE         f32 (default, exact), bf16 (faster where the device has it) or, on\n"
    "                       a GPU, tf32\n"
    "  --resize PRESET      vspw, cityscapes, native or WxH instead of the model's own\n"
    "  --threads N          of the CPU device; 0 (default): all cores\n"
    "  --batch N            frames of one step, 1 to 64; default 1\n"
    "  --json               a summary on standard output\n"
    "  --quiet              warnings and errors only\n"
    "\n"
    "The output is whole or absent: it gets its name when it is complete.\n";

enum {
    OPT_FORMAT = 256,
    OPT_MODE,
    OPT_DEVICE,
    OPT_DECODER,
    OPT_DTYPE,
    OPT_RESIZE,
    OPT_THREADS,
    OPT_BATCH
};

static const struct option options[] = {
    {"output", required_argument, NULL, 'o'},
    {"format", required_argument, NULL, OPT_FORMAT},
    {"mode", required_argument, NULL, OPT_MODE},
    {"device", required_argument, NULL, OPT_DEVICE},
    {"decoder", required_argument, NULL, OPT_DECODER},
    {"dtype", required_argument, NULL, OPT_DTYPE},
    {"resize", required_argument, NULL, OPT_RESIZE},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"batch", required_argument, NULL, OPT_BATCH},
    {"json", no_argument, NULL, 'j'},
    {"quiet", no_argument, NULL, 'q'},
    {"help", no_argument, NULL, 'h'},
    {0},
};

struct request {
    struct segment_job job;
    enum mask_format format;
    bool json, quiet, help;
};

/* Takes one option's value; false if it is out of range. */
static bool take(struct request *r, int option, const char *value)
{
    struct segment_job *j = &r->job;
    switch (option) {
    case 'o':
        j->output = value;
        return true;
    case OPT_FORMAT:
        j->format = &r->format;
        return mask_format_parse(value, &r->format) == ERR_OK;
    case OPT_MODE:
        return option_mode(value, &j->stream.mode);
    case OPT_DEVICE:
        return option_device(value, &j->engine.device, &j->engine.device_index);
    case OPT_DECODER:
        j->decode_on_cpu = strcmp(value, "cpu") == 0;
        return j->decode_on_cpu || strcmp(value, "auto") == 0;
    case OPT_DTYPE:
        return option_dtype(value, &j->engine);
    case OPT_RESIZE:
        j->stream.resize_override = true;
        return resize_parse(value, &j->stream.resize) == ERR_OK;
    case OPT_THREADS:
        return option_int(value, 0, 1024, &j->engine.threads);
    case OPT_BATCH:
        return option_int(value, 1, SEGMENT_MAX_BATCH, &j->batch);
    case 'j':
        return r->json = true;
    case 'q':
        return r->quiet = true;
    default:
        return r->help = true;
    }
}

static int parse(int argc, char **argv, struct request *r)
{
    int c, index = 0;
    optind = 0;
    r->job.batch = 1;
    r->job.engine.dtype = DT_F32;
    while ((c = getopt_long(argc, argv, "o:h", options, &index)) != -1) {
        if (c == '?') {
            nearest_option(argv, options);
            return TOOL_USAGE;
        }
        if (!take(r, c, optarg))
            return tool_option(argv[0], options[index].name, optarg);
    }
    if (r->help)
        return TOOL_OK;
    if (argc - optind != 2)
        return tool_usage(argv[0], "MODEL and INPUT are needed, and nothing else");
    if (!r->job.output)
        return tool_usage(argv[0], "-o OUT is needed");
    r->job.model = argv[optind];
    r->job.input = argv[optind + 1];
    return TOOL_OK;
}

static atomic_int interrupt; /* the signal's number */

static void on_signal(int number)
{
    atomic_store(&interrupt, number);
}

/* A second signal ends the process at once. A file over its size limit and a reader that left are
 * errors of write(). */
static void catch_signals(void)
{
    struct sigaction catch = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND | SA_RESTART};
    sigaction(SIGINT, &catch, NULL);
    sigaction(SIGTERM, &catch, NULL);
    sigaction(SIGHUP, &catch, NULL);
    signal(SIGXFSZ, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
}

static void print_json(const struct segment_result *r)
{
    json_t *why = json_string(r->decoder_why);
    char *quoted = json_dumps(why, JSON_ENCODE_ANY);
    printf("{\"frames\":%lld,\"seconds\":%.3f,\"fps\":%.3f,\"corrupt\":%lld,\"decoder\":\"%s\","
           "\"decoder_why\":%s}\n",
           (long long)r->frames, r->seconds, (double)r->frames / r->seconds, (long long)r->corrupt,
           r->decoder, quoted && r->decoder_why[0] ? quoted : "null");
    free(quoted);
    json_decref(why);
}

int cmd_segment(int argc, char **argv)
{
    struct request r = {.job = {.interrupt = &interrupt}};
    struct segment_result result;
    int status = parse(argc, argv, &r);
    if (status != TOOL_OK)
        return status;
    if (r.help)
        return fputs(help, stdout) == EOF ? TOOL_FAILED : TOOL_OK;
    catch_signals();
    enum err e = progress_open(argv[0], !r.quiet, &r.job.progress);
    if (!e)
        e = segment_run(&r.job, &result);
    if (!e)
        progress_end(r.job.progress, &result);
    progress_close(r.job.progress);
    if (e == ERR_CANCELLED && atomic_load(&interrupt)) {
        tool_error(argv[0], "interrupted; nothing was written");
        signal(atomic_load(&interrupt), SIG_DFL);
        raise(atomic_load(&interrupt)); /* so that a shell sees why */
    }
    if (e)
        return tool_error(argv[0], "%s", err_text());
    if (r.json)
        print_json(&result);
    return TOOL_OK;
}
