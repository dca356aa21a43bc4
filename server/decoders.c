#include "server/decoders.h"

#include "server/config.h"
#include "server/log.h"
#include "server/metrics.h"

static void on_started(void *metrics)
{
    metric_add(metrics, METRIC_DECODERS, 1);
    metric_add(metrics, METRIC_DECODERS_STARTED, 1);
}

static void on_ended(void *metrics)
{
    metric_add(metrics, METRIC_DECODERS, -1);
}

static void on_died(void *metrics, enum sandbox_end how, const char *who, const char *text)
{
    static const enum metric_id metric[SANDBOX_ENDS] = {
        [SANDBOX_CRASHED] = METRIC_DECODERS_CRASHED,     [SANDBOX_KILLED] = METRIC_DECODERS_KILLED,
        [SANDBOX_FORBIDDEN] = METRIC_DECODERS_FORBIDDEN, [SANDBOX_HUNG] = METRIC_DECODERS_HUNG,
        [SANDBOX_SPENT] = METRIC_DECODERS_SPENT,         [SANDBOX_LIED] = METRIC_DECODERS_LIED,
    };
    metric_add(metrics, metric[how], 1);
    log_event(LOG_WARNING, "decoder_died", "%s error=%s", who, log_text(text));
}

enum err decoders_open(const struct config *c, struct metrics *m, struct sandbox **out)
{
    const struct sandbox_options o = {
        .max_pixels = (int64_t)c->max_pixels,
        .max_input = c->max_image,
        .patience = c->decode_timeout,
        .started = on_started,
        .ended = on_ended,
        .died = on_died,
        .ctx = m,
    };
    *out = NULL;
    if (!c->sandbox) {
        log_event(LOG_WARNING, "sandbox_off", "text=%s",
                  log_text("FFmpeg reads what comes from outside in this process"));
        return ERR_OK;
    }
    enum err e = sandbox_open(&o, out);
    if (e)
        return err_context(e, "no sandbox for the decoders, and 'sandbox' is not false");
    log_event(LOG_INFO, "sandbox", "by=%s", log_text(sandbox_means(*out)));
    return ERR_OK;
}
