/* The thread that delivers webhooks: one libcurl multi handle, and the store for what is due.
 *
 * A try is counted, and the next one set, before it begins: a process that dies in the middle has
 * used it up, so a receiver is called `webhook_tries` times at most, whatever happens. The wait
 * before the next is `webhook_retry` seconds, doubled with each, an hour at most. Of one host's
 * deliveries PER_HOST are under way at once, and the store is asked host by host for those that are
 * due, as many as there is room for: a receiver that hangs, and its backlog, hold up nobody.
 *
 * A receiver is somebody else's machine: no redirect is followed, its answer is read to
 * ANSWER_MAX bytes and thrown away, and all of a delivery takes `webhook_timeout` at most. */
#include "server/webhooks.h"

#include "base/version.h"
#include "server/config.h"
#include "server/jobs_store.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/server.h"
#include "server/webhook_rules.h"

#include <curl/curl.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { DELIVERIES = 16, PER_HOST = 4, ANSWER_MAX = 64 << 10, GONE = 410 };

#define WAIT_MAX 3600.0 /* seconds between two tries */
#define LOOK_MAX 60.0   /* seconds between two looks at the clock, which may be set */

struct delivery {
    bool used;
    struct delivery_row row; /* body: ours */
    char host[WEBHOOK_HOST];
    CURL *easy;
    struct curl_slist *headers;
    size_t answered; /* bytes */
    char error[CURL_ERROR_SIZE];
    struct webhooks *webhooks;
};

struct webhooks {
    const struct server *server;
    struct store *store;
    struct webhook_rules *rules;
    CURLM *multi;
    pthread_t thread;
    bool started;
    atomic_bool closing;
    struct delivery delivery[DELIVERIES]; /* the thread's, as what follows */
    char turn[WEBHOOK_HOST];              /* the host that was looked at last */
};

static double wall_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- one delivery -------------------------------------------------------------------------------
 */

static void forget(struct delivery *d)
{
    if (d->easy) {
        curl_multi_remove_handle(d->webhooks->multi, d->easy);
        curl_easy_cleanup(d->easy);
    }
    curl_slist_free_all(d->headers);
    free((char *)(uintptr_t)d->row.body);
    *d = (struct delivery){0};
}

/* curl's: what it makes of the host's address. */
static curl_socket_t on_socket(void *delivery, curlsocktype purpose, struct curl_sockaddr *a)
{
    struct delivery *d = delivery;
    struct address to = address_of(&a->addr);
    if (purpose != CURLSOCKTYPE_IPCXN || !webhook_address_allowed(d->webhooks->rules, &to)) {
        char text[ADDRESS_TEXT];
        address_print(&to, text);
        log_event(LOG_WARNING, "webhook_address_refused",
                  "delivery=%s host=%s address=%s error=\"not public: list its network in "
                  "webhook_hosts\"",
                  d->row.id, log_text(d->host), text);
        return CURL_SOCKET_BAD;
    }
    return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

/* curl's, for headers and body alike. */
static size_t on_answer(char *data, size_t one, size_t n, void *delivery)
{
    struct delivery *d = delivery;
    (void)data;
    d->answered += one * n;
    return d->answered <= ANSWER_MAX ? one * n : 0;
}

static bool add_header(struct delivery *d, const char *name, const char *value)
{
    char line[256];
    snprintf(line, sizeof line, "%s: %s", name, value);
    struct curl_slist *more = curl_slist_append(d->headers, line);
    if (more)
        d->headers = more;
    return more != NULL;
}

static bool add_headers(struct delivery *d)
{
    char timestamp[32], signature[WEBHOOK_SIGNATURE];
    snprintf(timestamp, sizeof timestamp, "%lld", (long long)wall_clock());
    return webhook_sign(d->webhooks->rules, d->row.id, timestamp, d->row.body, signature) ==
               ERR_OK &&
           add_header(d, "Content-Type", "application/json") &&
           add_header(d, "webhook-id", d->row.id) &&
           add_header(d, "webhook-timestamp", timestamp) &&
           add_header(d, "webhook-signature", signature);
}

static void set_limits(CURL *easy, const struct config *c)
{
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl_easy_setopt(easy, CURLOPT_PROXY, ""); /* not even the environment's */
    curl_easy_setopt(easy, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_FORBID_REUSE, 1L);
    curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L); /* of a name server that does not answer */
    curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)(1e3 * c->webhook_timeout));
    if (c->webhook_ca_file[0])
        curl_easy_setopt(easy, CURLOPT_CAINFO, c->webhook_ca_file);
}

