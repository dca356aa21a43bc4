/* The table of config.def as data. Inside server/config*.c only. */
#ifndef TV3S_SERVER_CONFIG_TABLE_H
#define TV3S_SERVER_CONFIG_TABLE_H

#include "server/config.h"

#include <jansson.h>
#include <stddef.h>

enum setting_type { TYPE_STRING, TYPE_LIST, TYPE_INT, TYPE_SIZE, TYPE_SECONDS, TYPE_BOOL };

struct setting {
    const char *name;
    enum setting_type type;
    size_t offset;     /* in struct config */
    const char *value; /* the default, as text */
    double min, max;
    const char *help;
};

extern const struct setting settings[];
extern const int settings_count;

/* NULL when there is none of the name. */
const struct setting *setting_find(const char *name);
/* A name of CONFIG_RELOAD. */
bool setting_reloads(const struct setting *s);

/* Sets it from text. ERR_ARG with a text that begins with the value. */
enum err setting_set(struct config *c, const struct setting *s, const char *text);
/* ... from a JSON value of the setting's type. */
enum err setting_set_json(struct config *c, const struct setting *s, const json_t *value);
/* Its value; a new reference, NULL: no memory. */
json_t *setting_json(const struct config *c, const struct setting *s);

/* One more item of a TYPE_LIST. */
enum err list_add(struct config_list *list, const char *text);
void list_free(struct config_list *list);

#endif
