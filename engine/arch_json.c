/* struct arch to and from the `__metadata__` of a model file:
 *   tv3s     "1", the version of this layout
 *   arch     {"encoder": "mit", "dims": [64, 128, 320, 512], ..., "resize": "vspw"}
 *   classes  ["wall", ...]
 *   palette  [[120, 120, 120], ...]
 * A model file may come from anywhere: every value is looked up by name, must have its type, and
 * passes arch_check before anything is computed from it. */
#include "engine/arch_parts.h"

#include "base/whole.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const encoder_name[] = {"mit", "swin"};
static const char *const head_name[] = {"tv3s", "segformer"};
static const char *const output_name[] = {"direct", "add", "concat"};
#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

/* ---- reading ------------------------------------------------------------------------------------
 */

static enum err get_int(const json_t *o, const char *key, int *out)
{
    const json_t *v = json_object_get(o, key);
    json_int_t n = json_integer_value(v);
    if (!json_is_integer(v) || n < -1000000 || n > 1000000)
        return err_set(ERR_FORMAT, "'%s' is missing or no number in range", key);
    *out = (int)n;
    return ERR_OK;
}

static enum err get_eps(const json_t *o, const char *key, float *out)
{
    const json_t *v = json_object_get(o, key);
    double d = json_number_value(v);
    if (!json_is_number(v) || !(d >= 0 && d <= 1))
        return err_set(ERR_FORMAT, "'%s' is missing or no number in range", key);
    *out = (float)d;
    return ERR_OK;
}

static enum err get_stages(const json_t *o, const char *key, int *out)
{
    const json_t *v = json_object_get(o, key);
    if (json_array_size(v) != ARCH_STAGES)
        return err_set(ERR_FORMAT, "'%s' is missing or has not %d numbers", key, ARCH_STAGES);
    for (int i = 0; i < ARCH_STAGES; i++) {
        const json_t *n = json_array_get(v, (size_t)i);
        if (!json_is_integer(n) || json_integer_value(n) < 0 || json_integer_value(n) > 1000000)
            return err_set(ERR_FORMAT, "'%s' holds something else than whole numbers", key);
        out[i] = (int)json_integer_value(n);
    }
    return ERR_OK;
}

static enum err get_choice(const json_t *o, const char *key, const char *const *names, int count,
                           int *out)
{
    const char *text = json_string_value(json_object_get(o, key));
    for (int i = 0; text && i < count; i++)
        if (strcmp(text, names[i]) == 0) {
            *out = i;
            return ERR_OK;
        }
    return err_set(ERR_FORMAT, "'%s' is missing or unknown: '%.40s'", key, text ? text : "");
}

static enum err read_encoder(const json_t *o, struct arch *a)
{
    int kind = 0;
    enum err err = get_choice(o, "encoder", encoder_name, COUNT(encoder_name), &kind);
    a->encoder = (enum encoder_kind)kind;
    if (!err)
        err = get_stages(o, "dims", a->dims);
    if (!err)
        err = get_stages(o, "depths", a->depths);
    if (!err)
        err = get_stages(o, "heads", a->heads);
    if (!err)
        err = get_stages(o, "mlp", a->mlp);
    if (!err && a->encoder == ENCODER_MIT)
        err = get_stages(o, "sr", a->sr);
    if (!err && a->encoder == ENCODER_SWIN)
        err = get_int(o, "swin_window", &a->swin_window);
    if (!err)
        err = get_eps(o, "eps_block", &a->eps_block);
    if (!err)
        err = get_eps(o, "eps_embed", &a->eps_embed);
    return err;
}

static enum err read_tv3s_head(const json_t *o, struct arch *a)
{
    int kind = 0;
    enum err err = get_int(o, "layers", &a->layers);
    if (!err)
        err = get_int(o, "window", &a->window);
    if (!err)
        err = get_int(o, "shift", &a->shift);
    if (!err)
        err = get_int(o, "inner", &a->inner);
    if (!err)
        err = get_int(o, "state", &a->state);
    if (!err)
        err = get_int(o, "conv", &a->conv);
    if (!err)
        err = get_int(o, "dt_rank", &a->dt_rank);
    if (!err)
        err = get_choice(o, "output", output_name, COUNT(output_name), &kind);
    a->output = (enum output_kind)kind;
    return err;
}

static enum err read_arch(const json_t *o, struct arch *a)
{
    int kind = 0;
    enum err err = read_encoder(o, a);
    if (!err)
        err = get_choice(o, "head", head_name, COUNT(head_name), &kind);
    a->head = (enum head_kind)kind;
    if (!err)
        err = get_int(o, "embed", &a->embed);
    if (!err)
        err = get_int(o, "classes", &a->classes);
    if (!err && a->head == HEAD_TV3S)
        err = read_tv3s_head(o, a);
    const char *resize = json_string_value(json_object_get(o, "resize"));
    if (!err && !resize)
        err = err_set(ERR_FORMAT, "'resize' is missing");
    if (!err && resize_parse(resize, &a->resize))
        err = err_context(ERR_FORMAT, "'resize'");
    if (!err)
        err = arch_check(a);
    return err;
}

static enum err read_classes(const json_t *list, struct arch *a)
{
    if (json_array_size(list) != (size_t)a->classes)
        return err_set(ERR_FORMAT, "%zu class names for %d classes", json_array_size(list),
                       a->classes);
    for (int i = 0; i < a->classes; i++) {
        const json_t *name = json_array_get(list, (size_t)i);
        if (!json_is_string(name) ||
            !arch_set_class_name(a, i, json_string_value(name), json_string_length(name)))
            return err_set(ERR_FORMAT, "the name of class %d is no line of text", i);
    }
    return ERR_OK;
}

