/* The archive has one folder: data.pkl, data/KEY for every storage, byteorder, version. A storage
 * is the raw memory of one or more tensors, stored uncompressed by torch and accepted compressed.
 *
 * One tensor is read at a time, straight into its own buffer; a storage is always read to its end,
 * because only there does libzip compare the checksum. What is allocated follows from the shapes
 * that the caller found plausible, not from sizes that the archive claims. A tensor whose elements
 * do not lie row by row (a transposed one, say) is gathered from the stretch that it covers. */
#include "engine/import/torch_file.h"
#include "engine/safetensors_parts.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <zip.h>

enum { MAX_PREFIX = 1024, MAX_PICKLE = 64 << 20 };

struct torch_file {
    zip_t *zip;
    char prefix[MAX_PREFIX]; /* "archive/" */
    void *pickle_bytes;
    struct pickle *pickle;
};

/* Reads `count` bytes of an open entry. */
static enum err read_exactly(zip_file_t *entry, const char *name, void *out, uint64_t count)
{
    char *at = out;
    while (count) {
        zip_int64_t n = zip_fread(entry, at, count);
        if (n <= 0)
            return err_set(ERR_FORMAT, "archive entry '%.80s': %s", name,
                           n < 0 ? zip_error_strerror(zip_file_get_error(entry)) : "too short");
        at += n;
        count -= (uint64_t)n;
    }
    return ERR_OK;
}

/* Reads and forgets `count` bytes, or all there is with UINT64_MAX. */
static enum err skip(zip_file_t *entry, const char *name, uint64_t count)
{
    char waste[32768];
    while (count) {
        zip_int64_t n = zip_fread(entry, waste, count < sizeof waste ? count : sizeof waste);
        if (n == 0 && count == UINT64_MAX)
            return ERR_OK;
        if (n <= 0)
            return err_set(ERR_FORMAT, "archive entry '%.80s': %s", name,
                           n < 0 ? zip_error_strerror(zip_file_get_error(entry)) : "too short");
        count -= count == UINT64_MAX ? 0 : (uint64_t)n;
    }
    return ERR_OK;
}

/* The entry of that name; it must have `size` bytes if that is not 0. */
static enum err find_entry(struct torch_file *f, const char *name, uint64_t size,
                           zip_uint64_t *index)
{
    zip_stat_t info;
    zip_int64_t at = zip_name_locate(f->zip, name, ZIP_FL_ENC_RAW);
    if (at < 0 || zip_stat_index(f->zip, (zip_uint64_t)at, 0, &info) < 0 ||
        !(info.valid & ZIP_STAT_SIZE))
        return err_set(ERR_FORMAT, "the archive has no '%.80s'", name);
    if (size && info.size != size)
        return err_set(ERR_FORMAT, "archive entry '%.80s' has %" PRIu64 " bytes, not %" PRIu64,
                       name, (uint64_t)info.size, size);
    *index = (zip_uint64_t)at;
    return ERR_OK;
}

/* Bytes [from, from + count) of an entry into `out`. Reads to the end, for the checksum. */
static enum err read_entry(struct torch_file *f, const char *name, zip_uint64_t index,
                           uint64_t from, void *out, uint64_t count)
{
    zip_file_t *entry = zip_fopen_index(f->zip, index, 0);
    if (!entry)
        return err_set(ERR_FORMAT, "archive entry '%.80s': %s", name, zip_strerror(f->zip));
    enum err err = skip(entry, name, from);
    if (!err)
        err = read_exactly(entry, name, out, count);
    if (!err)
        err = skip(entry, name, UINT64_MAX);
    zip_fclose(entry);
    return err;
}

