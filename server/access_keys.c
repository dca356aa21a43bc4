/* The key file:
 *
 *     {"keys": [{"name": "cameras", "hashes": ["sha256:5f70..."], "roles": ["stream"],
 *                "streams": 8, "frames_per_second": 100, "jobs": 2, "upload_bytes": 1000000000}]}
 *
 * The limits may be left out. Anything else in it is an error: a limit that is misspelt would be
 * none. */
#include "server/access_parts.h"

#include "base/try.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { FILE_MAX = 1 << 20 };

static enum err take_name(struct grant *g, const json_t *value)
{
    const char *text = json_string_value(value);
    if (!text || !key_name_valid(text))
        return err_set(ERR_FORMAT, "a name is 1 to 64 of A-Z a-z 0-9 . _ -");
    memcpy(g->name, text, strlen(text) + 1);
    return ERR_OK;
}

static enum err take_hashes(struct grant *g, const json_t *array)
{
    size_t i;
    json_t *value;
    if (json_array_size(array) < 1 || json_array_size(array) > HASHES_MAX)
        return err_set(ERR_FORMAT, "\"hashes\" is an array of 1 to %d", HASHES_MAX);
    json_array_foreach(array, i, value)
    {
        const char *text = json_string_value(value);
        if (!text || !key_hash_parse(text, g->hash[g->hashes++]))
            return err_set(ERR_FORMAT, "a hash is \"sha256:\" and 64 hexadecimal digits");
    }
    return ERR_OK;
}

static enum err take_roles(struct grant *g, const json_t *array)
{
    size_t i;
    json_t *value;
    if (json_array_size(array) < 1)
        return err_set(ERR_FORMAT, "\"roles\" is an array of one or more");
    json_array_foreach(array, i, value)
    {
        unsigned role = json_is_string(value) ? key_role_parse(json_string_value(value)) : 0;
        if (!role)
            return err_set(ERR_FORMAT, "roles are submit, stream, read and admin");
        g->roles |= role;
    }
    return ERR_OK;
}

static enum err take_count(uint64_t *limit, const char *name, const json_t *value)
{
    if (!json_is_integer(value) || json_integer_value(value) < 1)
        return err_set(ERR_FORMAT, "\"%s\" is a whole number from 1 on", name);
    *limit = (uint64_t)json_integer_value(value);
    return ERR_OK;
}

static enum err take_rate(double *limit, const json_t *value)
{
    *limit = json_number_value(value);
    return *limit > 0 && *limit < 1e9 ? ERR_OK
                                      : err_set(ERR_FORMAT, "\"frames_per_second\" is above 0");
}

static enum err take_member(struct grant *g, const char *name, const json_t *value)
{
    if (strcmp(name, "name") == 0)
        return take_name(g, value);
    if (strcmp(name, "hashes") == 0)
        return take_hashes(g, value);
    if (strcmp(name, "roles") == 0)
        return take_roles(g, value);
    if (strcmp(name, "streams") == 0)
        return take_count(&g->streams, name, value);
    if (strcmp(name, "jobs") == 0)
        return take_count(&g->jobs, name, value);
    if (strcmp(name, "upload_bytes") == 0)
        return take_count(&g->upload_bytes, name, value);
    if (strcmp(name, "frames_per_second") == 0)
        return take_rate(&g->frames_per_second, value);
    return err_set(ERR_FORMAT, "there is no \"%.40s\"", name);
}

static enum err take_grant(struct grant *g, const json_t *object)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, name, value) if (strncmp(name, "//", 2) != 0)
        TRY(take_member(g, name, value));
    if (!g->name[0] || !g->hashes || !g->roles)
        return err_set(ERR_FORMAT, "\"name\", \"hashes\" and \"roles\" are wanted");
    return ERR_OK;
}

/* Two keys of one name would be one owner with two sets of roles; two names of one key, nonsense.
 */
static enum err check_unique(const struct grant *all, size_t n)
{
    const struct grant *g = &all[n];
    for (size_t i = 0; i < n; i++) {
        if (strcmp(all[i].name, g->name) == 0)
            return err_set(ERR_FORMAT, "the name is there twice");
        for (int a = 0; a < all[i].hashes; a++)
            for (int b = 0; b < g->hashes; b++)
                if (key_hash_equal(all[i].hash[a], g->hash[b]))
                    return err_set(ERR_FORMAT, "the hash is that of key %s too", all[i].name);
    }
    return ERR_OK;
}

static enum err take_all(const char *path, const json_t *root, struct grant **out, size_t *count)
{
    json_t *value, *keys = json_object_get(root, "keys");
    size_t i, n = json_array_size(keys);
    if (!json_is_array(keys))
        return err_set(ERR_FORMAT, "%s: an object with \"keys\", an array, is wanted", path);
    *out = calloc(n + 1, sizeof **out);
    if (!*out)
        return err_set(ERR_NOMEM, "no memory for keys");
    json_array_foreach(keys, i, value)
    {
        enum err e = json_is_object(value) ? take_grant(&(*out)[i], value)
                                           : err_set(ERR_FORMAT, "an object is wanted");
        if (!e)
            e = check_unique(*out, i);
        if (e)
            return err_context(e, "%s: key %zu", path, i + 1);
    }
    *count = n;
    return ERR_OK;
}

enum err keys_read(const char *path, struct grant **out, size_t *count)
{
    json_error_t at;
    struct stat info;
    *out = NULL;
    *count = 0;
    if (stat(path, &info) != 0)
        return err_set(ERR_IO, "the key file %s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode) || info.st_size > FILE_MAX)
        return err_set(ERR_FORMAT, "the key file %s: no file of at most %d bytes", path, FILE_MAX);
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &at);
    if (!root && at.line < 1)
        return err_set(ERR_IO, "the key file: %s", at.text); /* it has the name */
    if (!root)
        return err_set(ERR_FORMAT, "the key file %s, line %d: %s", path, at.line, at.text);
    enum err e = take_all(path, root, out, count);
    json_decref(root);
    if (e) {
        free(*out);
        *out = NULL;
    }
    return e;
}
