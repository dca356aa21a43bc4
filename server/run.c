#include "server/run.h"

#include "server/access.h"
#include "server/address.h"
#include "server/decoders.h"
#include "server/entrance.h"
#include "server/front.h"
#include "server/handover.h"
#include "server/jobs.h"
#include "server/listen.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/models.h"
#include "server/notify.h"
#include "server/sched.h"
#include "server/session.h"
#include "server/tls.h"
#include "server/video_decoder.h"
#include "server/webhook_rules.h"
#include "server/workers.h"

#include "base/try.h"
#include "base/version.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

/* ---- files --------------------------------------------------------------------------------------
 */

enum {
    OTHER_FILES = 256,
    FILES_OF_A_REQUEST = 2, /* its connection, and the upload or result that it carries */
    FILES_OF_A_STREAM = 3,  /* its connection, its decoder, and who is about to open one */
    FILES_OF_A_JOB = 10,
    JOBS_RUNNING_MAX = 256, /* as the setting's range: a reload may ask for them */
};

/* As many files as the settings can ask for, and no more: libwebsockets has a table of all. */
static void allow_files(const struct config *c)
{
    struct rlimit r;
    rlim_t need = (rlim_t)c->http_connections * FILES_OF_A_REQUEST +
                  (rlim_t)c->ws_connections * FILES_OF_A_STREAM +
                  JOBS_RUNNING_MAX * FILES_OF_A_JOB + 2 * ENTRANCE_WAITING + OTHER_FILES;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0)
        return;
    if (r.rlim_max != RLIM_INFINITY && r.rlim_max < need)
        log_event(LOG_WARNING, "few_files", "limit=%llu needed=%llu",
                  (unsigned long long)r.rlim_max, (unsigned long long)need);
    r.rlim_cur = need < r.rlim_max ? need : r.rlim_max;
    setrlimit(RLIMIT_NOFILE, &r);
}

/* ---- opening ------------------------------------------------------------------------------------
 */

/* What later parts read for themselves, looked at before anything is there to be undone. */
static enum err check_lists(const struct config *c)
{
    struct addresses *addresses;
    struct webhook_rules *rules;
    TRY(access_check_origins(c));
    enum err e = addresses_open(c, &addresses);
    addresses_close(addresses);
    if (e)
        return e;
    e = webhook_rules_open(c, &rules);
    webhook_rules_close(rules);
    return e;
}

static enum err settle(struct server *s, struct config *c)
{
    TRY(listen_check(c));
    TRY(check_lists(c));
    TRY(handover_check(c));
    TRY(video_decoder_check(c));
    TRY(jobs_check_spool(c->spool));
    TRY(access_open(c, &s->access));
    TRY(tls_load(c));
    TRY(models_open(c, &s->models));
    c->auto_state_bytes = models_state_bytes(s->models);
    return ERR_OK;
}

enum err server_settle(struct server *s, struct config *c)
{
    s->config = c;
    allow_files(c);
    TRY(metrics_open(&s->metrics));
    TRY(decoders_open(c, s->metrics, &s->sandbox)); /* before any thread */
    enum err e = settle(s, c);
    s->settings_wrong = e && e != ERR_NOMEM && e != ERR_DEVICE;
    return e;
}

enum err server_open(struct server *s, struct config *c)
{
    TRY(server_settle(s, c));
    TRY(workers_open(c, s->metrics, s->sandbox, &s->workers));
    TRY(sched_open(c, s->metrics, s->models, s->workers, &s->sched));
    sched_drain(s->sched, &c->drained_devices);
    workers_connect(s->workers, s->sched);
    TRY(sessions_open(c, s->metrics, &s->sessions));
    sessions_connect(s->sessions, s->sched);
    TRY(handover_open(s, &s->handover));
    TRY(video_decoder_open(c, s->metrics, s->models, s->sandbox, &s->video_decoder));
    TRY(jobs_open(s, &s->jobs));
    TRY(handover_start(s->handover)); /* its file is in the spool, which is ours now */
    TRY(ws_open(s, &s->ws));          /* before HTTP, whose DELETE tells it that a stream is gone */
    return http_open(s, &s->http);
}

/* The front ends close after the engine and the workers have given all their frames back, and
 * before what their requests refer to. */
void server_close(struct server *s)
{
    if (s->jobs)
        jobs_stop(s->jobs);     /* what the scheduler gives back unlabelled is no failure */
    handover_stop(s->handover); /* what the engine gives it later is not kept */
    if (s->sched)
        sched_stop(s->sched);
    if (s->workers)
        workers_stop(s->workers);
    if (s->http)
        http_close(s->http);
    if (s->ws)
        ws_close(s->ws);
    if (s->jobs)
        jobs_close(s->jobs);
    video_decoder_close(s->video_decoder);
    sessions_close(s->sessions);
    handover_close(s->handover);
    sched_close(s->sched);
    workers_close(s->workers);
    models_close(s->models);
    sandbox_close(s->sandbox);
    metrics_close(s->metrics);
    access_close(s->access);
    tls_close();
}

