#include "media/decode.h"

#include "media/picture.h"
#include "media/source.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

enum { FOLDER_RATE = 25 };

/* An input is a list of files that are opened one after the other: one for a video, many for a
 * folder. A folder's file that does not open or decode is damage like any other. */
struct decoder {
    struct decode_options o;
    struct decode_options inner; /* o for sources: reports come here first, to be named */
    struct decode_info info;
    char **files; /* malloc'd names, in order */
    size_t count, next;
    struct source *source; /* of files[next - 1]; NULL between files */
    struct picture picture;
    int32_t matrix[9];
    bool has_matrix, taken; /* taken: the source has given a picture */
    int64_t delivered, corrupt, last_pts, last_step;
    int width, height; /* of the last frame */
    bool on_device;    /* its decoder was */
    char why[192];     /* the first reason why a decoder was not, or "" */
};

void frame_free(struct frame *f)
{
    if (!f->lent)
        free(f->pixels);
    *f = (struct frame){0};
}

static void report(const struct decoder *d, const char *text)
{
    if (d->o.report)
        d->o.report(d->o.ctx, text);
}

/* What a source reports; in a folder with the file's name in front. */
static void on_report(void *ctx, const char *text)
{
    const struct decoder *d = ctx;
    char named[512];
    if (!d->info.folder) {
        report(d, text);
        return;
    }
    snprintf(named, sizeof named, "%.240s: %s", d->files[d->next - 1], text);
    report(d, named);
}

static bool on_cancelled(void *ctx)
{
    const struct decoder *d = ctx;
    return d->o.cancelled && d->o.cancelled(d->o.ctx);
}

static int64_t on_growing(void *ctx, int64_t offset)
{
    const struct decoder *d = ctx;
    return d->o.growing(d->o.ctx, offset);
}

/* ---- the list of files
 * --------------------------------------------------------------------------- */

static bool is_image_name(const char *name)
{
    static const char *const known[] = {"png", "jpg", "jpeg", "bmp", "webp", "tif", "tiff",
                                        "ppm", "pgm", "pbm",  "pnm", "pam",  "tga", "gif",
                                        "jp2", "sgi", "avif", "exr", "dpx",  "qoi", "jxl"};
    const char *dot = strrchr(name, '.');
    if (name[0] == '.' || !dot)
        return false;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcasecmp(dot + 1, known[i]) == 0)
            return true;
    return false;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static enum err add_file(struct decoder *d, const char *folder, const char *name)
{
    if ((d->count & (d->count + 1)) == 0) { /* full at 1, 3, 7, ...: room for twice as many */
        char **grown = realloc(d->files, (2 * d->count + 2) * sizeof *grown);
        if (!grown)
            return err_set(ERR_NOMEM, "no memory for file names");
        d->files = grown;
    }
    char *path = NULL;
    if (asprintf(&path, "%s%s%s", folder ? folder : "", folder ? "/" : "", name) < 0)
        return err_set(ERR_NOMEM, "no memory for file names");
    d->files[d->count++] = path;
    return ERR_OK;
}

/* Paths by what their frames will be called. */
static int by_stem(const void *a, const void *b)
{
    const char *x = strrchr(*(char *const *)a, '/'), *y = strrchr(*(char *const *)b, '/');
    size_t m = (size_t)(strrchr(x, '.') - x), n = (size_t)(strrchr(y, '.') - y);
    int order = memcmp(x, y, m < n ? m : n);
    return order ? order : (m > n) - (m < n);
}

static enum err find_twin(struct decoder *d)
{
    char **sorted = malloc(d->count * sizeof *sorted);
    if (!sorted)
        return err_set(ERR_NOMEM, "no memory for file names");
    memcpy(sorted, d->files, d->count * sizeof *sorted);
    qsort(sorted, d->count, sizeof *sorted, by_stem);
    for (size_t i = 1; i < d->count && !d->info.twin; i++)
        if (by_stem(&sorted[i - 1], &sorted[i]) == 0)
            d->info.twin = sorted[i];
    free(sorted);
    return ERR_OK;
}

static enum err list_folder(struct decoder *d, const char *folder)
{
    enum err e = ERR_OK;
    DIR *dir = opendir(folder);
    if (!dir)
        return err_set(ERR_IO, "%s: %s", folder, strerror(errno));
    for (struct dirent *entry; !e && (entry = readdir(dir));)
        if (is_image_name(entry->d_name))
            e = add_file(d, folder, entry->d_name);
    closedir(dir);
    if (!e && d->count == 0)
        e = err_set(ERR_FORMAT, "%s: no images in this folder", folder);
    if (!e)
        qsort(d->files, d->count, sizeof *d->files, by_name);
    return e ? e : find_twin(d);
}

