/* tv3s key: makes an API key, and keeps its hash in the daemon's key file. */
#include "base/nearest.h"
#include "base/outfile.h"
#include "base/try.h"
#include "proto/key.h"
#include "tools/tool.h"

#include <errno.h>
#include <getopt.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char usage[] =
    "usage: tv3s key NAME [--roles ROLE[,ROLE...]] [--file KEYS.json] [LIMITS]\n"
    "\n"
    "Prints a new key, which nobody can print again, and adds its hash to the key file of tv3sd.\n"
    "A name that is there gets the key beside those that it has: take the old hash out of the "
    "file\n"
    "when everybody has the new one. Send tv3sd SIGHUP to have the file read.\n"
    "\n"
    "  --roles LIST            submit (upload videos and images), stream (live streams),\n"
    "                          read (results, lists), admin (metrics). A name that is there\n"
    "                          keeps its roles and limits, unless others are given: these are\n"
    "                          then of all its keys\n"
    "  --file FILE             made when it is not there; without it the entry is printed\n"
    "  --streams N             live streams at once\n"
    "  --frames-per-second X   frames of streams, and single images\n"
    "  --jobs N                uploaded videos that are not done\n"
    "  --upload-bytes N        bytes of the uploaded videos that are here\n"
    "  --help\n";

struct wishes {
    const char *name, *file;
    json_t *entry;   /* the new one */
    json_t *changes; /* of one that is there: roles and limits */
    json_t *roles;   /* that it had before; NULL: there was none */
};

/* ---- the file -----------------------------------------------------------------------------------
 */

static enum err read_file(const char *path, json_t **out)
{
    json_error_t at;
    *out = NULL;
    if (access(path, F_OK) != 0 && errno == ENOENT)
        *out = json_pack("{s:[]}", "keys");
    else if (!(*out = json_load_file(path, JSON_REJECT_DUPLICATES, &at)))
        return err_set(ERR_FORMAT, "%s, line %d: %s", path, at.line, at.text);
    if (json_is_array(json_object_get(*out, "keys")))
        return ERR_OK;
    json_decref(*out);
    *out = NULL;
    return err_set(ERR_FORMAT, "%s: an object with \"keys\", an array, is wanted", path);
}

/* The entry of that name gets the hash, and the roles and limits that were given. ERR_ARG: there is
 * none, and no roles for one. */
static enum err add(json_t *root, struct wishes *w)
{
    json_t *keys = json_object_get(root, "keys"), *there;
    json_t *hashes = json_object_get(w->entry, "hashes");
    size_t i;
    json_array_foreach(keys, i, there)
    {
        const char *name = json_string_value(json_object_get(there, "name"));
        if (!name || strcmp(name, w->name) != 0)
            continue;
        json_t *old = json_object_get(there, "hashes");
        if (!json_is_array(old) || json_array_extend(old, hashes))
            return err_set(ERR_FORMAT, "the key %s has no \"hashes\"", w->name);
        w->roles = json_incref(json_object_get(there, "roles"));
        return json_object_update(there, w->changes) ? err_set(ERR_NOMEM, "no memory") : ERR_OK;
    }
    if (!json_object_get(w->entry, "roles"))
        return err_set(ERR_ARG, "%s is not in the file: --roles is wanted", w->name);
    return json_array_append(keys, w->entry) ? err_set(ERR_NOMEM, "no memory") : ERR_OK;
}

static enum err write_file(const char *path, const json_t *root)
{
    struct outfile *f;
    char *text = json_dumps(root, JSON_INDENT(2));
    if (!text)
        return err_set(ERR_NOMEM, "no memory");
    enum err e = outfile_open(path, &f);
    if (!e) {
        e = outfile_write(f, text, strlen(text));
        if (!e)
            e = outfile_write(f, "\n", 1);
        if (e)
            outfile_abort(f);
        else
            e = outfile_commit(f);
    }
    free(text);
    return e;
}

/* Other roles are easily a slip: they are of the keys that clients have already. */
static void tell_roles(const struct wishes *w)
{
    const json_t *now = json_object_get(w->changes, "roles");
    if (!w->roles || !now || json_equal(w->roles, now))
        return;
    char *old = json_dumps(w->roles, JSON_COMPACT | JSON_ENCODE_ANY);
    if (old)
        fprintf(stderr, "tv3s key: the roles of all keys of %s have changed; they were %s\n",
                w->name, old);
    free(old);
}

