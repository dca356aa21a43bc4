/* Where settings come from: defaults, file, environment, flags, each over the one before. */
#include "server/config_table.h"

#include "base/nearest.h"
#include "base/try.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

static enum err set_defaults(struct config *c)
{
    for (int i = 0; i < settings_count; i++)
        TRY(setting_set(c, &settings[i], settings[i].value));
    return ERR_OK;
}

/* The setting that a name which is none was meant for, NULL where none is near. */
static const char *setting_meant(const char *name)
{
    struct nearest n = nearest_to(name);
    for (int i = 0; i < settings_count; i++)
        nearest_offer(&n, settings[i].name);
    return nearest_name(&n);
}

/* ---- file ---------------------------------------------------------------------------------------
 */

static enum err no_setting(const char *path, const char *name)
{
    const char *meant = setting_meant(name);
    if (!meant)
        return err_set(ERR_ARG, "%s: there is no setting \"%s\"", path, name);
    return err_set(ERR_ARG, "%s: there is no setting \"%s\"; did you mean \"%s\"?", path, name,
                   meant);
}

/* Names that begin with "//" are comments. */
static enum err set_object(struct config *c, const char *path, json_t *root)
{
    const char *name;
    json_t *value;
    json_object_foreach(root, name, value)
    {
        const struct setting *s = setting_find(name);
        if (strncmp(name, "//", 2) == 0)
            continue;
        if (!s)
            return no_setting(path, name);
        enum err e = setting_set_json(c, s, value);
        if (e)
            return err_context(e, "%s: \"%s\"", path, name);
    }
    return ERR_OK;
}

static enum err load_file(struct config *c, const char *path)
{
    json_error_t at;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &at);
    if (!root && at.line < 1)
        return err_set(ERR_ARG, "%s", at.text); /* it has the name */
    if (!root)
        return err_set(ERR_ARG, "%s, line %d: %s", path, at.line, at.text);
    enum err e = json_is_object(root) ? set_object(c, path, root)
                                      : err_set(ERR_ARG, "%s: a JSON object is wanted", path);
    json_decref(root);
    if (!e) {
        c->file = strdup(path);
        e = c->file ? ERR_OK : err_set(ERR_NOMEM, "no memory for a file name");
    }
    return e;
}

/* ---- environment --------------------------------------------------------------------------------
 */

/* What Kubernetes sets in every container when there is a service called "tv3sd". */
static bool is_service_link(const char *name)
{
    return strncmp(name, "SERVICE_", 8) == 0 || strncmp(name, "PORT", 4) == 0;
}

static enum err no_variable(const char *variable, int length, const char *name)
{
    static const char none[] = "there is no such setting";
    const char *meant = setting_meant(name);
    char upper[64];
    if (!meant)
        return err_set(ERR_ARG, "environment %.*s: %s", length, variable, none);
    snprintf(upper, sizeof upper, "%s", meant);
    for (char *p = upper; *p; p++)
        *p = (char)toupper((unsigned char)*p);
    return err_set(ERR_ARG, "environment %.*s: %s; did you mean TV3SD_%s?", length, variable, none,
                   upper);
}

static enum err load_variable(struct config *c, const char *variable)
{
    const char *equals = strchr(variable, '=');
    char name[64] = "";
    size_t n = equals ? (size_t)(equals - variable) : 0;
    if (n == 0 || strncmp(variable, "TV3SD_CONFIG=", 13) == 0 || is_service_link(variable + 6))
        return ERR_OK;
    for (size_t i = 6; i < n && i < sizeof name + 5; i++)
        name[i - 6] = (char)tolower((unsigned char)variable[i]);
    const struct setting *s = setting_find(name);
    if (!s)
        return no_variable(variable, (int)n, name);
    enum err e = setting_set(c, s, equals + 1);
    return e ? err_context(e, "environment %.*s", (int)n, variable) : ERR_OK;
}

static enum err load_environment(struct config *c)
{
    for (char **v = environ; *v; v++)
        if (strncmp(*v, "TV3SD_", 6) == 0)
            TRY(load_variable(c, *v));
    return ERR_OK;
}

/* ---- flags --------------------------------------------------------------------------------------
 */

struct flag {
    char typed[72];    /* as it came, "--http-port" */
    char name[64];     /* as a setting's: dashes are underscores */
    const char *value; /* NULL: none was given */
};

/* argv[*i], "--name=value" or "--name value"; actions and booleans may stand alone. */
static enum err next_flag(int argc, char **argv, int *i, struct flag *f)
{
    const char *arg = argv[(*i)++];
    if (strcmp(arg, "-h") == 0)
        arg = "--help";
    if (strncmp(arg, "--", 2) != 0)
        return err_set(ERR_ARG, "'%s': settings are given as --name value; see --help", arg);
    size_t n = strcspn(arg + 2, "=");
    f->value = arg[2 + n] ? arg + 3 + n : NULL;
    snprintf(f->name, sizeof f->name, "%.*s", n < sizeof f->name ? (int)n : 0, arg + 2);
    snprintf(f->typed, sizeof f->typed, "%.*s", (int)(n < sizeof f->name ? n + 2 : 66), arg);
    for (char *p = f->name; *p; p++)
        if (*p == '-')
            *p = '_';
    if (!f->value && *i < argc && strncmp(argv[*i], "--", 2) != 0)
        f->value = argv[(*i)++];
    return ERR_OK;
}