/* ---- opening
 * ------------------------------------------------------------------------------------- */

static enum err open_source(struct decoder *d, const char *file)
{
    enum err e = source_open(file, &d->inner, &d->source);
    if (e)
        return e;
    d->taken = false;
    size_t size = 0;
    const uint8_t *m =
        av_stream_get_side_data(source_stream(d->source), AV_PKT_DATA_DISPLAYMATRIX, &size);
    d->has_matrix = m && size >= sizeof d->matrix;
    if (d->has_matrix)
        memcpy(d->matrix, m, sizeof d->matrix);
    return ERR_OK;
}

static enum err open_video(struct decoder *d, const char *input)
{
    enum err e = add_file(d, NULL, input);
    if (!e)
        e = open_source(d, input);
    if (e)
        return e;
    d->next = 1;
    const AVStream *s = source_stream(d->source);
    AVRational rate = s->avg_frame_rate.num ? s->avg_frame_rate : s->r_frame_rate;
    d->info.still = source_still(d->source);
    d->info.tb_num = s->time_base.num;
    d->info.tb_den = s->time_base.den;
    d->info.rate = rate.num > 0 && rate.den > 0 ? av_q2d(rate) : 0;
    d->info.frames = d->info.still ? 1 : s->nb_frames;
    double seconds = s->duration != AV_NOPTS_VALUE ? (double)s->duration * av_q2d(s->time_base) : 0;
    if (d->info.frames == 0 && seconds > 0)
        d->info.frames = (int64_t)lrint(seconds * d->info.rate);
    return ERR_OK;
}

static enum err open_folder(struct decoder *d, const char *input)
{
    if (d->o.local_file_only)
        return err_set(ERR_UNSUPPORTED, "%s: a folder", input);
    d->info.folder = true;
    d->info.tb_num = 1;
    d->info.tb_den = FOLDER_RATE;
    d->info.rate = FOLDER_RATE;
    enum err e = list_folder(d, input);
    d->info.frames = (int64_t)d->count;
    return e;
}

enum err decoder_open(const char *input, const struct decode_options *o, struct decoder **out)
{
    struct stat st;
    *out = NULL;
    av_log_set_level(AV_LOG_QUIET); /* what matters is reported by us, once */
    struct decoder *d = calloc(1, sizeof *d);
    if (!d)
        return err_set(ERR_NOMEM, "no memory for a decoder");
    d->o = d->inner = *o;
    d->inner.report = on_report;
    d->inner.cancelled = on_cancelled;
    d->inner.growing = o->growing ? on_growing : NULL;
    d->inner.ctx = d;
    d->picture.device = o->device;
    bool folder = o->fd <= 0 && stat(input, &st) == 0 && S_ISDIR(st.st_mode);
    enum err e = folder ? open_folder(d, input) : open_video(d, input);
    if (e) {
        decoder_close(d);
        return e;
    }
    *out = d;
    return ERR_OK;
}

void decoder_close(struct decoder *d)
{
    if (!d)
        return;
    source_close(d->source);
    picture_free(&d->picture);
    for (size_t i = 0; i < d->count; i++)
        free(d->files[i]);
    free(d->files);
    free(d);
}

const struct decode_info *decoder_info(const struct decoder *d)
{
    return &d->info;
}

const char *decoder_place(const struct decoder *d, const char **why)
{
    if (why)
        *why = !d->o.device || d->on_device ? NULL
               : d->info.folder             ? "it is a folder of images"
               : d->info.still              ? "it is one image"
                                            : d->why;
    return d->on_device ? "nvdec" : "cpu";
}

int64_t decoder_corrupt(const struct decoder *d)
{
    return d->corrupt;
}

struct source *decoder_source(struct decoder *d, const char **why)
{
    static const int32_t upright[4] = {1 << 16, 0, 0, 1 << 16};
    const int32_t *m = d->matrix;
    bool turned = d->has_matrix && (m[0] != upright[0] || m[1] != upright[1] ||
                                    m[3] != upright[2] || m[4] != upright[3]);
    *why = d->info.folder  ? "it is a folder of images"
           : d->info.still ? "it is one image"
           : turned        ? "its container turns the pictures"
                           : NULL;
    return *why ? NULL : d->source;
}

/* ---- frames
 * -------------------------------------------------------------------------------------- */

