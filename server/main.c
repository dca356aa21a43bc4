/* tv3sd: settings, then what they ask for. */
#include "server/config.h"
#include "server/log.h"
#include "server/run.h"

#include "base/openmp.h"
#include "base/version.h"
#include "sandbox/zygote.h"

#include <malloc.h>
#include <stdio.h>

enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE };

/* Or looks whether it could. *status is for an error. */
static enum err serve(struct config *c, bool check, int *status)
{
    struct server s = {0};
    server_block_signals();
    char why[512];
    enum err e = check ? server_settle(&s, c) : server_open(&s, c);
    if (!e && check)
        log_event(LOG_INFO, "checked", "error=\"\"");
    else if (!e)
        e = server_run(&s, c);
    snprintf(why, sizeof why, "%s", err_text()); /* closing says things of its own */
    server_close(&s);
    *status = s.settings_wrong ? EXIT_USAGE : EXIT_FAILED;
    return e ? err_set(e, "%s", why) : ERR_OK;
}

static enum err act(struct config *c, enum config_action action, int *status)
{
    enum log_level level;
    enum err e = log_level_parse(c->log_level, &level);
    if (e)
        return err_context(e, "log_level");
    log_level_set(level);
    *status = EXIT_FAILED;
    switch (action) {
    case CONFIG_RUN:
    case CONFIG_CHECK:
        return serve(c, action == CONFIG_CHECK, status);
    case CONFIG_DUMP:
        return config_dump(c, stdout);
    case CONFIG_SAMPLE:
        return config_sample(stdout);
    case CONFIG_HELP:
        config_help(stdout);
        return ERR_OK;
    case CONFIG_VERSION:
        puts("tv3sd " TV3S_VERSION);
        return ERR_OK;
    }
    return err_set(ERR_INTERNAL, "action %d", (int)action);
}

/* The C library would take ever larger blocks from its heaps, where the states of streams that went
 * leave holes between smaller things that stay. A block that is mapped goes back whole. Figures:
 * docs/operating.md. */
static void map_large_blocks(void)
{
    enum { LARGE = 512 << 10 };
    mallopt(M_MMAP_THRESHOLD, LARGE);
}

int main(int argc, char **argv)
{
    struct config config = {0};
    enum config_action action;
    if (zygote_wanted(argc, argv))
        return zygote_main();
    map_large_blocks();
    openmp_spin_less(argv);
    enum err e = config_load(&config, argc, argv, &action);
    int status = EXIT_USAGE;
    if (!e)
        e = act(&config, action, &status);
    if (e)
        log_event(LOG_ERROR, "failed", "error=%s", log_text(err_text()));
    config_free(&config);
    return e ? status : EXIT_OK;
}
