/* A video's decoder: works ahead while there are slots, and asks for bytes of a file that grows. */
#include "sandbox/child.h"

#include "kernels/device_memory.h"
#include "media/decode.h"

#include <string.h>
#include <unistd.h>

struct video_child {
    const struct child *c;
    int64_t known; /* bytes that the file has at least */
    bool given_up;
    int free;             /* slots */
    int64_t taken;        /* frames */
    int reported;         /* lines */
    int64_t made;         /* frames, all told */
    bool asked, answered; /* for room on the device */
    struct child_room room;
    struct decode_device device;
};

/* One word of the daemon's. */
static void hear(struct video_child *v)
{
    const struct child_order *order = v->c->order;
    struct wire_request q;
    int fd = -1;
    if (order->device)
        child_hear_fd(&q, &fd);
    else
        child_hear(&q);
    if (q.what == ASK_TAKEN) {
        v->room.slot[v->taken++ % order->slots] = q.slot;
        v->free++;
    } else if (q.what == ASK_DEVICE) {
        child_room_open(&v->room, order, &q, fd, v->made);
        v->answered = true;
    } else if (q.what == ASK_BYTES && q.bytes < 0)
        v->given_up = true;
    else if (q.what == ASK_BYTES)
        v->known = q.bytes;
}

/* decode_device.take. With the first picture the daemon is asked where to put them. */
static enum err take(void *video, const struct device_nv12 *picture, struct frame *f)
{
    struct video_child *v = video;
    struct wire_reply room = {
        .what = TELL_ROOM, .width = picture->width, .height = picture->height};
    if (!v->asked)
        child_tell(&room);
    v->asked = true;
    while (!v->answered)
        hear(v);
    return child_room_put(&v->room, v->c->order, v->made, picture, f);
}

/* decode_options.growing. The daemon's answer is one of its words; slots may come back before. */
static int64_t await_bytes(void *video, int64_t offset)
{
    struct video_child *v = video;
    struct wire_reply need = {.what = TELL_NEED, .value = offset};
    if (offset < v->known || v->given_up)
        return v->known;
    v->known = -1;
    child_tell(&need);
    while (v->known < 0 && !v->given_up)
        hear(v);
    return v->known;
}

static bool given_up(void *video)
{
    const struct video_child *v = video;
    return v->given_up;
}

static void report(void *video, const char *text)
{
    struct video_child *v = video;
    struct wire_reply r = {.what = TELL_REPORT};
    if (v->reported++ >= WIRE_REPORTS_MAX)
        return;
    child_set_text(&r, text);
    child_tell(&r);
}

static struct decoder *open_video(struct video_child *v)
{
    const struct child_order *order = v->c->order;
    struct decoder *d;
    v->device = (struct decode_device){.index = order->device - 1, .take = take, .ctx = v};
    struct decode_options o = {
        .local_file_only = true,
        .max_pixels = order->max_pixels,
        .device = order->device ? &v->device : NULL,
        .fd = v->c->file,
        .report = report,
        .cancelled = given_up,
        .growing = order->growing ? await_bytes : NULL,
        .ctx = v,
    };
    enum err e =
        order->device ? device_memory_context(v->device.index, &v->device.context) : ERR_OK;
    if (!e)
        e = decoder_open("upload", &o, &d);
    if (e) {
        child_tell_error(e);
        return NULL;
    }
    const struct decode_info *info = decoder_info(d);
    struct wire_reply opened = {.what = TELL_OPENED,
                                .frames = info->frames,
                                .tb_num = info->tb_num,
                                .tb_den = info->tb_den,
                                .rate = info->rate,
                                .still = info->still};
    child_tell(&opened);
    return d;
}

static void set_place(const struct video_child *v, const struct decoder *d, const struct frame *f,
                      struct wire_reply *r)
{
    const char *why;
    if (!v->c->order->device)
        return;
    r->nvdec = strcmp(decoder_place(d, &why), "nvdec") == 0;
    r->on_device = f->device_pixels != NULL;
    if (!r->on_device)
        child_set_text(r, why ? why : v->room.why);
}

/* False after the last frame. */
static bool next_frame(struct video_child *v, struct decoder *d, int slot)
{
    bool end;
    while (v->free == 0)
        hear(v);
    struct frame f = child_slot(v->c, slot);
    enum err e = decoder_next(d, &f, &end);
    if (e) {
        child_tell_error(e);
        return false;
    }
    struct wire_reply r = {.what = end ? TELL_END : TELL_FRAME, .corrupt = decoder_corrupt(d)};
    if (!end) {
        child_set_picture(&r, &f);
        set_place(v, d, &f, &r);
        r.pts = f.pts;
        r.duration = f.duration;
        v->free--;
        v->made++;
    }
    child_tell(&r);
    return !end;
}

_Noreturn void child_video(const struct child *c)
{
    struct video_child v = {.c = c, .free = c->order->slots};
    struct decoder *d = open_video(&v);
    for (int slot = 0; d && next_frame(&v, d, slot); slot = (slot + 1) % c->order->slots)
        ;
    for (;;) /* until the daemon has read it all and closes the socket */
        hear(&v);
}
