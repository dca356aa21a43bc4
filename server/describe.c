#include "server/describe.h"

#include "base/whole.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *mode_name(enum stream_mode mode)
{
    static const char *const name[] = {
        [MODE_STREAM] = "stream", [MODE_CLIP] = "clip", [MODE_FRAME] = "frame"};
    return name[mode];
}

json_t *describe_text(const char *text)
{
    json_t *s = json_string(text);
    if (s)
        return s;
    char *ascii = strdup(text);
    if (!ascii)
        return NULL;
    for (char *p = ascii; *p; p++)
        if ((unsigned char)*p >= 0x80)
            *p = '?';
    s = json_string(ascii);
    free(ascii);
    return s;
}

json_t *describe_time(double seconds)
{
    return json_real(round(seconds * 1000) / 1000);
}

json_t *describe_problem(enum err e, const char *detail, const char *request_id)
{
    char type[64];
    snprintf(type, sizeof type, "/problems/%s", err_type(e));
    json_t *o =
        json_pack("{s:s, s:s, s:i}", "type", type, "title", err_title(e), "status", err_http(e));
    if (detail && detail[0])
        whole_put(&o, "detail", describe_text(detail));
    if (request_id)
        whole_put(&o, "request_id", json_string(request_id));
    return o;
}

json_t *describe_stream(struct session *s)
{
    int width = atomic_load(&s->frame_width), height = atomic_load(&s->frame_height);
    uint64_t now = clock_ns(), touched = atomic_load(&s->touched);
    uint64_t spilled = atomic_load(&s->spilled_bytes);
    double idle = touched && now > touched ? (double)(now - touched) * 1e-9 : 0;
    json_t *o = json_pack(
        "{s:s, s:s, s:s, s:s, s:b, s:I, s:I, s:I, s:b, s:o, s:o}", "id", s->id, "model",
        s->params.model->name, "mode", mode_name(s->params.stream.mode), "format",
        mask_format_name(s->params.format), "connected", session_attached(s), "frames",
        (json_int_t)atomic_load(&s->frames), "last_seq", (json_int_t)atomic_load(&s->last_seq),
        "state_bytes", (json_int_t)(atomic_load(&s->state_bytes) + spilled), "spilled",
        (int)(spilled > 0), "created", describe_time(s->created), "idle", describe_time(idle));
    whole_put(&o, "size", width > 0 ? json_pack("[ii]", width, height) : json_null());
    return o;
}

json_t *describe_classes(const struct served_model *m)
{
    const struct arch *a = &m->model->arch;
    json_t *list = json_array();
    for (int i = 0; i < a->classes; i++) {
        char color[8];
        snprintf(color, sizeof color, "#%02x%02x%02x", a->palette[i][0], a->palette[i][1],
                 a->palette[i][2]);
        whole_add(&list, json_pack("{s:i, s:o, s:s}", "id", i, "name",
                                   describe_text(a->class_names[i]), "color", color));
    }
    return list;
}
