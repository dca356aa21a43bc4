/* The settings' table, and one setting from text or JSON and back.
 *
 * Every value has a text form (that of flags and environment), so defaults are kept as text and
 * everything but JSON's own types goes through setting_set. */
#include "server/config_table.h"

#include "base/try.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROW(name, type, value, min, max, help)                                                     \
    {#name, type, offsetof(struct config, name), value, min, max, help},
#define CONFIG_STRING(name, value, help)            ROW(name, TYPE_STRING, value, 0, 0, help)
#define CONFIG_LIST(name, value, help)              ROW(name, TYPE_LIST, value, 0, 0, help)
#define CONFIG_INT(name, value, min, max, help)     ROW(name, TYPE_INT, #value, min, max, help)
#define CONFIG_SIZE(name, value, min, max, help)    ROW(name, TYPE_SIZE, #value, min, max, help)
#define CONFIG_SECONDS(name, value, min, max, help) ROW(name, TYPE_SECONDS, #value, min, max, help)
#define CONFIG_BOOL(name, value, help)              ROW(name, TYPE_BOOL, #value, 0, 1, help)
#define CONFIG_RELOAD(...)
const struct setting settings[] = {
#include "server/config.def"
};
const int settings_count = sizeof settings / sizeof *settings;
#undef CONFIG_STRING
#undef CONFIG_LIST
#undef CONFIG_INT
#undef CONFIG_SIZE
#undef CONFIG_SECONDS
#undef CONFIG_BOOL
#undef CONFIG_RELOAD

#define CONFIG_STRING(...)
#define CONFIG_LIST(...)
#define CONFIG_INT(...)
#define CONFIG_SIZE(...)
#define CONFIG_SECONDS(...)
#define CONFIG_BOOL(...)
#define CONFIG_RELOAD(...) static const char reloadable[] = " " #__VA_ARGS__ ",";
#include "server/config.def"

const struct setting *setting_find(const char *name)
{
    for (int i = 0; i < settings_count; i++)
        if (strcmp(settings[i].name, name) == 0)
            return &settings[i];
    return NULL;
}

bool setting_reloads(const struct setting *s)
{
    char word[80];
    snprintf(word, sizeof word, " %s,", s->name);
    return strstr(reloadable, word) != NULL;
}

/* ---- lists --------------------------------------------------------------------------------------
 */

enum err list_add(struct config_list *list, const char *text)
{
    char **grown = realloc(list->item, (size_t)(list->count + 1) * sizeof *grown);
    if (grown)
        list->item = grown;
    char *copy = strdup(text);
    if (!grown || !copy) {
        free(copy);
        return err_set(ERR_NOMEM, "no memory for a list");
    }
    list->item[list->count++] = copy;
    return ERR_OK;
}

void list_free(struct config_list *list)
{
    for (int i = 0; i < list->count; i++)
        free(list->item[i]);
    free(list->item);
    *list = (struct config_list){0};
}

/* Comma-separated, blanks around the items cut off, empty ones skipped. */
static enum err set_list(struct config_list *list, const char *text)
{
    list_free(list);
    if (strchr(text, '"'))
        return err_set(ERR_ARG, "'%.40s': items are separated by commas, without quotes", text);
    while (*text) {
        text += strspn(text, " ,");
        size_t n = strcspn(text, ",");
        char *item = strndup(text, n);
        if (!item)
            return err_set(ERR_NOMEM, "no memory for a list");
        text += n;
        while (n > 0 && item[n - 1] == ' ')
            item[--n] = '\0';
        enum err e = n > 0 ? list_add(list, item) : ERR_OK;
        free(item);
        TRY(e);
    }
    return ERR_OK;
}

/* ---- text ---------------------------------------------------------------------------------------
 */

static enum err set_string(char **field, const char *text)
{
    char *copy = strdup(text);
    if (!copy)
        return err_set(ERR_NOMEM, "no memory for a setting");
    free(*field);
    *field = copy;
    return ERR_OK;
}

static enum err set_bool(atomic_bool *field, const char *text)
{
    static const char *const yes[] = {"true", "yes", "on", "1"};
    static const char *const no[] = {"false", "no", "off", "0"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(text, yes[i]) == 0 || strcmp(text, no[i]) == 0) {
            *field = strcmp(text, yes[i]) == 0;
            return ERR_OK;
        }
    }
    return err_set(ERR_ARG, "'%.40s' is neither true nor false", text);
}