static bool begin(struct delivery *d)
{
    CURL *easy = d->easy = curl_easy_init();
    if (!easy || !add_headers(d))
        return false;
    set_limits(easy, d->webhooks->server->config);
    curl_easy_setopt(easy, CURLOPT_PRIVATE, d);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, d->error);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, on_socket);
    curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, d);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_answer);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, d);
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_answer);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, d);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "tv3sd/" TV3S_VERSION);
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, d->headers);
    curl_easy_setopt(easy, CURLOPT_POSTFIELDS, d->row.body);
    return curl_easy_setopt(easy, CURLOPT_URL, d->row.url) == CURLE_OK &&
           curl_multi_add_handle(d->webhooks->multi, easy) == CURLM_OK;
}

/* ---- the end of one -----------------------------------------------------------------------------
 */

static double wait_after(const struct webhooks *w, int tries)
{
    double wait = w->server->config->webhook_retry;
    for (int i = 1; i < tries && wait < WAIT_MAX; i++)
        wait *= 2;
    return wait < WAIT_MAX ? wait : WAIT_MAX;
}

/* Where a row cannot be changed the delivery comes again. */
static void set_row(const struct delivery *d, enum err e)
{
    if (e)
        log_event(LOG_ERROR, "webhook_row_stays", "delivery=%s error=%s", d->row.id,
                  log_text(err_text()));
}

static void count_end(struct webhooks *w, struct delivery *d, enum metric_id outcome)
{
    metric_add(w->server->metrics, outcome, 1);
    set_row(d, store_delivered(w->store, d->row.number));
    forget(d);
}

static void fail(struct webhooks *w, struct delivery *d, long status, const char *why)
{
    bool last = d->row.tries >= w->server->config->webhook_tries || status == GONE;
    double wait = wait_after(w, d->row.tries);
    log_event(last ? LOG_ERROR : LOG_WARNING, last ? "webhook_given_up" : "webhook_failed",
              "delivery=%s job=%s host=%s try=%d status=%ld error=%s next=%.1f", d->row.id,
              d->row.job, log_text(d->host), d->row.tries, status, log_text(why), last ? 0 : wait);
    if (last) {
        count_end(w, d, METRIC_WEBHOOKS_GIVEN_UP);
        return;
    }
    metric_add(w->server->metrics, METRIC_WEBHOOKS_FAILED, 1);
    set_row(d, store_tried(w->store, d->row.number, d->row.tries, wall_clock() + wait));
    forget(d);
}

static void end(struct webhooks *w, CURL *easy, CURLcode code)
{
    struct delivery *d;
    long status = 0;
    curl_easy_getinfo(easy, CURLINFO_PRIVATE, (char **)&d);
    curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &status);
    if (code == CURLE_OK && status >= 200 && status < 300) {
        log_event(LOG_INFO, "webhook_delivered", "delivery=%s job=%s host=%s try=%d status=%ld",
                  d->row.id, d->row.job, log_text(d->host), d->row.tries, status);
        count_end(w, d, METRIC_WEBHOOKS_DELIVERED);
    } else if (code == CURLE_OK) {
        fail(w, d, status, "the status is not 2xx");
    } else {
        fail(w, d, status, d->error[0] ? d->error : curl_easy_strerror(code));
    }
}

/* ---- what is due --------------------------------------------------------------------------------
 */

static int under_way(const struct webhooks *w, const char *host)
{
    int n = 0;
    for (int i = 0; i < DELIVERIES; i++)
        n += w->delivery[i].used && strcmp(w->delivery[i].host, host) == 0;
    return n;
}

static struct delivery *unused(struct webhooks *w)
{
    for (int i = 0; i < DELIVERIES; i++)
        if (!w->delivery[i].used)
            return &w->delivery[i];
    return NULL;
}

/* store_due's. A URL that is not allowed any more is taken too, to fail. */
static void take(void *webhooks, const struct delivery_row *row)
{
    struct webhooks *w = webhooks;
    struct delivery *d = unused(w);
    char host[WEBHOOK_HOST] = "-"; /* as it is today */
    bool allowed = webhook_url_check(w->rules, row->url, host) == ERR_OK;
    char *body = d && under_way(w, host) < PER_HOST ? strdup(row->body) : NULL;
    if (!body)
        return;
    d->used = true;
    d->webhooks = w;
    d->row = *row;
    d->row.body = body;
    memcpy(d->host, host, sizeof d->host);
    if (!allowed)
        snprintf(d->error, sizeof d->error, "%s", err_text());
}

static void start(struct webhooks *w, struct delivery *d)
{
    const struct config *c = w->server->config;
    double next = wall_clock() + c->webhook_timeout + wait_after(w, ++d->row.tries);
    if (store_tried(w->store, d->row.number, d->row.tries, next)) {
        set_row(d, ERR_FULL);
        forget(d);
    } else if (d->error[0] || !begin(d)) {
        fail(w, d, 0, d->error[0] ? d->error : "no memory");
    }
}

/* Those of one host, as many as may be under way; and those due after `latest`, which a clock that
 * was set back has left behind. */
