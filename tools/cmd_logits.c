/* tv3s logits: grid logits and masks of raw frames, to check the engine's arithmetic from outside.
 *
 * The file is read in runs of --batch frames and never held whole. Nothing is resized before the
 * network: the resize preset of the model is overridden. In clip mode each four frames are one
 * clip: the stream starts from zero before each and only its last frame yields an output. */
#include "base/nearest.h"
#include "engine/engine.h"
#include "tools/npy.h"
#include "tools/options.h"
#include "tools/tool.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CLIP = 4, MAX_BATCH = 64, MAX_THREADS = 1024 };

static const char usage_text[] =
    "usage: tv3s logits MODEL --rgb FILE --size WxH [--logits OUT.npy] [--masks OUT.npy] ...\n"
    "\n"
    "FILE holds packed RGB24 frames. Writes grid logits, float32 (frames, classes, h, w), and\n"
    "masks, uint8 (frames, H, W). Frames are not resized.\n"
    "\n"
    "  --mode stream|clip|frame   stream; clip: each 4 frames are one clip with one output\n"
    "  --batch N                  frames per step of the engine (1)\n"
    "  --device cpu|cuda[:N]      (cpu)\n"
    "  --dtype f32|bf16|tf32      (f32; tf32 on a GPU)\n"
    "  --isa NAME                 cpu: baseline, avx2, avx512, avx512_bf16 (the best)\n"
    "  --threads N                cpu: (all)\n";

struct job {
    const char *model_path, *rgb_path, *logits_path, *masks_path;
    struct engine_config config;
    enum stream_mode mode;
    int width, height, batch;
    uint64_t frames;

    struct model *model;
    struct engine *engine;
    struct stream *stream;
    struct geometry geometry;
    FILE *rgb;
    struct npy *logits_file, *masks_file;
    uint8_t *pixels, *masks; /* of a run: [batch][height][width][3], [batch][height][width] */
    float *logits;           /* [batch][classes][grid_height][grid_width] */
};

static size_t frame_pixels(const struct job *j)
{
    return (size_t)j->width * (size_t)j->height;
}

static size_t grid_floats(const struct job *j)
{
    return (size_t)j->model->arch.classes * (size_t)j->geometry.grid_height *
           (size_t)j->geometry.grid_width;
}

/* Opens the frames and counts them. */
static enum err open_frames(struct job *j)
{
    size_t bytes = 3 * frame_pixels(j), per_output = j->mode == MODE_CLIP ? CLIP : 1;
    j->rgb = fopen(j->rgb_path, "rb");
    if (!j->rgb || fseeko(j->rgb, 0, SEEK_END) != 0)
        return err_set(ERR_IO, "%s: %s", j->rgb_path, strerror(errno));
    uint64_t length = (uint64_t)ftello(j->rgb);
    rewind(j->rgb);
    j->frames = length / bytes;
    if (length % bytes || !j->frames)
        return err_set(ERR_FORMAT, "%s: %llu bytes are no whole number of %dx%d RGB24 frames",
                       j->rgb_path, (unsigned long long)length, j->width, j->height);
    if (j->frames % per_output)
        return err_set(ERR_FORMAT, "%s: %llu frames are no whole number of clips of %d",
                       j->rgb_path, (unsigned long long)j->frames, CLIP);
    return ERR_OK;
}

static enum err open_engine(struct job *j)
{
    struct stream_config stream = {.mode = j->mode,
                                   .resize_override = true,
                                   .resize = {.kind = RESIZE_NATIVE},
                                   .clip_frames = CLIP,
                                   .clip_offsets = {3, 2, 1, 0}};
    enum err err = model_open(j->model_path, &j->model);
    if (!err)
        err = engine_geometry(&j->model->arch, j->width, j->height, &stream.resize, &j->geometry);
    if (!err)
        err = engine_open(j->model, &j->config, &j->engine);
    if (!err)
        err = stream_open(j->engine, &stream, &j->stream);
    return err;
}

static enum err open_outputs(struct job *j)
{
    const struct geometry *g = &j->geometry;
    const int64_t logits[3] = {j->model->arch.classes, g->grid_height, g->grid_width};
    const int64_t masks[2] = {j->height, j->width};
    size_t batch = (size_t)j->batch;
    enum err err = ERR_OK;
    j->pixels = calloc(batch, 3 * frame_pixels(j));
    j->masks = calloc(batch, frame_pixels(j));
    j->logits = calloc(batch, grid_floats(j) * sizeof *j->logits);
    if (!j->pixels || !j->masks || !j->logits)
        return err_set(ERR_NOMEM, "no memory for runs of %d frames", j->batch);
    if (j->logits_path)
        err = npy_open(j->logits_path, DT_F32, 3, logits, &j->logits_file);
    if (!err && j->masks_path)
        err = npy_open(j->masks_path, DT_U8, 2, masks, &j->masks_file);
    return err;
}

/* Whether frame `i` of the file yields an output. */
static bool has_output(const struct job *j, uint64_t i)
{
    return j->mode != MODE_CLIP || i % CLIP == CLIP - 1;
}

static enum err write_outputs(struct job *j, uint64_t first, int count)
{
    enum err err = ERR_OK;
    for (int i = 0; i < count && !err; i++) {
        if (!has_output(j, first + (uint64_t)i))
            continue;
        if (j->logits_file)
            err = npy_write(j->logits_file, j->logits + (size_t)i * grid_floats(j));
        if (!err && j->masks_file)
            err = npy_write(j->masks_file, j->masks + (size_t)i * frame_pixels(j));
    }
    return err;
}