static enum err set_number(struct config *c, const struct setting *s, double v)
{
    void *field = (char *)c + s->offset;
    if (!(v >= s->min && v <= s->max))
        return err_set(ERR_ARG, "%.15g is not within %.15g to %.15g", v, s->min, s->max);
    if (s->type != TYPE_SECONDS && v != floor(v))
        return err_set(ERR_ARG, "%.15g is not a whole number", v);
    if (s->type == TYPE_INT)
        *(atomic_int *)field = (int)v;
    else if (s->type == TYPE_SIZE)
        *(_Atomic uint64_t *)field = (uint64_t)v;
    else
        *(_Atomic double *)field = v;
    return ERR_OK;
}

/* Digits and a point; sizes may end in K, M, G or T. No sign, no hexadecimal, no infinity. */
static enum err parse_number(const char *text, bool size, double *out)
{
    static const char units[] = "KMGT";
    char *end = NULL;
    size_t digits = strspn(text, "0123456789.");
    *out = strtod(text, &end);
    bool ok = digits > 0 && end == text + digits;
    const char *unit = ok && size && *end ? strchr(units, *end) : NULL;
    if (unit) {
        *out = ldexp(*out, 10 * (int)(unit - units + 1));
        end++;
    }
    if (!ok || *end)
        return err_set(ERR_ARG, "'%.40s' is not a number", text);
    return ERR_OK;
}

enum err setting_set(struct config *c, const struct setting *s, const char *text)
{
    void *field = (char *)c + s->offset;
    double v;
    switch (s->type) {
    case TYPE_STRING:
        return set_string(field, text);
    case TYPE_LIST:
        return set_list(field, text);
    case TYPE_BOOL:
        return set_bool(field, text);
    case TYPE_INT:
    case TYPE_SIZE:
    case TYPE_SECONDS:
        break;
    }
    TRY(parse_number(text, s->type == TYPE_SIZE, &v));
    return set_number(c, s, v);
}

/* ---- JSON ---------------------------------------------------------------------------------------
 */

static enum err set_array(struct config_list *list, const json_t *array)
{
    size_t i;
    json_t *value;
    list_free(list);
    json_array_foreach(array, i, value)
    {
        if (!json_is_string(value))
            return err_set(ERR_ARG, "an array of strings is wanted");
        TRY(list_add(list, json_string_value(value)));
    }
    return ERR_OK;
}

enum err setting_set_json(struct config *c, const struct setting *s, const json_t *value)
{
    void *field = (char *)c + s->offset;
    switch (s->type) {
    case TYPE_STRING:
        if (json_is_string(value))
            return set_string(field, json_string_value(value));
        return err_set(ERR_ARG, "a string is wanted");
    case TYPE_LIST:
        if (json_is_array(value))
            return set_array(field, value);
        return err_set(ERR_ARG, "an array of strings is wanted");
    case TYPE_BOOL:
        if (!json_is_boolean(value))
            return err_set(ERR_ARG, "true or false is wanted");
        *(atomic_bool *)field = json_is_true(value);
        return ERR_OK;
    case TYPE_SIZE:
        if (json_is_string(value))
            return setting_set(c, s, json_string_value(value));
        break;
    case TYPE_INT:
    case TYPE_SECONDS:
        break;
    }
    if (!json_is_number(value))
        return err_set(ERR_ARG, "a number is wanted");
    return set_number(c, s, json_number_value(value));
}

static json_t *list_json(const struct config_list *list)
{
    json_t *array = json_array();
    for (int i = 0; i < list->count; i++)
        json_array_append_new(array, json_string(list->item[i]));
    return array;
}

json_t *setting_json(const struct config *c, const struct setting *s)
{
    const void *field = (const char *)c + s->offset;
    switch (s->type) {
    case TYPE_STRING:
        return json_string(*(char *const *)field);
    case TYPE_LIST:
        return list_json(field);
    case TYPE_INT:
        return json_integer(*(const atomic_int *)field);
    case TYPE_SIZE:
        return json_integer((json_int_t) * (const _Atomic uint64_t *)field);
    case TYPE_SECONDS:
        return json_real(*(const _Atomic double *)field);
    case TYPE_BOOL:
        return json_boolean(*(const atomic_bool *)field);
    }
    return NULL;
}
