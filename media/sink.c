#include "media/sink.h"

#include "base/outfile.h"
#include "base/zipfile.h"
#include "media/encode.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

struct sink {
    struct sink_options o;
    struct outfile *file;        /* all but SINK_FOLDER */
    struct outdir *folder;       /* SINK_FOLDER */
    struct zipfile *zip;         /* SINK_ZIP */
    struct video_encoder *video; /* SINK_VIDEO, from the first frame on */
    struct buf bytes;            /* the frame being written */
    uint8_t *blend;              /* overlay video: the picture being encoded */
    int width, height;           /* of the first frame */
    int64_t frames;
    size_t entry; /* bytes of the last frame; they end where the file does, but for a line's end */
};

/* ---- choosing -----------------------------------------------------------------------------------
 */

/* What a name's end says, where the user says nothing. */
static const struct {
    const char *ending;
    enum mask_format format;
} endings[] = {
    {".zip", MASK_PNG},   {".png", MASK_PNG},     {".raw", MASK_RAW},    {".json", MASK_RLE},
    {".jsonl", MASK_RLE}, {".mp4", MASK_OVERLAY}, {".mkv", MASK_LABELS},
};
enum { ENDINGS = sizeof endings / sizeof *endings };

static bool ends_with(const char *path, const char *ending)
{
    size_t n = strlen(path), m = strlen(ending);
    return n >= m && strcasecmp(path + n - m, ending) == 0;
}

static bool is_folder(const char *path)
{
    struct stat st;
    return ends_with(path, "/") || (stat(path, &st) == 0 && S_ISDIR(st.st_mode));
}

static enum sink_kind kind_of(const char *path, enum mask_format f, bool still)
{
    if (is_folder(path))
        return SINK_FOLDER;
    if (ends_with(path, ".zip"))
        return SINK_ZIP;
    switch (f) {
    case MASK_PNG:
        return still ? SINK_IMAGE : SINK_ZIP;
    case MASK_OVERLAY:
        return still && !ends_with(path, ".mp4") ? SINK_IMAGE : SINK_VIDEO;
    case MASK_LABELS:
        return still && !ends_with(path, ".mkv") ? SINK_IMAGE : SINK_VIDEO;
    default:
        return SINK_CONCAT;
    }
}

static enum err unknown_ending(const char *path)
{
    char known[16 * ENDINGS] = "";
    for (int i = 0; i < ENDINGS; i++) {
        strcat(known, endings[i].ending);
        strcat(known, i < ENDINGS - 2 ? ", " : i == ENDINGS - 2 ? " and " : "");
    }
    return err_set(ERR_ARG, "'%s' does not tell the format: %s do, and --format", path, known);
}

/* Whether a name that ends as files of `says` do is none for something else. */
static bool name_fits(const struct sink_options *o, enum mask_format says)
{
    if (o->kind == SINK_FOLDER || o->kind == SINK_ZIP)
        return o->kind == SINK_FOLDER || ends_with(o->path, ".zip");
    if (says == MASK_PNG)
        return o->kind == SINK_IMAGE;
    return says == o->format || (says == MASK_RLE && o->format == MASK_COCO_RLE);
}

enum err sink_choose(const char *path, const enum mask_format *format, const struct decode_info *in,
                     struct sink_options *out)
{
    int end = 0;
    *out = (struct sink_options){.path = path, .input = *in};
    if (path[0] == 0)
        return err_set(ERR_ARG, "the output has no name");
    while (end < ENDINGS && !ends_with(path, endings[end].ending))
        end++;
    if (format)
        out->format = *format;
    else if (is_folder(path))
        out->format = MASK_PNG;
    else if (end == ENDINGS)
        return unknown_ending(path);
    else
        out->format = endings[end].format;
    out->kind = kind_of(path, out->format, in->still);
    if (out->kind == SINK_FOLDER && in->twin)
        return err_set(ERR_ARG,
                       "%s: another image of the folder has this name too, and would have "
                       "the same mask file",
                       in->twin);
    if (!format && out->kind == SINK_ZIP && ends_with(path, ".png"))
        return err_set(ERR_ARG, "'%s' holds one image; a video's masks go to a .zip or a folder",
                       path);
    if (end < ENDINGS && !name_fits(out, endings[end].format))
        return err_set(ERR_ARG, "'%s' is a name for %s, not for %s: another name, or no --format",
                       path, mask_format_name(endings[end].format), mask_format_name(out->format));
    return ERR_OK;
}

/* ---- opening ------------------------------------------------------------------------------------
 */

enum err sink_open(const struct sink_options *o, struct sink **out)
{
    *out = NULL;
    struct sink *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(ERR_NOMEM, "no memory for an output");
    s->o = *o;
    enum err e =
        o->kind == SINK_FOLDER ? outdir_open(o->path, &s->folder) : outfile_open(o->path, &s->file);
    if (!e && o->kind == SINK_ZIP)
        e = zipfile_open(s->file, &s->zip);
    if (e) {
        sink_abort(s);
        return e;
    }
    *out = s;
    return ERR_OK;
}

