#include "server/models.h"

#include "server/config.h"
#include "server/log.h"

#include "base/try.h"
#include "engine/safetensors.h"

#include <gnutls/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct models {
    int count, devices;
    struct engine_config device[DEVICES_MAX];
    char device_name[DEVICES_MAX][16];
    uint64_t state_bytes; /* on each */
    struct served_model of[];
};

/* ---- the settings -------------------------------------------------------------------------------
 */

static enum err add_device(struct models *m, enum device_kind kind, int index)
{
    if (m->devices == DEVICES_MAX)
        return err_set(ERR_ARG, "more than %d devices", (int)DEVICES_MAX);
    for (int i = 0; kind == DEVICE_CUDA && i < m->devices; i++)
        if (m->device[i].device == kind && m->device[i].device_index == index)
            return err_set(ERR_ARG, "device cuda:%d is named twice", index);
    struct engine_config *c = &m->device[m->devices];
    c->device = kind;
    c->device_index = index;
    if (kind == DEVICE_CPU)
        snprintf(m->device_name[m->devices], sizeof m->device_name[0], "cpu");
    else
        snprintf(m->device_name[m->devices], sizeof m->device_name[0], "cuda:%d", index);
    m->devices++;
    return ERR_OK;
}

/* "cpu", "cuda", "cuda:N", "cuda:all" */
static enum err parse_device(struct models *m, const char *text)
{
    int index = 0;
    char tail = 0;
    if (strcmp(text, "cpu") == 0)
        return add_device(m, DEVICE_CPU, 0);
    if (strcmp(text, "cuda") == 0)
        return add_device(m, DEVICE_CUDA, 0);
    if (strcmp(text, "cuda:all") == 0) {
        int count = engine_cuda_devices();
        TRY(add_device(m, DEVICE_CUDA, 0)); /* where there is none its engine says why */
        for (int i = 1; i < count; i++)
            TRY(add_device(m, DEVICE_CUDA, i));
        return ERR_OK;
    }
    if (sscanf(text, "cuda:%3d%c", &index, &tail) == 1 && index >= 0)
        return add_device(m, DEVICE_CUDA, index);
    return err_set(ERR_ARG, "device '%.40s': cpu, cuda, cuda:N or cuda:all is wanted", text);
}

/* One, or several with commas between; each is an engine of its own. */
static enum err parse_devices(struct models *m, const char *list)
{
    char text[48];
    for (;;) {
        size_t n = strcspn(list, ",");
        snprintf(text, sizeof text, "%.*s", n < sizeof text ? (int)n : (int)sizeof text, list);
        TRY(parse_device(m, text));
        if (!list[n])
            return ERR_OK;
        list += n + 1;
    }
}

static enum err parse_dtype(const char *text, struct engine_config *c)
{
    c->dtype = strcmp(text, "bf16") == 0 ? DT_BF16 : DT_F32;
    c->tf32 = strcmp(text, "tf32") == 0;
    if (c->dtype == DT_BF16 || c->tf32 || strcmp(text, "f32") == 0)
        return ERR_OK;
    return err_set(ERR_ARG, "dtype '%.40s': f32, tf32 or bf16 is wanted", text);
}

/* "WxH", or empty */
static enum err parse_room(const char *text, int frames, struct engine_config *c)
{
    char tail = 0;
    if (!*text)
        return ERR_OK;
    c->room_frames = frames;
    if (sscanf(text, "%5dx%5d%c", &c->room_width, &c->room_height, &tail) == 2 &&
        c->room_width > 0 && c->room_height > 0)
        return ERR_OK;
    return err_set(ERR_ARG, "room_size '%.40s': WIDTHxHEIGHT is wanted, or nothing", text);
}

/* Splits NAME=PATH; a PATH alone is named by its file's stem. */
static enum err split(const char *text, char name[64], const char **path)
{
    const char *equals = strchr(text, '=');
    int n = equals ? (int)(equals - text) : 0;
    *path = equals ? equals + 1 : text;
    if (!equals)
        text = model_stem(text, &n);
    if (n < 1 || n > 63)
        return err_set(ERR_ARG, "model '%.200s': a name of 1 to 63 characters is wanted", text);
    memcpy(name, text, (size_t)n);
    name[n] = '\0';
    if (strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-") !=
        (size_t)n)
        return err_set(ERR_ARG, "model name '%s': only A-Z a-z 0-9 . _ ~ - are allowed", name);
    return ERR_OK;
}

/* ---- opening ------------------------------------------------------------------------------------
 */

static void add_text(gnutls_hash_hd_t hash, const char *text)
{
    gnutls_hash(hash, text ? text : "", text ? strlen(text) + 1 : 1);
}

