#include "sandbox/wire.h"

#include <math.h>
#include <string.h>

static const int64_t time_max = INT64_C(1) << 61, step_max = INT64_C(1) << 40,
                     count_max = INT64_C(1) << 60;
enum { MORE_MAX = 1000 };

/* ERR_FULL, for one, would have a job wait for room on the disk. */
static bool error_of_decoder(const struct child_order *o, enum err e)
{
    return (e == ERR_DEVICE && o->device) || e == ERR_ARG || e == ERR_FORMAT ||
           e == ERR_UNSUPPORTED || e == ERR_LIMIT || e == ERR_NOT_FOUND || e == ERR_IO ||
           e == ERR_NOMEM || e == ERR_CANCELLED || e == ERR_INTERNAL;
}

static bool said_by(const struct child_order *o, enum wire_what what)
{
    static const uint32_t video =
        1u << TELL_OPENED | 1u << TELL_NEED | 1u << TELL_REPORT | 1u << TELL_FRAME | 1u << TELL_END;
    uint32_t mine = 1u << TELL_READY | 1u << TELL_FAILED;
    if (o->kind == CHILD_VIDEO)
        mine |= video | (o->device ? 1u << TELL_ROOM : 0);
    else if (o->kind == CHILD_IMAGES)
        mine |= 1u << TELL_IMAGE;
    else if (o->kind == CHILD_PACKETS)
        mine |= 1u << TELL_RESULT;
    return what >= TELL_READY && what < TELL_COUNT && mine >> what & 1;
}

/* Whether it may be NV12 is link_take's to know. */
static bool format_fits(const struct wire_reply *r)
{
    return (r->layout == PIXELS_RGB24 ||
            (r->layout == PIXELS_NV12 && pixels_nv12_size(r->width, r->height))) &&
           r->matrix >= 0 && r->matrix < YUV_MATRICES && (r->full == 0 || r->full == 1);
}

static bool picture_fits(const struct child_order *o, const struct wire_reply *r)
{
    return format_fits(r) && r->width >= 1 && r->height >= 1 &&
           (uint64_t)r->width * (uint64_t)r->height <= (o->slot_bytes - WIRE_SLACK) / 3;
}

/* A frame's. On the device it is NV12, in a slot there. */
static bool place_fits(const struct child_order *o, const struct wire_reply *r)
{
    if (r->nvdec < 0 || r->nvdec > 1 || (r->nvdec && !o->device))
        return false;
    if (r->on_device == 0)
        return true;
    return r->on_device == 1 && r->nvdec && o->nv12 && r->layout == PIXELS_NV12 &&
           pixels_bytes(PIXELS_NV12, r->width, r->height) <= o->device_slot_bytes;
}

static bool room_fits(const struct child_order *o, const struct wire_reply *r)
{
    return r->width >= 1 && r->height >= 1 && pixels_nv12_size(r->width, r->height) &&
           (uint64_t)r->width * (uint64_t)r->height <= (uint64_t)o->max_pixels;
}

static bool time_fits(const struct wire_reply *r)
{
    return r->pts > -time_max && r->pts < time_max && r->duration >= 0 && r->duration <= step_max;
}

static bool info_fits(const struct wire_reply *r)
{
    return r->frames >= 0 && r->frames <= count_max && r->tb_num > 0 && r->tb_den > 0 &&
           isfinite(r->rate) && r->rate >= 0 && r->rate <= 1e9 && (r->still == 0 || r->still == 1);
}

static bool result_fits(const struct child_order *o, const struct wire_reply *r)
{
    if (r->sent != ERR_OK && !error_of_decoder(o, r->sent))
        return false;
    if (r->more < 0 || r->more > MORE_MAX || r->held < 0 || r->held > MORE_MAX || r->value < 0)
        return false;
    switch (r->outcome) {
    case OUTCOME_NONE:
    case OUTCOME_EMPTY:
        return true;
    case OUTCOME_FRAME:
        return picture_fits(o, r);
    case OUTCOME_FAILED:
        return error_of_decoder(o, r->error);
    }
    return false;
}

bool wire_check(const struct child_order *order, const void *bytes, size_t len,
                struct wire_reply *out)
{
    if (len != sizeof *out)
        return false;
    memcpy(out, bytes, sizeof *out);
    out->text[WIRE_TEXT - 1] = 0;
    if (!said_by(order, out->what) || out->corrupt < 0 || out->corrupt > count_max)
        return false;
    switch (out->what) {
    case TELL_FAILED:
        return error_of_decoder(order, out->error);
    case TELL_OPENED:
        return info_fits(out);
    case TELL_NEED:
        return out->value >= 0;
    case TELL_FRAME:
        return picture_fits(order, out) && time_fits(out) && place_fits(order, out);
    case TELL_ROOM:
        return room_fits(order, out);
    case TELL_IMAGE:
        return picture_fits(order, out);
    case TELL_RESULT:
        return result_fits(order, out);
    default:
        return true;
    }
}