static enum err open_video(struct sink *s)
{
    bool overlay = s->o.format == MASK_OVERLAY;
    struct encode_options o = {
        .kind = overlay ? ENCODE_OVERLAY : ENCODE_LABELS,
        .width = s->width,
        .height = s->height,
        .tb_num = s->o.input.tb_num,
        .tb_den = s->o.input.tb_den,
        .rate = s->o.input.rate,
        .threads = s->o.threads,
    };
    if (overlay) {
        s->blend = malloc((size_t)s->width * (size_t)s->height * 3);
        if (!s->blend)
            return err_set(ERR_NOMEM, "no memory for a %dx%d overlay", s->width, s->height);
    }
    return encode_open(s->file, &o, &s->video);
}

/* ---- frames -------------------------------------------------------------------------------------
 */

/* JSON lines: every frame ends with one. */
static bool has_lines(const struct sink *s)
{
    return s->o.kind == SINK_CONCAT && s->o.format != MASK_RAW;
}

static enum err put_pixels(struct sink *s, const struct frame *f, const uint8_t *pixels)
{
    if (f->width != s->width || f->height != s->height)
        return err_set(ERR_UNSUPPORTED,
                       "frame %lld is %dx%d, the video %dx%d: it keeps one size; --format png "
                       "takes any",
                       (long long)f->number, f->width, f->height, s->width, s->height);
    return encode_frame(s->video, pixels, f->pts, f->duration);
}

static enum err put_video(struct sink *s, const struct frame *f, const struct mask *m)
{
    const uint8_t *pixels = m->labels;
    if (s->blend && f->width == s->width && f->height == s->height) {
        mask_blend(m, s->blend);
        pixels = s->blend;
    }
    return put_pixels(s, f, pixels);
}

static enum err put_bytes(struct sink *s, const struct frame *f, const void *data, size_t len)
{
    char name[300];
    s->entry = len;
    snprintf(name, sizeof name, "%06lld.%s", (long long)f->number,
             mask_format_extension(s->o.format));
    if (s->o.kind == SINK_ZIP)
        return zipfile_add(s->zip, name, data, len);
    if (s->o.kind != SINK_FOLDER) {
        enum err e = outfile_write(s->file, data, len);
        return e || !has_lines(s) ? e : outfile_write(s->file, "\n", 1);
    }
    if (f->name[0])
        snprintf(name, sizeof name, "%s.%s", f->name, mask_format_extension(s->o.format));
    return outdir_write(s->folder, name, data, len);
}

/* Counts the frame; an image takes one. The first opens the video. */
static enum err admit(struct sink *s, const struct frame *f)
{
    if (s->frames++ == 0) {
        s->width = f->width;
        s->height = f->height;
        return s->o.kind == SINK_VIDEO ? open_video(s) : ERR_OK;
    }
    if (s->o.kind == SINK_IMAGE)
        return err_set(ERR_ARG, "'%s' holds one image, the input has more", s->o.path);
    return ERR_OK;
}

enum err sink_put(struct sink *s, const struct frame *f, const uint8_t *labels)
{
    if (s->o.format == MASK_OVERLAY && f->format.layout != PIXELS_RGB24)
        return err_set(ERR_INTERNAL, "an overlay of pixels that are not RGB24");
    bool stamped = !s->o.input.still;
    struct mask m = {
        .width = f->width,
        .height = f->height,
        .labels = labels,
        .palette = s->o.palette,
        .colours = s->o.colours,
        .rgb = f->pixels,
        .frame = stamped ? f->number : -1,
        .time = stamped && !s->o.input.folder ? f->time : NAN,
    };
    enum err e = admit(s, f);
    if (e || s->o.kind == SINK_VIDEO)
        return e ? e : put_video(s, f, &m);
    s->bytes.len = 0;
    e = mask_encode(s->o.format, &m, &s->bytes);
    return e ? e : put_bytes(s, f, s->bytes.data, s->bytes.len);
}

enum err sink_put_encoded(struct sink *s, const struct frame *f, const void *data, size_t len)
{
    enum err e = admit(s, f);
    return e ? e : put_bytes(s, f, data, len);
}

enum err sink_put_pixels(struct sink *s, const struct frame *f, const uint8_t *pixels)
{
    enum err e = admit(s, f);
    return e ? e : put_pixels(s, f, pixels);
}

bool sink_entry(const struct sink *s, uint64_t *offset, uint64_t *len)
{
    if (s->frames == 0 || s->o.kind == SINK_FOLDER || s->o.kind == SINK_VIDEO)
        return false;
    *len = s->entry;
    *offset = outfile_size(s->file) - s->entry - (has_lines(s) ? 1 : 0);
    return true;
}

const char *sink_temporary(const struct sink *s)
{
    return s->file ? outfile_temporary(s->file) : NULL;
}

/* ---- the end ------------------------------------------------------------------------------------
 */

static void free_parts(struct sink *s)
{
    encode_close(s->video);
    zipfile_close(s->zip);
    buf_free(&s->bytes);
    free(s->blend);
    free(s);
}

enum err sink_commit(struct sink *s)
{
    enum err e = ERR_OK;
    if (s->video)
        e = encode_finish(s->video);
    if (s->zip)
        e = zipfile_finish(s->zip);
    if (e) {
        sink_abort(s);
        return e;
    }
    e = s->folder ? outdir_commit(s->folder) : outfile_commit(s->file);
    free_parts(s);
    return e;
}

void sink_abort(struct sink *s)
{
    if (!s)
        return;
    encode_close(s->video);
    s->video = NULL;
    outfile_abort(s->file);
    outdir_abort(s->folder);
    free_parts(s);
}