static const struct {
    const char *name;
    enum config_action action;
} actions[] = {{"check", CONFIG_CHECK},
               {"dump_config", CONFIG_DUMP},
               {"sample_config", CONFIG_SAMPLE},
               {"help", CONFIG_HELP},
               {"version", CONFIG_VERSION}};
enum { ACTIONS = sizeof actions / sizeof *actions };

static bool is_action(const char *name, enum config_action *action)
{
    for (int i = 0; i < ACTIONS; i++) {
        if (strcmp(name, actions[i].name) == 0) {
            *action = actions[i].action;
            return true;
        }
    }
    return false;
}

static enum err no_flag(const struct flag *f)
{
    static const char none[] = "there is no such setting";
    struct nearest n = nearest_to(f->name);
    char flag[64];
    for (int i = 0; i < settings_count; i++)
        nearest_offer(&n, settings[i].name);
    for (int i = 0; i < ACTIONS; i++)
        nearest_offer(&n, actions[i].name);
    nearest_offer(&n, "config");
    nearest_offer(&n, "model");
    if (!nearest_name(&n))
        return err_set(ERR_ARG, "%s: %s; see --help", f->typed, none);
    snprintf(flag, sizeof flag, "%s", nearest_name(&n));
    for (char *p = flag; *p; p++)
        if (*p == '_')
            *p = '-';
    return err_set(ERR_ARG, "%s: %s; did you mean --%s? See --help", f->typed, none, flag);
}

static enum err load_flag(struct config *c, const struct flag *f, bool *models_given)
{
    const struct setting *s = setting_find(f->name);
    if (strcmp(f->name, "model") == 0 && f->value) {
        if (!*models_given)
            list_free(&c->models);
        *models_given = true;
        return list_add(&c->models, f->value);
    }
    if (!s)
        return no_flag(f);
    if (!f->value && s->type != TYPE_BOOL)
        return err_set(ERR_ARG, "%s wants a value", f->typed);
    enum err e = setting_set(c, s, f->value ? f->value : "true");
    return e ? err_context(e, "%s", f->typed) : ERR_OK;
}

static enum err load_flags(struct config *c, int argc, char **argv, enum config_action *action)
{
    bool models_given = false;
    struct flag f;
    for (int i = 1; i < argc;) {
        TRY(next_flag(argc, argv, &i, &f));
        if (strcmp(f.name, "config") == 0)
            continue; /* find_file took it */
        if (is_action(f.name, action)) {
            if (f.value)
                return err_set(ERR_ARG, "%s takes no value", f.typed);
            continue;
        }
        TRY(load_flag(c, &f, &models_given));
    }
    return ERR_OK;
}

/* The file of --config, else of TV3SD_CONFIG; NULL for none. */
static enum err find_file(int argc, char **argv, const char **path)
{
    struct flag f;
    *path = getenv("TV3SD_CONFIG");
    for (int i = 1; i < argc;) {
        TRY(next_flag(argc, argv, &i, &f));
        if (strcmp(f.name, "config") != 0)
            continue;
        if (!f.value)
            return err_set(ERR_ARG, "--config wants a file");
        *path = f.value;
    }
    return ERR_OK;
}

/* ---- all of it ----------------------------------------------------------------------------------
 */

enum err config_load(struct config *c, int argc, char **argv, enum config_action *action)
{
    const char *path;
    *action = CONFIG_RUN;
    c->argc = argc;
    c->argv = argv;
    TRY(set_defaults(c));
    c->auto_state_bytes = CONFIG_AUTO_STATE_BYTES;
    TRY(find_file(argc, argv, &path));
    if (path)
        TRY(load_file(c, path));
    TRY(load_environment(c));
    return load_flags(c, argc, argv, action);
}

void config_free(struct config *c)
{
    for (int i = 0; i < settings_count; i++) {
        void *field = (char *)c + settings[i].offset;
        if (settings[i].type == TYPE_STRING)
            free(*(char **)field);
        else if (settings[i].type == TYPE_LIST)
            list_free(field);
    }
    free(c->file);
    *c = (struct config){0};
}

/* Takes over, or notes, one setting that differs. */
static enum err reload_setting(struct config *c, const struct config *fresh,
                               const struct setting *s, char **ignored)
{
    enum err e = ERR_OK;
    json_t *old = setting_json(c, s), *new = setting_json(fresh, s);
    char *names = NULL;
    if (!old || !new)
        e = err_set(ERR_NOMEM, "no memory to reload");
    else if (!json_equal(old, new) && setting_reloads(s))
        e = setting_set_json(c, s, new);
    else if (!json_equal(old, new)) {
        if (asprintf(&names, "%s%s%s", *ignored ? *ignored : "", *ignored ? " " : "", s->name) < 0)
            e = err_set(ERR_NOMEM, "no memory to reload");
        else {
            free(*ignored);
            *ignored = names;
        }
    }
    json_decref(old);
    json_decref(new);
    return e;
}

enum err config_reload(struct config *c, char **ignored)
{
    struct config fresh = {0};
    enum config_action action;
    *ignored = NULL;
    enum err e = config_load(&fresh, c->argc, c->argv, &action);
    for (int i = 0; !e && i < settings_count; i++)
        e = reload_setting(c, &fresh, &settings[i], ignored);
    config_free(&fresh);
    return e;
}
