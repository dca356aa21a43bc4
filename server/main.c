/* tv3sd: settings, then what they ask for. */
#include "server/config.h"
#include "server/log.h"
#include "server/models.h"
#include "server/run.h"

#include "base/openmp.h"
#include "base/version.h"
#include "sandbox/zygote.h"

#include <stdio.h>

enum { EXIT_OK, EXIT_FAILED, EXIT_USAGE };

static enum err serve(struct config *c)
{
    struct server s = {0};
    server_block_signals();
    char why[512];
    enum err e = server_open(&s, c);
    if (!e)
        e = server_run(&s, c);
    snprintf(why, sizeof why, "%s", err_text()); /* closing says things of its own */
    server_close(&s);
    return e ? err_set(e, "%s", why) : ERR_OK;
}

static enum err check(const struct config *c)
{
    struct models *m;
    enum err e = models_open(c, &m);
    if (!e)
        models_close(m);
    return e;
}

static enum err act(struct config *c, enum config_action action)
{
    enum log_level level;
    enum err e = log_level_parse(c->log_level, &level);
    if (e)
        return err_context(e, "log_level");
    log_level_set(level);
    switch (action) {
    case CONFIG_RUN:
        return serve(c);
    case CONFIG_CHECK:
        return check(c);
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

int main(int argc, char **argv)
{
    struct config config = {0};
    enum config_action action;
    if (zygote_wanted(argc, argv))
        return zygote_main();
    openmp_spin_less(argv);
    enum err e = config_load(&config, argc, argv, &action);
    int status = e ? EXIT_USAGE : EXIT_FAILED;
    if (!e)
        e = act(&config, action);
    if (e)
        log_event(LOG_ERROR, "failed", "error=%s", log_text(err_text()));
    config_free(&config);
    return e ? status : EXIT_OK;
}
