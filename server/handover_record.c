/* What a record says of its stream: JSON beside the bytes of the state.
 *
 *     {"version":1,"owner":"","id":"cam-7","model":"street","weights":"4f94...","mode":"stream",
 *      "resize":"","format":"png","seq":1200,"frames":1201,"size":[256,160],"created":1790000000.1}
 */
#include "server/handover_parts.h"

#include "server/describe.h"

#include <string.h>

enum { WEIGHTS = 64, VERSION = 1 };

char *record_write(struct session *s)
{
    const struct session_params *p = &s->params;
    char resize[32] = "";
    if (p->stream.resize_override)
        resize_format(&p->stream.resize, resize, sizeof resize);
    json_t *o = json_pack(
        "{s:i, s:s, s:s, s:s, s:s%, s:s, s:s, s:s, s:I, s:I, s:[ii], s:f}", "version", VERSION,
        "owner", owner_name(p->owner), "id", s->id, "model", p->model->name, "weights",
        p->model->origin, (size_t)WEIGHTS, "mode", mode_name(p->stream.mode), "resize", resize,
        "format", mask_format_name(p->format), "seq", (json_int_t)atomic_load(&s->last_seq),
        "frames", (json_int_t)atomic_load(&s->frames), "size", atomic_load(&s->frame_width),
        atomic_load(&s->frame_height), "created", s->created);
    char *text = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    return text;
}

static const char *get_text(void *object, const char *name)
{
    const char *text = json_string_value(json_object_get(object, name));
    return text && *text ? text : NULL;
}

static enum err read_object(struct server *server, const struct session *s, json_t *o,
                            struct record *out)
{
    const char *owner, *id, *model, *weights, *mode, *resize, *format;
    json_int_t version, seq, frames;
    json_error_t error;
    if (json_unpack_ex(o, &error, JSON_STRICT,
                       "{s:I, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:[ii!], s:F}",
                       "version", &version, "owner", &owner, "id", &id, "model", &model, "weights",
                       &weights, "mode", &mode, "resize", &resize, "format", &format, "seq", &seq,
                       "frames", &frames, "size", &out->width, &out->height, "created",
                       &out->created))
        return err_set(ERR_FORMAT, "the record is not as it should be: %s", error.text);
    if (version != VERSION || strcmp(owner, owner_name(s->params.owner)) != 0 ||
        strcmp(id, s->id) != 0)
        return err_set(ERR_FORMAT, "the record is of another version, owner or stream");
    if (seq < -1 || seq == INT64_MAX || frames < 0 || out->width < 0 || out->height < 0 ||
        out->width > ENGINE_MAX_SIDE || out->height > ENGINE_MAX_SIDE)
        return err_set(ERR_FORMAT, "the record's numbers are out of range");
    enum err e = params_parse(server, get_text, o, &out->params);
    if (e)
        return e == ERR_NOT_FOUND || e == ERR_NOMEM ? e : err_context(ERR_FORMAT, "the record");
    out->same_weights =
        strlen(weights) == WEIGHTS && strncmp(weights, out->params.model->origin, WEIGHTS) == 0;
    out->seq = seq;
    out->frames = (uint64_t)frames;
    return ERR_OK;
}

enum err record_read(struct server *server, const struct session *s, const char *text, size_t len,
                     struct record *out)
{
    *out = (struct record){0};
    json_t *o = len <= RECORD_MAX ? json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL) : NULL;
    enum err e = o ? read_object(server, s, o, out) : err_set(ERR_FORMAT, "the record is no JSON");
    json_decref(o);
    return e;
}