/* Sets the prefix from the one entry FOLDER/data.pkl. */
static enum err find_pickle(struct torch_file *f, uint64_t *size)
{
    static const char tail[] = "data.pkl";
    zip_int64_t count = zip_get_num_entries(f->zip, 0);
    for (zip_int64_t i = 0; i < count; i++) {
        zip_stat_t info;
        if (zip_stat_index(f->zip, (zip_uint64_t)i, ZIP_FL_ENC_RAW, &info) < 0 ||
            !(info.valid & ZIP_STAT_NAME) || !(info.valid & ZIP_STAT_SIZE))
            continue;
        size_t len = strlen(info.name), folder = len - (sizeof tail - 1);
        if (len < sizeof tail || len >= MAX_PREFIX || strcmp(info.name + folder, tail) != 0 ||
            strchr(info.name, '/') != info.name + folder - 1)
            continue;
        if (info.size > MAX_PICKLE)
            return err_set(ERR_LIMIT, "the archive has a pickle of %" PRIu64 " bytes",
                           (uint64_t)info.size);
        memcpy(f->prefix, info.name, folder);
        f->prefix[folder] = '\0';
        *size = info.size;
        return ERR_OK;
    }
    return err_set(ERR_FORMAT, "a zip archive, but not of torch.save: it has no data.pkl");
}

static enum err check_byteorder(struct torch_file *f)
{
    char name[MAX_PREFIX + 16], order[3];
    snprintf(name, sizeof name, "%sbyteorder", f->prefix);
    if (zip_name_locate(f->zip, name, ZIP_FL_ENC_RAW) < 0)
        return ERR_OK; /* torch before 2.1 did not say */
    zip_uint64_t index = 0;
    enum err err = find_entry(f, name, 0, &index);
    if (!err)
        err = read_entry(f, name, index, 0, order, sizeof order);
    if (!err && memcmp(order, "lit", sizeof order) != 0)
        err = err_set(ERR_UNSUPPORTED, "the archive is of a big-endian machine; save it again on "
                                       "a little-endian one");
    return err;
}

/* What a file is that is no zip archive, in words that help. */
static enum err explain(const char *path)
{
    uint8_t head[512] = {0};
    FILE *file = fopen(path, "rb");
    if (!file)
        return err_set(errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "%s: %s", path, strerror(errno));
    size_t len = fread(head, 1, sizeof head, file);
    bool unreadable = ferror(file);
    fclose(file);
    if (unreadable)
        return err_set(ERR_IO, "%s: cannot be read", path);
    bool pickle = len > 2 && head[0] == 0x80 && head[1] >= 2 && head[1] <= 5;
    bool tar = len > 262 && memcmp(head + 257, "ustar", 5) == 0;
    if (pickle || tar)
        return err_set(ERR_UNSUPPORTED,
                       "%s: a checkpoint in the old format of torch; load it with torch.load and "
                       "save it again with torch.save",
                       path);
    if (len > 4 && memcmp(head, "PK\3\4", 4) == 0)
        return err_set(ERR_FORMAT, "%s: a zip archive that is broken or cut off", path);
    return err_set(ERR_FORMAT, "%s: neither a checkpoint of torch.save nor safetensors", path);
}

static enum err open_archive(const char *path, struct torch_file *f)
{
    int code = 0;
    uint64_t size = 0;
    f->zip = zip_open(path, ZIP_RDONLY, &code);
    if (!f->zip)
        return explain(path);
    enum err err = find_pickle(f, &size);
    if (!err)
        err = check_byteorder(f);
    if (err)
        return err;
    char name[MAX_PREFIX + 16];
    zip_uint64_t index = 0;
    snprintf(name, sizeof name, "%sdata.pkl", f->prefix);
    err = find_entry(f, name, size, &index);
    if (err)
        return err;
    f->pickle_bytes = malloc(size + 1);
    if (!f->pickle_bytes)
        return err_set(ERR_NOMEM, "no memory for a pickle of %" PRIu64 " bytes", size);
    err = read_entry(f, name, index, 0, f->pickle_bytes, size);
    if (!err)
        err = pickle_open(f->pickle_bytes, size, &f->pickle);
    if (err == ERR_UNSUPPORTED) /* code of others' is not run */
        return err_context(err, "%s holds more than tensors: torch.save its state_dict alone",
                           path);
    return err;
}