static enum err keep(struct wishes *w)
{
    json_t *root;
    if (!w->file)
        return json_dumpf(w->entry, stdout, JSON_INDENT(2)) || putchar('\n') == EOF
                   ? err_set(ERR_IO, "the entry cannot be printed")
                   : ERR_OK;
    TRY(read_file(w->file, &root));
    enum err e = add(root, w);
    if (!e)
        e = write_file(w->file, root);
    if (!e)
        tell_roles(w);
    json_decref(root);
    return e;
}

static enum err make(struct wishes *w)
{
    char key[KEY_TEXT], text[KEY_HASH_TEXT];
    uint8_t hash[KEY_HASH];
    TRY(key_make(key));
    if (!key_hash(key, strlen(key), hash))
        return err_set(ERR_INTERNAL, "the key has no hash");
    key_hash_print(hash, text);
    json_object_set_new(w->entry, "hashes", json_pack("[s]", text));
    TRY(keep(w)); /* first: a key that is printed works */
    return puts(key) < 0 ? err_set(ERR_IO, "the key cannot be printed") : ERR_OK;
}

/* ---- arguments ----------------------------------------------------------------------------------
 */

static int take_roles(const char *command, json_t *changes, char *list)
{
    json_t *roles = json_array();
    json_object_set_new(changes, "roles", roles);
    for (char *name; (name = strsep(&list, ","));) {
        if (!key_role_parse(name))
            return tool_usage(command, "roles are submit, stream, read and admin, not '%s'", name);
        json_array_append_new(roles, json_string(name));
    }
    return TOOL_OK;
}

static bool take_limit(json_t *limits, const char *name, const char *text, bool whole)
{
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || !(v > 0 && v < 1e15) || (whole && v != (double)(json_int_t)v))
        return false;
    json_object_set_new(limits, name, whole ? json_integer((json_int_t)v) : json_real(v));
    return true;
}

static int take_option(const char *command, int c, struct wishes *w)
{
    static const char *const limit[] = {"streams", "frames_per_second", "jobs", "upload_bytes"};
    switch (c) {
    case 'r':
        return take_roles(command, w->changes, optarg);
    case 'f':
        w->file = optarg;
        return TOOL_OK;
    default:
        if (!take_limit(w->changes, limit[c], optarg, c != 1))
            return tool_usage(command, "a limit is a number above 0, not '%s'", optarg);
        return TOOL_OK;
    }
}

static int run(int argc, char **argv, struct wishes *w)
{
    static const struct option options[] = {
        {"roles", required_argument, NULL, 'r'},
        {"file", required_argument, NULL, 'f'},
        {"help", no_argument, NULL, 'h'},
        {"streams", required_argument, NULL, 0},
        {"frames-per-second", required_argument, NULL, 1},
        {"jobs", required_argument, NULL, 2},
        {"upload-bytes", required_argument, NULL, 3},
        {NULL, 0, NULL, 0},
    };
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        if (c == 'h') {
            fputs(usage, stdout);
            return TOOL_OK;
        }
        if (c == '?') { /* getopt_long has printed its line */
            nearest_option(argv, options);
            return TOOL_USAGE;
        }
        int status = take_option(argv[0], c, w);
        if (status)
            return status;
    }
    if (optind + 1 != argc || !key_name_valid(argv[optind]))
        return tool_usage(argv[0], "one NAME is wanted: 1 to 64 of A-Z a-z 0-9 . _ -");
    if (!w->file && !json_object_get(w->changes, "roles"))
        return tool_usage(argv[0], "--roles is wanted");
    w->name = argv[optind];
    json_object_set_new(w->entry, "name", json_string(w->name));
    json_object_update(w->entry, w->changes);
    return make(w) ? tool_error(argv[0], "%s", err_text()) : TOOL_OK;
}

int cmd_key(int argc, char **argv)
{
    struct wishes w = {.entry = json_object(), .changes = json_object()};
    int status = run(argc, argv, &w);
    json_decref(w.entry);
    json_decref(w.changes);
    json_decref(w.roles);
    return status;
}