/* The file's name without folder and extension. */
static void set_name(const struct decoder *d, struct frame *f)
{
    f->name[0] = 0;
    if (!d->info.folder)
        return;
    const char *file = d->files[d->next - 1], *slash = strrchr(file, '/');
    snprintf(f->name, sizeof f->name, "%s", slash ? slash + 1 : file);
    char *dot = strrchr(f->name, '.');
    if (dot && dot != f->name)
        *dot = 0;
}

/* A file of a folder that is of no use is told, and the others go on. */
static enum err pass_over(struct decoder *d, enum err e)
{
    if (!d->info.folder)
        return err_context(e, "%s", d->files[0]);
    d->corrupt++;
    on_report(d, err_text());
    return ERR_OK;
}

/* The next picture of the list of files; NULL after the last. */
static enum err next_picture(struct decoder *d, AVFrame **out)
{
    for (;;) {
        enum err e = ERR_OK;
        if (d->source) {
            if (!d->taken || !d->info.folder) /* one picture of each file of a folder */
                e = source_next(d->source, out, &d->corrupt);
            else
                *out = NULL;
            d->taken = true;
            if (e == ERR_UNSUPPORTED)
                e = pass_over(d, e);
            if (e || *out)
                return e;
            source_close(d->source);
            d->source = NULL;
        }
        *out = NULL;
        if (d->next == d->count)
            return ERR_OK;
        e = open_source(d, d->files[d->next++]);
        if (e == ERR_NOMEM || e == ERR_CANCELLED)
            return e;
        if (e) { /* in a folder; the only file of a video was opened by decoder_open */
            d->corrupt++;
            report(d, err_text());
        }
    }
}

/* Time stamps and durations beyond these are lies, and sums of them would overflow. */
static const int64_t pts_max = INT64_C(1) << 60, step_max = INT64_C(1) << 40;

/* Strictly ascending in every case: muxers and readers depend on it. */
static void set_time(struct decoder *d, const AVFrame *in, struct frame *f)
{
    double unit = (double)d->info.tb_num / d->info.tb_den;
    int64_t step = in->pkt_duration > 0 ? in->pkt_duration : 0;
    int64_t pts = in->best_effort_timestamp;
    if (step == 0 && d->info.rate > 0 && !d->info.folder)
        step = (int64_t)fmin(rint(1 / (d->info.rate * unit)), (double)step_max);
    step = step > step_max ? step_max : step;
    f->duration = step;
    if (d->info.folder) {
        f->pts = d->delivered;
        f->duration = 1;
    } else if (pts > -pts_max && pts < pts_max) { /* AV_NOPTS_VALUE is not */
        f->pts = pts;
    } else {
        f->pts = d->delivered ? d->last_pts + (d->last_step ? d->last_step : 1) : 0;
    }
    if (d->delivered && f->pts <= d->last_pts)
        f->pts = d->last_pts + 1;
    f->time = (double)f->pts * unit;
    d->last_pts = f->pts;
    d->last_step = step;
}

static void note_size(struct decoder *d, const struct frame *f)
{
    char text[128];
    if (d->delivered && (f->width != d->width || f->height != d->height)) {
        snprintf(text, sizeof text, "frame %lld: the size changes from %dx%d to %dx%d",
                 (long long)d->delivered, d->width, d->height, f->width, f->height);
        report(d, text);
    }
    d->width = f->width;
    d->height = f->height;
}

static void note_place(struct decoder *d, const AVFrame *in)
{
    const char *why = source_why(d->source);
    d->on_device = in->format == AV_PIX_FMT_CUDA;
    if (why && !d->why[0])
        snprintf(d->why, sizeof d->why, "%s", why);
}

enum err decoder_next(struct decoder *d, struct frame *f, bool *end)
{
    AVFrame *in;
    *end = false;
    enum err e = next_picture(d, &in);
    if (e)
        return e;
    if (!in && d->delivered == 0)
        return err_set(ERR_FORMAT, "%s: no frame that can be decoded", d->files[0]);
    if (!in) {
        *end = true;
        return ERR_OK;
    }
    if (d->o.max_frames && d->delivered == d->o.max_frames)
        return err_set(ERR_LIMIT, "more than %lld frames", (long long)d->o.max_frames);
    note_place(d, in);
    e = picture_take(&d->picture, in, d->has_matrix ? d->matrix : NULL, f);
    if (e)
        return e;
    set_name(d, f);
    set_time(d, in, f);
    note_size(d, f);
    f->number = d->delivered++;
    return ERR_OK;
}
