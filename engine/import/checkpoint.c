#include "engine/import/checkpoint.h"
#include "engine/import/labels.h"
#include "engine/import/torch_file.h"
#include "engine/safetensors_parts.h"

#include <stdio.h>
#include <stdlib.h>

struct checkpoint {
    char *path;
    struct st_file *st; /* one of these two */
    struct torch_file *torch;
    struct st_tensor *tensors;
    const struct pk_tensor **views; /* of an archive, beside `tensors` */
    size_t count;
};

/* Wrappers of training frameworks put their names in front. */
static const char *without_wrappers(const char *name)
{
    static const char *const wrapper[] = {"module.", "model.", "_orig_mod."};
    for (size_t i = 0; i < sizeof wrapper / sizeof *wrapper; i++)
        if (strncmp(name, wrapper[i], strlen(wrapper[i])) == 0)
            return without_wrappers(name + strlen(wrapper[i]));
    return name;
}

static enum err reserve(struct checkpoint *c, size_t count)
{
    c->tensors = calloc(count + 1, sizeof *c->tensors);
    c->views = calloc(count + 1, sizeof *c->views);
    return c->tensors && c->views ? ERR_OK : err_set(ERR_NOMEM, "no memory for a checkpoint");
}

static enum err list_safetensors(struct checkpoint *c)
{
    size_t count = st_count(c->st);
    enum err err = reserve(c, count);
    for (size_t i = 0; !err && i < count; i++) {
        struct st_tensor *t = &c->tensors[c->count++];
        *t = *st_at(c->st, i);
        t->name = without_wrappers(t->name);
        t->data = NULL;
    }
    return err;
}

static bool has_tensors(const struct pk_value *dict)
{
    if (!dict || dict->type != PK_DICT)
        return false;
    for (size_t i = 1; i < dict->items.count; i += 2)
        if (dict->items.at[i]->type == PK_TENSOR)
            return true;
    return false;
}

/* The dict of tensors: what was saved itself, or what it has under one of the usual keys. */
static const struct pk_value *state_dict(const struct pk_value *root)
{
    static const char *const key[] = {"state_dict", "model_state_dict", "model", "module"};
    if (has_tensors(root))
        return root;
    for (size_t i = 0; i < sizeof key / sizeof *key; i++)
        if (has_tensors(pickle_get(root, key[i])))
            return pickle_get(root, key[i]);
    return NULL;
}

static enum err list_archive(struct checkpoint *c)
{
    const struct pk_value *dict = state_dict(torch_root(c->torch));
    if (!dict)
        return err_set(ERR_FORMAT, "the checkpoint has no state_dict of tensors");
    enum err err = reserve(c, dict->items.count / 2);
    for (size_t i = 0; !err && i < dict->items.count; i += 2) {
        const struct pk_value *key = dict->items.at[i], *value = dict->items.at[i + 1];
        if (key->type != PK_STRING || value->type != PK_TENSOR)
            continue;
        if (key->text.len > ST_MAX_NAME || strlen(key->text.at) != key->text.len)
            return err_set(ERR_FORMAT, "the tensor name '%.60s' is too long", key->text.at);
        const struct pk_tensor *view = value->tensor;
        struct st_tensor *t = &c->tensors[c->count];
        t->name = without_wrappers(key->text.at);
        t->dtype = view->storage->dtype;
        t->ndim = view->ndim;
        memcpy(t->shape, view->shape, sizeof t->shape);
        if (!st_shape_bytes(t->dtype, t->ndim, t->shape, &t->bytes))
            return err_set(ERR_FORMAT, "tensor %s is impossibly large", t->name);
        c->views[c->count++] = view;
    }
    return err;
}

/* safetensors: eight bytes of length, then the brace of the header. */
static bool looks_like_safetensors(const char *path)
{
    char head[9] = {0};
    FILE *file = fopen(path, "rb");
    size_t len = file ? fread(head, 1, sizeof head, file) : 0;
    if (file)
        fclose(file);
    return len == sizeof head && head[8] == '{' && memcmp(head, "PK", 2) != 0;
}

enum err checkpoint_open(const char *path, struct checkpoint **out)
{
    *out = NULL;
    struct checkpoint *c = calloc(1, sizeof *c);
    if (!c)
        return err_set(ERR_NOMEM, "no memory for a checkpoint");
    enum err err;
    c->path = strdup(path);
    if (!c->path)
        err = err_set(ERR_NOMEM, "no memory for a checkpoint");
    else if (looks_like_safetensors(path))
        err = st_open(path, &c->st);
    else
        err = torch_open(path, &c->torch);
    if (!err && c->st)
        err = list_safetensors(c);
    if (!err && c->torch)
        err = list_archive(c);
    if (err) {
        checkpoint_close(c);
        return err;
    }
    *out = c;
    return ERR_OK;
}

void checkpoint_close(struct checkpoint *c)
{
    if (!c)
        return;
    st_close(c->st);
    torch_close(c->torch);
    free(c->tensors);
    free(c->views);
    free(c->path);
    free(c);
}

size_t checkpoint_count(const struct checkpoint *c)
{
    return c->count;
}

const struct st_tensor *checkpoint_at(const struct checkpoint *c, size_t i)
{
    return &c->tensors[i];
}

const struct st_file *checkpoint_st(const struct checkpoint *c)
{
    return c->st;
}

enum err checkpoint_load(struct checkpoint *c, size_t i, const void **data, void **owned)
{
    size_t bytes;
    *data = *owned = NULL;
    if (c->st) {
        *data = st_at(c->st, i)->data;
        return ERR_OK;
    }
    enum err err = torch_load(c->torch, c->views[i], owned, &bytes);
    *data = *owned;
    return err ? err_context(err, "tensor %s", c->tensors[i].name) : ERR_OK;
}

void checkpoint_labels(const struct checkpoint *c, struct arch *a, const char **note)
{
    *note = NULL;
    if (c->torch && labels_from_pickle(torch_root(c->torch), a, note))
        return;
    labels_from_config(c->path, a, note);
}
