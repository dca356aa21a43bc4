#include "sandbox/video_parts.h"

#include "base/try.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { NICER = 5 }; /* as the job's own thread: server/priority.c */

/* ---- what a child says between frames -----------------------------------------------------------
 */

/* The wait for bytes is the client's time, not the child's. */
static enum err answer_need(struct video *v, int64_t offset)
{
    struct wire_request q = {.what = ASK_BYTES, .bytes = -1};
    if (!v->o.growing || offset < v->known)
        return link_lied(v->link);
    int64_t end = v->o.growing(v->o.ctx, offset);
    if (!v->o.cancelled || !v->o.cancelled(v->o.ctx))
        q.bytes = v->known = end < 0 ? 0 : end;
    return link_send(v->link, &q);
}

static enum err pass_report(struct video *v, const char *text)
{
    if (v->reports++ == WIRE_REPORTS_MAX)
        return link_lied(v->link);
    if (v->o.report)
        v->o.report(v->o.ctx, text);
    return ERR_OK;
}

/* A child on a device may lack memory for the driver's sake, which an ordinary one does not. */
static enum err failed(const struct video *v, const struct wire_reply *r)
{
    return v->on_device && r->error == ERR_NOMEM ? err_set(ERR_DEVICE, "%s", r->text)
                                                 : link_error(v->link, r->error, r);
}

/* The next reply that asks for nothing and is no report. */
static enum err receive(struct video *v, struct wire_reply *r)
{
    int64_t left = link_patience(v->link);
    for (;;) {
        TRY(link_receive(v->link, &v->wait, &left, r));
        if (r->what == TELL_NEED)
            TRY(answer_need(v, r->value));
        else if (r->what == TELL_REPORT)
            TRY(pass_report(v, r->text));
        else if (r->what == TELL_ROOM)
            TRY(video_answer_room(v, r));
        else
            return r->what == TELL_FAILED ? failed(v, r) : ERR_OK;
    }
}

static struct sandbox_wait wait_of(const struct decode_options *o)
{
    return (struct sandbox_wait){.cancelled = o->cancelled, .ctx = o->ctx};
}

/* ---- opening ------------------------------------------------------------------------------------
 */

static enum err open_file(const char *path, int *fd)
{
    struct stat st;
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (*fd < 0)
        return err_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "upload: %s", strerror(errno));
    if (fstat(*fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size == 0)
        return err_set(ERR_FORMAT, "upload: the file is empty");
    return ERR_OK;
}

static enum err get_info(struct video *v)
{
    struct wire_reply r;
    TRY(receive(v, &r));
    if (r.what != TELL_OPENED)
        return link_lied(v->link);
    v->info = (struct decode_info){.still = r.still,
                                   .frames = r.frames,
                                   .tb_num = r.tb_num,
                                   .tb_den = r.tb_den,
                                   .rate = r.rate};
    return ERR_OK;
}

enum err video_open_child(struct video *v, int file, int device)
{
    const struct child_order order = {.kind = CHILD_VIDEO,
                                      .slots = VIDEO_SLOTS,
                                      .nicer = NICER,
                                      .growing = v->o.growing != NULL,
                                      .nv12 = v->nv12,
                                      .device = device};
    v->taken = v->known = v->reports = 0;
    TRY(link_open(v->sandbox, &order, file, v->who, &v->wait, NULL, &v->link));
    return get_info(v);
}

/* `l`, or NULL, is taken. */
static enum err make(struct link *l, const struct decode_options *o, bool nv12, const char *who,
                     struct video **out)
{
    struct video *v = *out = link_holder(l, sizeof *v);
    if (!v)
        return ERR_NOMEM;
    v->link = l;
    v->o = *o;
    v->nv12 = nv12;
    v->wait = wait_of(o);
    v->file = -1;
    snprintf(v->who, sizeof v->who, "%s", who);
    return ERR_OK;
}

static enum err give(struct video *v, enum err e, struct video **out)
{
    *out = e ? NULL : v;
    if (e)
        video_close(v);
    return e;
}

enum err video_over(struct link *l, const struct decode_options *o,
                    const struct video_device *device, struct video **out)
{
    struct video *v;
    TRY(make(l, o, link_order(l)->nv12, "", &v));
    if (device)
        v->device = *device;
    v->on_device = device != NULL;
    return give(v, get_info(v), out);
}