/* Frames first .. first + count - 1 through the engine and into the files. */
static enum err label_run(struct job *j, uint64_t first, int count)
{
    struct image frames[MAX_BATCH];
    uint8_t *labels[MAX_BATCH];
    float *logits[MAX_BATCH];
    size_t pixels = frame_pixels(j);
    if (fread(j->pixels, 3 * pixels, (size_t)count, j->rgb) != (size_t)count)
        return err_set(ERR_IO, "%s: cannot read frame %llu", j->rgb_path,
                       (unsigned long long)first);
    for (int i = 0; i < count; i++) {
        bool output = has_output(j, first + (uint64_t)i);
        size_t at = (size_t)i;
        frames[i] = image_of_rgb24(j->pixels + 3 * at * pixels, j->width, j->height);
        labels[i] = output && j->masks_file ? j->masks + at * pixels : NULL;
        logits[i] = output && j->logits_file ? j->logits + at * grid_floats(j) : NULL;
    }
    const struct engine_run run = {j->stream, count, frames, labels, logits};
    enum err err = engine_step(j->engine, &run, 1);
    return err ? err : write_outputs(j, first, count);
}

static enum err label_all(struct job *j)
{
    enum err err = ERR_OK;
    for (uint64_t i = 0; i < j->frames && !err;) {
        uint64_t end = j->frames;
        if (j->mode == MODE_CLIP) { /* a run stays inside its clip */
            end = i - i % CLIP + CLIP;
            if (i % CLIP == 0)
                stream_reset(j->stream);
        }
        int count = end - i < (uint64_t)j->batch ? (int)(end - i) : j->batch;
        err = label_run(j, i, count);
        i += (uint64_t)count;
    }
    return err;
}

static enum err finish(struct job *j)
{
    struct npy *logits = j->logits_file, *masks = j->masks_file;
    enum err err = ERR_OK;
    if (logits) {
        j->logits_file = NULL;
        err = npy_commit(logits);
    }
    if (masks && !err) {
        j->masks_file = NULL;
        err = npy_commit(masks);
    }
    return err;
}

static void close_all(struct job *j)
{
    npy_abort(j->logits_file);
    npy_abort(j->masks_file);
    if (j->rgb)
        fclose(j->rgb);
    stream_close(j->stream);
    if (j->engine)
        engine_close(j->engine);
    model_close(j->model);
    free(j->pixels);
    free(j->masks);
    free(j->logits);
}

enum { RGB = 1, SIZE, LOGITS, MASKS, MODE, BATCH, DEVICE, DTYPE, ISA, THREADS, HELP };

/* Whether the value of option `o` is good. */
static bool take(struct job *j, int o, const char *value)
{
    switch (o) {
    case RGB:
        j->rgb_path = value;
        return true;
    case LOGITS:
        j->logits_path = value;
        return true;
    case MASKS:
        j->masks_path = value;
        return true;
    case ISA:
        j->config.isa = value; /* engine_open knows which there are */
        return true;
    case SIZE:
        return option_size(value, &j->width, &j->height);
    case MODE:
        return option_mode(value, &j->mode);
    case BATCH:
        return option_int(value, 1, MAX_BATCH, &j->batch);
    case DEVICE:
        return option_device(value, &j->config.device, &j->config.device_index);
    case DTYPE:
        return option_dtype(value, &j->config);
    default:
        return option_int(value, 0, MAX_THREADS, &j->config.threads);
    }
}

/* Returns TOOL_OK to go on, -1 after --help, or the exit status. */
static int parse(int argc, char **argv, struct job *j)
{
    static const struct option options[] = {
        {"rgb", required_argument, NULL, RGB},       {"size", required_argument, NULL, SIZE},
        {"logits", required_argument, NULL, LOGITS}, {"masks", required_argument, NULL, MASKS},
        {"mode", required_argument, NULL, MODE},     {"batch", required_argument, NULL, BATCH},
        {"device", required_argument, NULL, DEVICE}, {"dtype", required_argument, NULL, DTYPE},
        {"isa", required_argument, NULL, ISA},       {"threads", required_argument, NULL, THREADS},
        {"help", no_argument, NULL, HELP},           {0}};
    for (int o, which; (o = getopt_long(argc, argv, "", options, &which)) != -1;) {
        if (o == '?') {
            nearest_option(argv, options);
            return TOOL_USAGE;
        }
        if (o == HELP)
            return fputs(usage_text, stdout) < 0 ? TOOL_FAILED : -1;
        if (!take(j, o, optarg))
            return tool_option(argv[0], options[which].name, optarg);
    }
    if (argc - optind != 1)
        return tool_usage(argv[0], "one model file is needed");
    if (!j->rgb_path || !j->width)
        return tool_usage(argv[0], "--rgb and --size are needed");
    if (!j->logits_path && !j->masks_path)
        return tool_usage(argv[0], "--logits or --masks is needed");
    j->model_path = argv[optind];
    return TOOL_OK;
}

int cmd_logits(int argc, char **argv)
{
    struct job j = {.batch = 1, .config = {.device = DEVICE_CPU, .dtype = DT_F32}};
    int status = parse(argc, argv, &j);
    if (status != TOOL_OK)
        return status < 0 ? TOOL_OK : status;
    enum err err = open_frames(&j);
    if (!err)
        err = open_engine(&j);
    if (!err)
        err = open_outputs(&j);
    if (!err)
        err = label_all(&j);
    if (!err)
        err = finish(&j);
    if (err)
        status = tool_error(argv[0], "%s", err_text());
    close_all(&j);
    return status;
}
