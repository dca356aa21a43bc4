/* A video's child that decodes on a CUDA device: its pictures' memory, and what becomes of the
 * video where it fails.
 *
 * Who says which slot of the memory a frame goes to is the daemon: each TAKEN allows one frame
 * more, and names a slot for it that nobody has, or none, and then the frame comes by the host. So
 * nothing that a child says names a slot, and there are enough of them: the caller's, and one for
 * each frame that the child may be ahead. What a child may still do is write what it likes into all
 * of them, at any time: they are its own pictures. */
#include "sandbox/video_parts.h"

#include "base/try.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { SLOT_ALIGN = 512 }; /* bytes: more than any kernel reads at once */

/* ---- its memory ---------------------------------------------------------------------------------
 */

static void promise(struct video *v, int64_t frame)
{
    v->promised[frame % VIDEO_SLOTS] = v->pool ? device_pool_take(v->pool) : NULL;
}

/* A new pool's pictures are taken in their order. */
static enum err open_pool(struct video *v, uint64_t picture, struct wire_request *q, int *fd)
{
    uint64_t slot_bytes = (picture + SLOT_ALIGN - 1) / SLOT_ALIGN * SLOT_ALIGN;
    TRY(device_pool_open(v->device.index, VIDEO_SLOTS + 1, v->device.pictures + VIDEO_SLOTS,
                         slot_bytes, fd, &v->pool));
    q->slots = device_pool_slots(v->pool);
    q->slot_bytes = slot_bytes;
    link_set_device_slots(v->link, slot_bytes);
    for (int i = 0; i < VIDEO_SLOTS; i++)
        promise(v, v->taken + i);
    return ERR_OK;
}

enum err video_answer_room(struct video *v, const struct wire_reply *r)
{
    struct wire_request q = {.what = ASK_DEVICE};
    int fd = -1;
    if (v->asked)
        return link_lied(v->link);
    v->asked = true;
    if (open_pool(v, pixels_bytes(PIXELS_NV12, r->width, r->height), &q, &fd))
        snprintf(v->why, sizeof v->why, "pictures come by the host: %s", err_text());
    enum err e = link_send_fd(v->link, &q, fd);
    if (fd >= 0)
        close(fd);
    return e;
}

/* ---- its frames ---------------------------------------------------------------------------------
 */

static void note_place(struct video *v, const struct wire_reply *r)
{
    v->nvdec = r->nvdec;
    v->on_host = !r->on_device;
    v->made_there += r->nvdec;
    if (v->on_device && v->on_host && r->text[0])
        snprintf(v->why, sizeof v->why, "%s", r->text);
}

enum err video_take_pixels(struct video *v, const struct wire_reply *r, struct frame *f)
{
    int slot = (int)(v->taken % VIDEO_SLOTS);
    struct device_picture *picture = v->promised[slot];
    v->promised[slot] = NULL;
    note_place(v, r);
    if (!r->on_device || !f) {
        device_picture_release(picture);
        return f ? link_take(v->link, slot, r, f) : ERR_OK;
    }
    if (!picture)
        return link_lied(v->link);
    v->shown = picture;
    f->device_pixels = device_picture_pixels(picture);
    f->format = (struct pixel_format){PIXELS_NV12, (enum yuv_matrix)r->matrix, r->full};
    f->width = r->width;
    f->height = r->height;
    return ERR_OK;
}

int video_promise(struct video *v)
{
    promise(v, v->taken);
    const struct device_picture *picture = v->promised[v->taken % VIDEO_SLOTS];
    return picture ? device_picture_slot(picture) : -1;
}

struct device_picture *video_take_picture(struct video *v)
{
    struct device_picture *picture = v->shown;
    v->shown = NULL;
    return picture;
}

void video_forget_shown(struct video *v)
{
    device_picture_release(video_take_picture(v));
}

/* The child is gone, so nobody writes there any more. */
static void close_pool(struct video *v)
{
    video_forget_shown(v);
    for (int i = 0; i < VIDEO_SLOTS; i++) {
        device_picture_release(v->promised[i]);
        v->promised[i] = NULL;
    }
    device_pool_close(v->pool);
    v->pool = NULL;
}

/* ---- its life -----------------------------------------------------------------------------------
 */

bool video_failed_there(const struct video *v, enum err e)
{
    return v->on_device && (e == ERR_DEVICE || e == ERR_DECODER);
}

enum err video_open_there(struct video *v, int file, const struct video_device *device)
{
    v->device = *device;
    v->file = fcntl(file, F_DUPFD_CLOEXEC, 0);
    if (v->file < 0)
        return video_open_child(v, file, 0);
    v->on_device = true;
    enum err e = video_open_child(v, file, device->index + 1);
    bool unborn = e && e != ERR_CANCELLED && !v->link;
    return unborn || video_failed_there(v, e) ? video_leave_device(v) : e;
}

static void tell(const struct video *v, const char *why)
{
    if (v->device.went)
        v->device.went(v->device.ctx, v->who, why);
}

enum err video_leave_device(struct video *v)
{
    const struct decode_info before = v->info;
    snprintf(v->why, sizeof v->why, "%s", err_text());
    tell(v, v->why);
    v->on_device = v->nvdec = false;
    link_close(v->link);
    v->link = NULL;
    close_pool(v);
    if (v->file < 0)
        return err_set(ERR_DECODER, "%s", v->why);
    TRY(video_open_child(v, v->file, 0));
    if (v->delivered && (v->info.tb_num != before.tb_num || v->info.tb_den != before.tb_den))
        return err_set(ERR_DECODER, "the video's times are not those of its frames so far");
    return ERR_OK;
}

void video_end_device(struct video *v)
{
    close_pool(v);
    if (v->file >= 0)
        close(v->file);
    if (v->on_device && v->made_there > 0)
        tell(v, NULL);
}