/* The engine's description without the device's number: of "cuda:1 NAME bf16", "NAME bf16". */
static const char *kind_of(const struct engine *e)
{
    const char *text = engine_description(e);
    return strncmp(text, "cuda:", 5) == 0 ? text + strcspn(text, " ") + 1 : text;
}

/* All that makes the labels: tensors, and what the metadata says of them. */
static enum err fill_origin(struct served_model *s)
{
    const struct st_file *f = s->model->file;
    uint8_t digest[32];
    gnutls_hash_hd_t hash;
    if (gnutls_hash_init(&hash, GNUTLS_DIG_SHA256) != 0)
        return err_set(ERR_NOMEM, "no SHA-256 of a model");
    add_text(hash, st_metadata(f, "arch"));
    for (size_t i = 0; i < st_count(f); i++) {
        const struct st_tensor *t = st_at(f, i);
        add_text(hash, t->name);
        gnutls_hash(hash, &t->dtype, sizeof t->dtype);
        gnutls_hash(hash, t->shape, (size_t)t->ndim * sizeof t->shape[0]);
        gnutls_hash(hash, t->data, t->bytes);
    }
    gnutls_hash_deinit(hash, digest);
    char *at = s->origin;
    for (size_t i = 0; i < sizeof digest; i++)
        at += sprintf(at, "%02x", digest[i]);
    snprintf(at, sizeof s->origin - 64, " %s", kind_of(s->engine[0]));
    return ERR_OK;
}

/* On every device. */
static enum err open_engines(struct models *m, struct served_model *s)
{
    for (int i = 0; i < m->devices; i++) {
        TRY(engine_open(s->model, &m->device[i], &s->engine[i]));
        log_event(LOG_INFO, "model_opened", "model=%s arch=%s classes=%d parameters=%zu engine=%s",
                  s->name, s->model->arch.name, s->model->arch.classes, model_parameters(s->model),
                  log_text(engine_description(s->engine[i])));
        if (strcmp(kind_of(s->engine[0]), kind_of(s->engine[i])) != 0)
            return err_set(ERR_UNSUPPORTED,
                           "%s is no '%s': devices that label the same streams must be of one "
                           "kind; start a daemon for each",
                           m->device_name[i], kind_of(s->engine[0]));
    }
    s->takes_nv12 = engine_takes_nv12(s->engine[0]);
    return ERR_OK;
}

static enum err open_one(struct models *m, const char *text)
{
    struct served_model *s = &m->of[m->count];
    struct model *model = NULL;
    struct served_model *other;
    const char *path;
    TRY(split(text, s->name, &path));
    if (m->count > 0 && models_find(m, s->name, &other) == ERR_OK)
        return err_set(ERR_ARG, "two models are called '%s'", s->name);
    TRY(model_open(path, &model));
    s->model = model;
    m->count++; /* from here on models_close closes it */
    enum err e = open_engines(m, s);
    if (!e)
        e = fill_origin(s);
    if (e)
        return err_context(e, "model '%s'", s->name);
    return ERR_OK;
}

/* ---- room for hidden states ---------------------------------------------------------------------
 *
 * The models share the device. When the weights of all and their batches have found place, states
 * get theirs: of what they may take, each model as much as a stream of it needs, and what batches
 * under way make besides. */

static size_t in_mb(uint64_t bytes)
{
    return (size_t)(bytes >> 20);
}

/* A stream's state; the size is one that batches were made ready for. */
static size_t stream_bytes(const struct served_model *s, const struct engine_config *c)
{
    struct geometry g = {.state_bytes = 0};
    engine_geometry(&s->model->arch, c->room_width, c->room_height, NULL, &g);
    return g.state_bytes;
}

/* Settles m->state_bytes, which is to fit on each device, beside what `working` batches have. Where
 * nobody said how much, an eighth of what is left stays for what comes later: frames of other
 * sizes, and what the driver takes for graphs and for kernels when they are first wanted. */
static enum err find_room(struct models *m, int device, bool any, size_t working)
{
    size_t wanted = m->state_bytes + working, asked = any ? wanted / 7 * 8 : wanted;
    size_t left = engine_room_left(m->of[0].engine[device], asked);
    if (left == asked)
        return ERR_OK;
    size_t usable = any ? left / 8 * 7 : left, fits = usable > working ? usable - working : 0;
    if (!any || fits == 0)
        return err_set(
            ERR_NOMEM,
            "hidden states of %zu MB do not fit beside weights and batches, %zu MB would "
            "(max_state_bytes)",
            in_mb(m->state_bytes), in_mb(fits));
    m->state_bytes = fits;
    return ERR_OK;
}

