#include "tools/input.h"

#include "base/try.h"
#include "kernels/device_memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

struct input {
    struct input_options o;
    struct decode_options decode; /* what o.decode is, through here */
    struct decode_device device;
    struct decoder *decoder;
    struct device_memory **memory; /* of the frame that is asked for */
    bool no_room;                  /* for pictures on the device */
    bool skips;                    /* to where it was */
    bool was_there;                /* frames came from the device before they came from here */
    int64_t given, last_pts;
    char why[256];
};

static void on_report(void *ctx, const char *text)
{
    const struct input *in = ctx;
    if (in->o.decode.report && !in->skips)
        in->o.decode.report(in->o.decode.ctx, text);
}

static bool on_cancelled(void *ctx)
{
    const struct input *in = ctx;
    return in->o.decode.cancelled && in->o.decode.cancelled(in->o.decode.ctx);
}

/* Pictures that the device has no memory for come to the host. */
static enum err on_take(void *ctx, const struct device_nv12 *picture, struct frame *f)
{
    struct input *in = ctx;
    struct device_memory **m = in->memory;
    size_t need = pixels_bytes(PIXELS_NV12, picture->width, picture->height);
    if (*m && device_memory_bytes(*m) < need) {
        device_memory_close(*m);
        *m = NULL;
    }
    if (!*m && !in->no_room) {
        enum err e = device_memory_open(in->device.index, need, NULL, m);
        in->no_room = e == ERR_NOMEM || e == ERR_UNSUPPORTED;
        if (e && !in->no_room)
            return e;
    }
    if (!*m)
        return ERR_LIMIT;
    TRY(device_memory_put(*m, 0, picture));
    f->device_pixels = device_memory_at(*m);
    return ERR_OK;
}

/* Whether the file can be begun anew. */
static bool is_file(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode));
}

static void choose_device(struct input *in)
{
    const char *why = in->o.device < 0 ? in->o.why : NULL;
    if (in->o.device >= 0 && !is_file(in->o.path))
        why = "the input can be read only once";
    else if (in->o.device >= 0 && device_memory_context(in->o.device, &in->device.context))
        why = err_text();
    else if (in->o.device >= 0)
        in->decode.device = &in->device;
    snprintf(in->why, sizeof in->why, "%s", why ? why : "");
}

enum err input_open(const struct input_options *o, struct input **out)
{
    struct input *in = *out = calloc(1, sizeof *in);
    if (!in)
        return err_set(ERR_NOMEM, "no memory for a decoder");
    in->o = *o;
    in->decode = o->decode;
    in->decode.report = on_report;
    in->decode.cancelled = on_cancelled;
    in->decode.ctx = in;
    in->device = (struct decode_device){.index = o->device, .take = on_take, .ctx = in};
    choose_device(in);
    return decoder_open(o->path, &in->decode, &in->decoder);
}

void input_close(struct input *in)
{
    if (!in)
        return;
    decoder_close(in->decoder);
    free(in);
}

const struct decode_info *input_info(const struct input *in)
{
    return decoder_info(in->decoder);
}

int64_t input_corrupt(const struct input *in)
{
    return in->decoder ? decoder_corrupt(in->decoder) : 0;
}

const char *input_place(const struct input *in, const char **why)
{
    const char *reason = NULL;
    const char *place = in->decoder ? decoder_place(in->decoder, &reason) : "cpu";
    *why = reason ? reason : in->why[0] ? in->why : NULL;
    return in->was_there ? "nvdec, then cpu" : place;
}

/* The frame that the device did not give. */
static enum err go_on_here(struct input *in, struct frame *f, bool *end)
{
    snprintf(in->why, sizeof in->why, "%s", err_text());
    on_report(in, "the video decoder of the GPU failed; the CPU goes on");
    in->was_there = in->given > 0;
    in->decode.device = NULL;
    decoder_close(in->decoder);
    in->decoder = NULL;
    in->skips = true;
    TRY(decoder_open(in->o.path, &in->decode, &in->decoder));
    do {
        TRY(decoder_next(in->decoder, f, end));
    } while (!*end && in->given > 0 && f->pts <= in->last_pts);
    in->skips = false;
    return ERR_OK;
}

enum err input_next(struct input *in, struct frame *f, struct device_memory **memory, bool *end)
{
    in->memory = memory;
    enum err e = decoder_next(in->decoder, f, end);
    if (e == ERR_DEVICE && in->decode.device)
        e = go_on_here(in, f, end);
    if (e || *end)
        return e;
    f->number = in->given++;
    in->last_pts = f->pts;
    return ERR_OK;
}