static enum err take_due(struct webhooks *w, const struct delivery_host *h, double now)
{
    double latest = now + WAIT_MAX + w->server->config->webhook_timeout;
    int most = PER_HOST - under_way(w, h->host);
    if (most <= 0)
        return ERR_OK;
    enum err e = h->first <= now ? store_due(w->store, h->host, 0, now, most, take, w) : ERR_OK;
    if (!e && h->last > latest)
        e = store_due(w->store, h->host, latest, INFINITY, most, take, w);
    return e;
}

/* Host by host, each time from the one after the last: where there is no room for all, all get
 * their turn. */
static enum err take_all_due(struct webhooks *w)
{
    struct delivery_host h;
    char first[WEBHOOK_HOST] = "";
    double now = wall_clock();
    enum err e = ERR_OK;
    while (!e && unused(w)) {
        e = store_next_host(w->store, w->turn, &h);
        if (e == ERR_NOT_FOUND && w->turn[0]) { /* round */
            w->turn[0] = 0;
            e = ERR_OK;
            continue;
        }
        if (e || strcmp(first, h.host) == 0)
            break;
        if (!first[0])
            memcpy(first, h.host, sizeof first);
        memcpy(w->turn, h.host, sizeof w->turn);
        e = take_due(w, &h, now);
    }
    return e == ERR_NOT_FOUND ? ERR_OK : e;
}

static void start_due(struct webhooks *w)
{
    if (take_all_due(w))
        log_event(LOG_ERROR, "webhooks_unread", "error=%s", log_text(err_text()));
    for (int i = 0; i < DELIVERIES; i++)
        if (w->delivery[i].used && !w->delivery[i].easy)
            start(w, &w->delivery[i]);
}

/* Until the next is due for which there is room: the others get their turn when one ends. What is
 * due and was not taken could not be. */
static int milliseconds(struct webhooks *w)
{
    struct delivery_host h = {.host = ""};
    double wait = LOOK_MAX, now = wall_clock();
    metric_set(w->server->metrics, METRIC_WEBHOOKS_WAITING, (double)store_deliveries(w->store));
    enum err e = ERR_OK;
    while (unused(w) && !(e = store_next_host(w->store, h.host, &h)))
        if (under_way(w, h.host) < PER_HOST && h.first - now < wait)
            wait = h.first - now;
    bool unread = e && e != ERR_NOT_FOUND;
    return wait <= 0 || unread ? 1000 : (int)(1e3 * wait) + 1;
}

static void *webhooks_main(void *webhooks)
{
    struct webhooks *w = webhooks;
    pthread_setname_np(pthread_self(), "webhooks");
    while (!atomic_load(&w->closing)) {
        int running, left;
        start_due(w);
        curl_multi_perform(w->multi, &running);
        bool ended = false;
        for (CURLMsg *m; (m = curl_multi_info_read(w->multi, &left)); ended = true)
            end(w, m->easy_handle, m->data.result);
        if (!ended)
            curl_multi_poll(w->multi, NULL, 0, milliseconds(w), NULL);
    }
    for (int i = 0; i < DELIVERIES; i++)
        if (w->delivery[i].used)
            forget(&w->delivery[i]);
    return NULL;
}

/* ---- from outside -------------------------------------------------------------------------------
 */

enum err webhooks_check(const struct webhooks *w, const char *url)
{
    char host[WEBHOOK_HOST];
    if (strlen(url) >= WEBHOOK_URL)
        return err_set(ERR_ARG, "a webhook's URL has less than %d bytes", WEBHOOK_URL);
    return webhook_url_check(w->rules, url, host);
}

void webhooks_host(const struct webhooks *w, const char *url, char host[WEBHOOK_HOST])
{
    if (webhook_url_check(w->rules, url, host))
        snprintf(host, WEBHOOK_HOST, "-");
}

void webhooks_wake(struct webhooks *w)
{
    curl_multi_wakeup(w->multi);
}

enum err webhooks_open(const struct server *s, struct store *store, struct webhooks **out)
{
    struct webhooks *w = *out = calloc(1, sizeof *w);
    if (!w)
        return err_set(ERR_NOMEM, "no memory for webhooks");
    w->server = s;
    w->store = store;
    if (curl_global_init(CURL_GLOBAL_ALL) != CURLE_OK || !(w->multi = curl_multi_init()))
        return err_set(ERR_NOMEM, "no memory for webhooks");
    enum err e = webhook_rules_open(s->config, &w->rules);
    if (e)
        return e;
    w->started = pthread_create(&w->thread, NULL, webhooks_main, w) == 0;
    return w->started ? ERR_OK : err_set(ERR_NOMEM, "no thread for webhooks");
}

void webhooks_close(struct webhooks *w)
{
    if (!w)
        return;
    atomic_store(&w->closing, true);
    if (w->started) {
        webhooks_wake(w);
        pthread_join(w->thread, NULL);
    }
    if (w->multi)
        curl_multi_cleanup(w->multi);
    webhook_rules_close(w->rules);
    curl_global_cleanup();
    free(w);
}