enum err server_takes_work(const struct server *s)
{
    const char *failure = sched_failure(s->sched);
    if (failure)
        return err_set(ERR_BUSY, "the server starts again: %s", failure);
    return atomic_load(&s->draining) ? err_set(ERR_BUSY, "the server is shutting down") : ERR_OK;
}

/* ---- running ------------------------------------------------------------------------------------
 */

static sigset_t our_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    return set;
}

void server_block_signals(void)
{
    sigset_t set = our_signals();
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
}

/* For connections to come. */
static void reload_certificate(const struct config *c)
{
    if (tls_load(c))
        log_event(LOG_ERROR, "certificate_failed", "error=%s", log_text(err_text()));
    else if (tls_wanted(c))
        log_event(LOG_INFO, "certificate_loaded", "file=%s", log_text(c->tls_certificate));
}

/* Connections whose key is gone are closed by the front ends. */
static void reload_keys(struct server *s)
{
    if (access_reload(s->access))
        log_event(LOG_ERROR, "keys_failed", "error=%s", log_text(err_text()));
    else
        ws_check_keys(s->ws);
}

static void reload(struct server *s, struct config *c)
{
    char *ignored = NULL;
    enum log_level level;
    enum err e = config_reload(c, &ignored);
    if (!e)
        e = log_level_parse(c->log_level, &level);
    if (e) {
        log_event(LOG_ERROR, "reload_failed", "error=%s", log_text(err_text()));
    } else {
        log_level_set(level);
        sched_drain(s->sched, &c->drained_devices);
        log_event(LOG_INFO, "reloaded", "ignored=%s", log_text(ignored ? ignored : ""));
    }
    free(ignored);
    reload_keys(s);
    reload_certificate(c);
}

/* The watchdog is fed while the engine thread shows signs of life. */
static void tidy_up(struct server *s, uint64_t watchdog)
{
    sessions_expire(s->sessions);
    jobs_expire(s->jobs);
    uint64_t now = clock_ns(), alive = sched_alive(s->sched);
    if (watchdog && (alive >= now || now - alive < watchdog))
        notify("WATCHDOG=1");
}

enum { FAILED_DRAIN = 5, FAILED_SECONDS = 30 };

static double left(uint64_t began, double seconds, double least)
{
    double rest = seconds - (double)(clock_ns() - began) * 1e-9;
    return rest > least ? rest : least;
}

/* Streams with a WebSocket are handed over before their client is told to go, the others at the
 * end, for which there is time in any case. Of a device that failed there is nothing to hand over
 * but leases. */
static void drain(struct server *s, double seconds)
{
    uint64_t began = clock_ns();
    log_event(LOG_INFO, "draining", "at_most=%g streams=%zu", seconds, sessions_count(s->sessions));
    s->draining = true;
    notify("STOPPING=1");
    if (s->handover && sched_failure(s->sched))
        handover_give_up(s->handover);
    ws_drain(s->ws, seconds);
    http_drain(s->http, left(began, seconds, 0));
    if (s->handover)
        handover_drain(s->handover, left(began, seconds, 5));
    log_event(LOG_INFO, "drained", "seconds=%.1f", (double)(clock_ns() - began) * 1e-9);
}

/* Clients are told, and that is all there is to wait for. A call of the device that does not come
 * back ends with the process, by SIGALRM. */
static enum err end_without_device(struct server *s, const struct config *c)
{
    alarm(FAILED_SECONDS);
    drain(s, c->drain_seconds < FAILED_DRAIN ? c->drain_seconds : FAILED_DRAIN);
    return err_set(ERR_DEVICE, "%s", sched_failure(s->sched));
}

enum err server_run(struct server *s, struct config *c)
{
    const struct timespec second = {.tv_sec = 1};
    uint64_t watchdog = notify_watchdog();
    sigset_t set = our_signals();
    log_event(LOG_INFO, "ready", "version=%s listen=%s http=%d ws=%d", TV3S_VERSION, c->listen,
              http_port(s->http), ws_port(s->ws));
    notify("READY=1");
    for (;;) {
        int signal_number = sigtimedwait(&set, NULL, &second);
        if (signal_number == SIGHUP)
            reload(s, c);
        else if (signal_number > 0)
            break;
        if (sched_failure(s->sched))
            return end_without_device(s, c);
        tidy_up(s, watchdog);
    }
    drain(s, c->drain_seconds);
    return ERR_OK;
}