/* A model's part of what streams of all models, of `sum` bytes, may have. */
static enum err make_room(struct models *m, struct served_model *s, size_t working, size_t sum)
{
    size_t one = stream_bytes(s, &m->device[0]);
    size_t bytes = (size_t)((double)m->state_bytes * (double)one / (double)sum);
    s->reserved = bytes + working * one;
    for (int i = 0; i < m->devices; i++) {
        enum err e = engine_reserve_states(s->engine[i], s->reserved);
        if (e)
            return err_context(e, "model '%s', %zu MB for hidden states (max_state_bytes)", s->name,
                               in_mb(bytes));
        log_event(LOG_INFO, "state_room", "model=%s bytes=%zu device=%s", s->name, bytes,
                  m->device_name[i]);
    }
    return ERR_OK;
}

static enum err make_states(struct models *m, const struct config *c)
{
    const struct engine_config *room = &m->device[0];
    size_t sum = 0, frames = (size_t)room->room_frames * (size_t)engine_depth(m->of[0].engine[0]);
    m->state_bytes = c->max_state_bytes ? c->max_state_bytes : CONFIG_AUTO_STATE_BYTES;
    if (room->room_frames == 0)
        return ERR_OK;
    for (int i = 0; i < m->count; i++)
        sum += stream_bytes(&m->of[i], room);
    if (sum == 0)
        return ERR_OK;
    for (int i = 0; i < m->devices; i++)
        TRY(find_room(m, i, c->max_state_bytes == 0, frames * sum));
    for (int i = 0; i < m->count; i++)
        TRY(make_room(m, &m->of[i], frames, sum));
    return ERR_OK;
}

static enum err configure(struct models *m, const struct config *c)
{
    TRY(parse_devices(m, c->device));
    for (int i = 0; i < m->devices; i++) {
        struct engine_config *engine = &m->device[i];
        engine->threads = c->threads;
        engine->isa = *c->isa ? c->isa : NULL;
        TRY(parse_dtype(c->dtype, engine));
        if (engine->device == DEVICE_CUDA)
            TRY(parse_room(c->room_size, c->batch_max, engine));
    }
    return ERR_OK;
}

enum err models_open(const struct config *c, struct models **out)
{
    *out = NULL;
    if (c->models.count < 1)
        return err_set(ERR_ARG, "no model is configured");
    struct models *m = calloc(1, sizeof *m + (size_t)c->models.count * sizeof m->of[0]);
    if (!m)
        return err_set(ERR_NOMEM, "no memory for the models");
    enum err e = configure(m, c);
    for (int i = 0; !e && i < c->models.count; i++)
        e = open_one(m, c->models.item[i]);
    if (!e)
        e = make_states(m, c);
    if (e)
        models_close(m);
    else
        *out = m;
    return e;
}

int models_devices(const struct models *m)
{
    return m->devices;
}

const char *models_device(const struct models *m, int i)
{
    return m->device_name[i];
}

int models_device_index(const struct models *m, int i)
{
    return m->device[i].device == DEVICE_CUDA ? m->device[i].device_index : -1;
}

uint64_t models_state_bytes(const struct models *m)
{
    return m->state_bytes;
}

void models_let_go(struct models *m, int device)
{
    for (int i = 0; i < m->count; i++) {
        engine_close(m->of[i].engine[device]);
        m->of[i].engine[device] = NULL;
    }
}

/* All weights first, as at the start. */
static enum err open_again(struct models *m, int device)
{
    for (int i = 0; i < m->count; i++)
        TRY(engine_open(m->of[i].model, &m->device[device], &m->of[i].engine[device]));
    for (int i = 0; i < m->count; i++)
        if (m->of[i].reserved > 0)
            TRY(engine_reserve_states(m->of[i].engine[device], m->of[i].reserved));
    return ERR_OK;
}

enum err models_take_up(struct models *m, int device)
{
    char text[256];
    enum err e = open_again(m, device);
    if (!e)
        return ERR_OK;
    snprintf(text, sizeof text, "%s", err_text());
    models_let_go(m, device);
    return err_set(e, "%s", text);
}

void models_close(struct models *m)
{
    for (int i = 0; m && i < m->count; i++) {
        for (int d = 0; d < m->devices; d++)
            engine_close(m->of[i].engine[d]);
        model_close((struct model *)m->of[i].model);
    }
    free(m);
}

int models_count(const struct models *m)
{
    return m->count;
}

struct served_model *models_at(struct models *m, int i)
{
    return &m->of[i];
}

enum err models_find(struct models *m, const char *name, struct served_model **out)
{
    *out = &m->of[0];
    if (!name || !*name)
        return ERR_OK;
    for (int i = 0; i < m->count; i++) {
        *out = &m->of[i];
        if (strcmp(m->of[i].name, name) == 0)
            return ERR_OK;
    }
    *out = NULL;
    return err_set(ERR_NOT_FOUND, "there is no model '%.63s'", name);
}