static enum err read_palette(const json_t *list, struct arch *a)
{
    if (json_array_size(list) != (size_t)a->classes)
        return err_set(ERR_FORMAT, "%zu colours for %d classes", json_array_size(list), a->classes);
    for (int i = 0; i < a->classes; i++) {
        const json_t *rgb = json_array_get(list, (size_t)i);
        for (size_t c = 0; c < 3; c++) {
            const json_t *v = json_array_get(rgb, c);
            if (json_array_size(rgb) != 3 || !json_is_integer(v) || json_integer_value(v) < 0 ||
                json_integer_value(v) > 255)
                return err_set(ERR_FORMAT, "colour %d is not three numbers 0 to 255", i);
            a->palette[i][c] = (uint8_t)json_integer_value(v);
        }
    }
    return ERR_OK;
}

enum err arch_read(const struct st_file *f, struct arch *out)
{
    static const char *const keys[] = {"arch", "classes", "palette"};
    json_t *json[3] = {NULL, NULL, NULL};
    enum err err = ERR_OK;
    memset(out, 0, sizeof *out);
    const char *version = st_metadata(f, "tv3s");
    if (!version)
        return err_set(ERR_UNSUPPORTED, "not a model file of tv3s; make one with: tv3s convert");
    if (strcmp(version, "1") != 0)
        return err_set(ERR_UNSUPPORTED, "a model file of version '%.20s', not 1", version);
    for (int i = 0; !err && i < COUNT(keys); i++) {
        const char *text = st_metadata(f, keys[i]);
        if (text)
            json[i] = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
        if (!json[i])
            err = err_set(ERR_FORMAT, "the metadata '%s' is missing or no JSON", keys[i]);
    }
    if (!err)
        err = read_arch(json[0], out);
    if (!err) {
        arch_set_name(out);
        err = read_classes(json[1], out);
    }
    if (!err)
        err = read_palette(json[2], out);
    for (int i = 0; i < COUNT(keys); i++)
        json_decref(json[i]);
    return err ? err_context(err, "model metadata") : ERR_OK;
}

/* ---- writing ------------------------------------------------------------------------------------
 */

/* The decimal that a human would write for this float: 1e-06, not 9.99999997e-07. */
static json_t *tidy_real(float v)
{
    char text[32];
    snprintf(text, sizeof text, "%.6g", (double)v);
    double d = strtod(text, NULL);
    return json_real((float)d == v ? d : (double)v);
}

static json_t *stages(const int *v)
{
    return json_pack("[i,i,i,i]", v[0], v[1], v[2], v[3]);
}

static json_t *arch_object(const struct arch *a)
{
    char resize[32];
    json_t *o = json_object();
    whole_put(&o, "name", json_string(a->name));
    whole_put(&o, "encoder", json_string(encoder_name[a->encoder]));
    whole_put(&o, "dims", stages(a->dims));
    whole_put(&o, "depths", stages(a->depths));
    whole_put(&o, "heads", stages(a->heads));
    whole_put(&o, "mlp", stages(a->mlp));
    if (a->encoder == ENCODER_MIT)
        whole_put(&o, "sr", stages(a->sr));
    else
        whole_put(&o, "swin_window", json_integer(a->swin_window));
    whole_put(&o, "eps_block", tidy_real(a->eps_block));
    whole_put(&o, "eps_embed", tidy_real(a->eps_embed));
    whole_put(&o, "head", json_string(head_name[a->head]));
    whole_put(&o, "embed", json_integer(a->embed));
    whole_put(&o, "classes", json_integer(a->classes));
    if (a->head == HEAD_TV3S) {
        whole_put(&o, "layers", json_integer(a->layers));
        whole_put(&o, "window", json_integer(a->window));
        whole_put(&o, "shift", json_integer(a->shift));
        whole_put(&o, "inner", json_integer(a->inner));
        whole_put(&o, "state", json_integer(a->state));
        whole_put(&o, "conv", json_integer(a->conv));
        whole_put(&o, "dt_rank", json_integer(a->dt_rank));
        whole_put(&o, "output", json_string(output_name[a->output]));
    }
    resize_format(&a->resize, resize, sizeof resize);
    whole_put(&o, "resize", json_string(resize));
    return o;
}

json_t *arch_json(const struct arch *a, const char *part)
{
    if (strcmp(part, "arch") == 0)
        return arch_object(a);
    json_t *list = json_array();
    bool names = strcmp(part, "classes") == 0;
    for (int i = 0; i < a->classes; i++)
        whole_add(&list, names ? json_string(a->class_names[i])
                               : json_pack("[i,i,i]", a->palette[i][0], a->palette[i][1],
                                           a->palette[i][2]));
    return list;
}

enum err arch_write(const struct arch *a, struct st_writer *w)
{
    static const char *const keys[] = {"arch", "classes", "palette"};
    enum err err = st_writer_metadata(w, "tv3s", "1");
    for (int i = 0; !err && i < COUNT(keys); i++) {
        json_t *json = arch_json(a, keys[i]);
        char *text = json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(9));
        err = text ? st_writer_metadata(w, keys[i], text) : err_set(ERR_NOMEM, "no memory");
        free(text);
        json_decref(json);
    }
    return err;
}