enum err video_open_file(struct sandbox *s, int file, const struct decode_options *o, bool nv12,
                         const struct video_device *device, const char *who, struct video **out)
{
    struct video *v;
    *out = NULL;
    TRY(make(NULL, o, nv12, who, &v));
    v->sandbox = s;
    bool there = device && nv12;
    return give(v, there ? video_open_there(v, file, device) : video_open_child(v, file, 0), out);
}

static enum err open_here(const char *path, const struct decode_options *o, bool nv12,
                          struct video **out)
{
    struct video *v;
    TRY(make(NULL, o, nv12, "", &v));
    return give(v, decoder_open(path, o, &v->here), out);
}

enum err video_open(struct sandbox *s, const char *path, const struct decode_options *o, bool nv12,
                    const struct video_device *device, const char *who, struct video **out)
{
    int fd;
    *out = NULL;
    if (!s)
        return open_here(path, o, nv12, out);
    enum err e = open_file(path, &fd);
    if (!e)
        e = video_open_file(s, fd, o, nv12, device, who, out);
    if (fd >= 0)
        close(fd);
    return e;
}

void video_close(struct video *v)
{
    if (!v)
        return;
    decoder_close(v->here);
    link_close(v->link);
    video_end_device(v);
    free(v);
}

const struct decode_info *video_info(const struct video *v)
{
    return v->here ? decoder_info(v->here) : &v->info;
}

int64_t video_corrupt(const struct video *v)
{
    return v->here ? decoder_corrupt(v->here) : v->corrupt;
}

const char *video_place(const struct video *v, const char **why)
{
    if (why)
        *why = v->on_host && v->why[0] ? v->why : NULL;
    return v->nvdec ? "nvdec" : "cpu";
}

/* ---- frames -------------------------------------------------------------------------------------
 */

/* It is the next that is wanted, not one that a child before has given. */
static bool is_new(const struct video *v, const struct wire_reply *r)
{
    return v->delivered == 0 || r->pts > v->last_pts;
}

static enum err deliver(struct video *v, const struct wire_reply *r, struct frame *f)
{
    if (v->o.max_frames && v->delivered == v->o.max_frames)
        return err_set(ERR_LIMIT, "more than %lld frames", (long long)v->o.max_frames);
    TRY(video_take_pixels(v, r, f));
    f->pts = v->last_pts = r->pts;
    f->duration = r->duration;
    f->time = (double)f->pts * v->info.tb_num / v->info.tb_den;
    f->name[0] = 0;
    f->number = v->delivered++;
    return ERR_OK;
}

/* The child's times ascend, or it is no decoder of ours. A child that is gone by then has given the
 * frame all the same: who asks for the next one hears of it. */
static enum err take_frame(struct video *v, const struct wire_reply *r, struct frame *f)
{
    struct wire_request taken = {.what = ASK_TAKEN};
    if (v->taken && r->pts <= v->heard_pts)
        return link_lied(v->link);
    v->heard_pts = r->pts;
    TRY(is_new(v, r) ? deliver(v, r, f) : video_take_pixels(v, r, NULL));
    taken.slot = video_promise(v);
    v->taken++;
    link_send(v->link, &taken);
    return ERR_OK;
}

/* The next frame of the child that is new, or the end. */
static enum err next(struct video *v, struct frame *f, bool *end)
{
    struct wire_reply r;
    int64_t before = v->delivered;
    do {
        TRY(receive(v, &r));
        v->corrupt = r.corrupt;
        *end = r.what == TELL_END;
        if (r.what == TELL_FRAME)
            TRY(take_frame(v, &r, f));
        else if (!*end)
            return link_lied(v->link);
    } while (!*end && v->delivered == before);
    return ERR_OK;
}

enum err video_next(struct video *v, struct frame *f, bool *end)
{
    f->takes_nv12 = v->nv12;
    f->device_pixels = NULL;
    if (v->here)
        return decoder_next(v->here, f, end);
    video_forget_shown(v);
    *end = v->ended;
    if (v->ended)
        return ERR_OK;
    enum err e = next(v, f, end);
    if (video_failed_there(v, e)) {
        TRY(video_leave_device(v));
        e = next(v, f, end);
    }
    v->ended = !e && *end;
    return e;
}
