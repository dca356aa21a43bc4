/* Opening a model costs one pass over its bytes, the search for values that are not finite: it also
 * pulls the file into the page cache before the first frame needs it. */
#include "engine/model.h"
#include "engine/arch_parts.h"
#include "engine/safetensors_parts.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static enum err check_values(void *ctx, const char *name, int ndim, const int64_t *shape)
{
    (void)ndim, (void)shape;
    return st_check_values(st_find(ctx, name));
}

enum err model_open(const char *path, struct model **out)
{
    *out = NULL;
    struct model *m = calloc(1, sizeof *m);
    if (!m)
        return err_set(ERR_NOMEM, "no memory for a model");
    enum err err = st_open(path, &m->file);
    if (err == ERR_FORMAT)
        err_context(err, "not a model file of tv3s (tv3s convert makes them)");
    if (err)
        goto done;
    err = arch_read(m->file, &m->arch);
    if (!err)
        err = arch_check_shapes(&m->arch, m->file);
    if (!err)
        err = arch_visit(&m->arch, check_values, m->file);
    if (err)
        err_context(err, "%s", path);
done:
    if (err) {
        model_close(m);
        return err;
    }
    *out = m;
    return ERR_OK;
}

void model_close(struct model *m)
{
    if (!m)
        return;
    st_close(m->file);
    free(m);
}

static const struct st_tensor *find(const struct model *m, const char *fmt, va_list args)
{
    char name[ST_MAX_NAME];
    vsnprintf(name, sizeof name, fmt, args);
    return st_find(m->file, name);
}

enum err model_tensor(const struct model *m, float **out, const char *name, ...)
{
    va_list args;
    va_start(args, name);
    const struct st_tensor *t = find(m, name, args);
    va_end(args);
    *out = NULL;
    if (!t)
        return err_set(ERR_INTERNAL, "the model has no tensor %s", name);
    size_t n = st_elements(t);
    float *values = aligned_alloc(64, (n * sizeof *values + 63) / 64 * 64 + 64);
    if (!values)
        return err_set(ERR_NOMEM, "no memory for tensor %s", t->name);
    enum err err = st_to_f32(t, 0, n, values);
    if (err) {
        free(values);
        return err;
    }
    *out = values;
    return ERR_OK;
}

bool model_has(const struct model *m, const char *name, ...)
{
    va_list args;
    va_start(args, name);
    const struct st_tensor *t = find(m, name, args);
    va_end(args);
    return t != NULL;
}

static enum err count_values(void *ctx, const char *name, int ndim, const int64_t *shape)
{
    size_t *total = ctx, n = 1;
    if (strstr(name, ".running_"))
        return ERR_OK;
    for (int i = 0; i < ndim; i++)
        n *= (size_t)shape[i];
    *total += n;
    return ERR_OK;
}

/* The engine needs a little less than a checkpoint holds: `convert` drops classifiers that only
 * training uses, and notes in the metadata how many parameters there were. That is the number that
 * publications give. */
size_t model_parameters(const struct model *m)
{
    size_t used = 0;
    arch_visit(&m->arch, count_values, &used);
    const char *noted = st_metadata(m->file, "parameters");
    unsigned long long published = noted ? strtoull(noted, NULL, 10) : 0;
    return published > used && published < 2ull * used ? (size_t)published : used;
}

const char *model_stem(const char *path, int *length)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    *length = (int)strcspn(name, ".");
    return name;
}
