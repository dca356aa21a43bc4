#include "sandbox/video.h"

#include "sandbox/link.h"

#include "base/try.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SLOTS = 4 }; /* frames that a child is ahead */
enum { NICER = 5 }; /* as the job's own thread: server/priority.c */

struct video {
    struct decoder *here; /* without a sandbox; then that is all */
    struct link *link;
    struct decode_options o;
    struct sandbox_wait wait;
    struct decode_info info;
    int64_t delivered, corrupt, last_pts;
    int64_t known; /* bytes that the file has, as the child was told last */
    int reports;
    bool ended, nv12;
};

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

/* The next reply that is neither a need nor a report. */
static enum err receive(struct video *v, struct wire_reply *r)
{
    int64_t left = link_patience(v->link);
    for (;;) {
        TRY(link_receive(v->link, &v->wait, &left, r));
        if (r->what == TELL_NEED)
            TRY(answer_need(v, r->value));
        else if (r->what == TELL_REPORT)
            TRY(pass_report(v, r->text));
        else
            return r->what == TELL_FAILED ? link_error(v->link, r->error, r) : ERR_OK;
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

/* By the link, which it takes; without one, here. */
static enum err start(struct link *l, const char *path, const struct decode_options *o, bool nv12,
                      struct video **out)
{
    struct video *v = *out = link_holder(l, sizeof *v);
    if (!v)
        return ERR_NOMEM;
    v->link = l;
    v->o = *o;
    v->nv12 = nv12;
    v->wait = wait_of(o);
    enum err e = l ? get_info(v) : decoder_open(path, o, &v->here);
    if (e) {
        video_close(v);
        *out = NULL;
    }
    return e;
}

enum err video_over(struct link *l, const struct decode_options *o, struct video **out)
{
    return start(l, NULL, o, link_order(l)->nv12, out);
}

static enum err open_link(struct sandbox *s, const char *path, const struct decode_options *o,
                          bool nv12, const char *who, struct link **out)
{
    const struct child_order order = {.kind = CHILD_VIDEO,
                                      .slots = SLOTS,
                                      .nicer = NICER,
                                      .growing = o->growing != NULL,
                                      .nv12 = nv12};
    const struct sandbox_wait wait = wait_of(o);
    int fd;
    enum err e = open_file(path, &fd);
    if (!e)
        e = link_open(s, &order, fd, who, &wait, NULL, out);
    if (fd >= 0)
        close(fd);
    return e;
}

enum err video_open(struct sandbox *s, const char *path, const struct decode_options *o, bool nv12,
                    const char *who, struct video **out)
{
    struct link *l = NULL;
    *out = NULL;
    if (s)
        TRY(open_link(s, path, o, nv12, who, &l));
    return start(l, path, o, nv12, out);
}

void video_close(struct video *v)
{
    if (!v)
        return;
    decoder_close(v->here);
    link_close(v->link);
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

/* ---- frames -------------------------------------------------------------------------------------
 */

/* The child's times ascend, or it is no decoder of ours. */
static enum err take_frame(struct video *v, const struct wire_reply *r, struct frame *f)
{
    const struct wire_request taken = {.what = ASK_TAKEN};
    if (v->delivered && r->pts <= v->last_pts)
        return link_lied(v->link);
    if (v->o.max_frames && v->delivered == v->o.max_frames)
        return err_set(ERR_LIMIT, "more than %lld frames", (long long)v->o.max_frames);
    TRY(link_take(v->link, (int)(v->delivered % SLOTS), r, f));
    f->pts = v->last_pts = r->pts;
    f->duration = r->duration;
    f->time = (double)f->pts * v->info.tb_num / v->info.tb_den;
    f->name[0] = 0;
    f->number = v->delivered++;
    return link_send(v->link, &taken);
}

enum err video_next(struct video *v, struct frame *f, bool *end)
{
    struct wire_reply r;
    f->takes_nv12 = v->nv12;
    if (v->here)
        return decoder_next(v->here, f, end);
    *end = v->ended;
    if (v->ended)
        return ERR_OK;
    TRY(receive(v, &r));
    v->corrupt = r.corrupt;
    if (r.what == TELL_FRAME)
        return take_frame(v, &r, f);
    if (r.what != TELL_END)
        return link_lied(v->link);
    *end = v->ended = true;
    return ERR_OK;
}