enum err torch_open(const char *path, struct torch_file **out)
{
    *out = NULL;
    struct torch_file *f = calloc(1, sizeof *f);
    if (!f)
        return err_set(ERR_NOMEM, "no memory for a checkpoint");
    enum err err = open_archive(path, f);
    if (err) {
        torch_close(f);
        return err;
    }
    *out = f;
    return ERR_OK;
}

void torch_close(struct torch_file *f)
{
    if (!f)
        return;
    pickle_close(f->pickle);
    free(f->pickle_bytes);
    if (f->zip)
        zip_discard(f->zip);
    free(f);
}

const struct pk_value *torch_root(const struct torch_file *f)
{
    return pickle_root(f->pickle);
}

/* ---- tensors ------------------------------------------------------------------------------------
 */

/* Elements from the first to the last of the view; 0 for an empty one. */
static uint64_t stretch(const struct pk_tensor *t)
{
    uint64_t n = 1;
    for (int i = 0; i < t->ndim; i++) {
        if (t->shape[i] == 0)
            return 0;
        n += (uint64_t)(t->shape[i] - 1) * (uint64_t)t->stride[i];
    }
    return n;
}

static bool contiguous(const struct pk_tensor *t)
{
    int64_t next = 1;
    for (int i = t->ndim - 1; i >= 0; i--) {
        if (t->shape[i] != 1 && t->stride[i] != next)
            return false;
        next *= t->shape[i];
    }
    return true;
}

/* The view `t` of the elements at `in`, row by row. */
static void gather(const struct pk_tensor *t, size_t elem, size_t count, const char *in, char *out)
{
    int64_t at[ST_MAX_DIMS] = {0};
    for (size_t n = 0; n < count; n++) {
        uint64_t from = 0;
        for (int i = 0; i < t->ndim; i++)
            from += (uint64_t)at[i] * (uint64_t)t->stride[i];
        memcpy(out + n * elem, in + from * elem, elem);
        for (int i = t->ndim - 1; i >= 0 && ++at[i] == t->shape[i]; i--)
            at[i] = 0;
    }
}

enum err torch_load(struct torch_file *f, const struct pk_tensor *t, void **out, size_t *bytes)
{
    const struct pk_storage *s = t->storage;
    char name[MAX_PREFIX + 128], *span = NULL, *rows = NULL;
    size_t elem = dtype_size(s->dtype);
    uint64_t storage_bytes, span_bytes = stretch(t) * elem;
    zip_uint64_t index = 0;
    enum err err = ERR_OK;
    *out = NULL;

    if (!st_shape_bytes(s->dtype, t->ndim, t->shape, bytes) ||
        __builtin_mul_overflow(s->numel, (uint64_t)elem, &storage_bytes))
        return err_set(ERR_LIMIT, "storage '%.40s' is impossibly large", s->key);
    if (strlen(s->key) > 64)
        return err_set(ERR_FORMAT, "storage '%.40s...' has too long a name", s->key);
    if (!contiguous(t) && span_bytes / 4 > *bytes)
        return err_set(ERR_UNSUPPORTED, "a tensor is scattered over its storage '%.40s'", s->key);
    snprintf(name, sizeof name, "%sdata/%s", f->prefix, s->key);

    err = find_entry(f, name, storage_bytes, &index);
    if (err)
        goto done;
    span = malloc(span_bytes + 1);
    if (!span) {
        err = err_set(ERR_NOMEM, "no memory for %" PRIu64 " bytes", span_bytes);
        goto done;
    }
    err = read_entry(f, name, index, t->offset * elem, span, span_bytes);
    if (err)
        goto done;
    if (contiguous(t)) {
        *out = span;
        span = NULL;
        goto done;
    }
    rows = malloc(*bytes + 1);
    if (!rows) {
        err = err_set(ERR_NOMEM, "no memory for %zu bytes", *bytes);
        goto done;
    }
    gather(t, elem, *bytes / elem, span, rows);
    *out = rows;
done:
    free(span);
    return err;
}
