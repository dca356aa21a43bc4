/* The daemon's configuration: one table (config.def) makes everything here.
 *
 * Numbers are atomic, so a reload needs no lock: readers read the field, now and then. Strings and
 * lists stay as they are for the life of the process (log_level and drained_devices alone change,
 * and are read by the thread that reloads). */
#ifndef TV3S_SERVER_CONFIG_H
#define TV3S_SERVER_CONFIG_H

#include "base/err.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct config_list {
    char **item;
    int count;
};

struct config {
#define CONFIG_STRING(name, value, help)            char *name;
#define CONFIG_LIST(name, value, help)              struct config_list name;
#define CONFIG_INT(name, value, min, max, help)     atomic_int name;
#define CONFIG_SIZE(name, value, min, max, help)    _Atomic uint64_t name;
#define CONFIG_SECONDS(name, value, min, max, help) _Atomic double name;
#define CONFIG_BOOL(name, value, help)              atomic_bool name;
#define CONFIG_RELOAD(...)
#include "server/config.def"
#undef CONFIG_STRING
#undef CONFIG_LIST
#undef CONFIG_INT
#undef CONFIG_SIZE
#undef CONFIG_SECONDS
#undef CONFIG_BOOL
#undef CONFIG_RELOAD
    _Atomic uint64_t auto_state_bytes; /* what max_state_bytes 0 means; set at start */
    char *file;                        /* where it was read from, or NULL */
    int argc;                          /* borrowed: a reload reads them again */
    char **argv;
};

#define CONFIG_AUTO_STATE_BYTES (UINT64_C(8) << 30)

/* What the command line asks for beside settings. */
enum config_action {
    CONFIG_RUN,
    CONFIG_CHECK,
    CONFIG_DUMP,
    CONFIG_SAMPLE,
    CONFIG_HELP,
    CONFIG_VERSION
};

/* Defaults, then the file (--config or TV3SD_CONFIG), the environment, the flags: later wins.
 * `--model FILE` adds to the models, the first one in place of those that were there. Unknown
 * names, wrong types and values out of range are ERR_ARG, naming the setting and where it came
 * from. `c` is zeroed by the caller; config_free also after an error. */
enum err config_load(struct config *c, int argc, char **argv, enum config_action *action);
void config_free(struct config *c);

static inline uint64_t config_state_bytes(const struct config *c)
{
    return c->max_state_bytes ? c->max_state_bytes : c->auto_state_bytes;
}

/* SIGHUP: reads file, environment and flags again and takes over the settings of CONFIG_RELOAD;
 * *ignored names others that differ (malloc'd, or NULL). On error nothing changes. Readers see the
 * numbers change atomically, one by one. */
enum err config_reload(struct config *c, char **ignored);

enum err config_dump(const struct config *c, FILE *to); /* JSON, what --dump-config prints */
void config_help(FILE *to);
enum err config_sample(FILE *to); /* config/tv3sd.json: all settings, defaults, help as "//name" */

#endif
