#include "server/metrics.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum kind { COUNTER, GAUGE, HISTOGRAM };

static const struct row {
    enum kind kind;
    const char *name, *labels, *help;
} rows[METRIC_COUNT] = {
#define METRIC_COUNTER(id, name, labels, help)   {COUNTER, name, labels, help},
#define METRIC_GAUGE(id, name, labels, help)     {GAUGE, name, labels, help},
#define METRIC_HISTOGRAM(id, name, labels, help) {HISTOGRAM, name, labels, help},
#include "server/metrics.def"
#undef METRIC_COUNTER
#undef METRIC_GAUGE
#undef METRIC_HISTOGRAM
};

static const struct engine_row {
    enum kind kind;
    const char *name, *help;
} engine_rows[METRIC_ENGINE_COUNT] = {
#define METRIC_ENGINE_COUNTER(id, name, help) {COUNTER, name, help},
#define METRIC_ENGINE_GAUGE(id, name, help)   {GAUGE, name, help},
#include "server/metrics_engine.def"
#undef METRIC_ENGINE_COUNTER
#undef METRIC_ENGINE_GAUGE
};

/* Upper bounds in seconds: from a JPEG's decoding to a loaded CPU's batch. */
static const double bounds[] = {0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.033, 0.066,
                                0.125,  0.25,  0.5,   1,     2,     4,     8};
enum { BOUNDS = sizeof bounds / sizeof *bounds };

struct metrics {
    struct {
        _Atomic double value;          /* counter, gauge; a histogram's sum */
        atomic_ullong bin[BOUNDS + 1]; /* histogram: not cumulative; the last is +Inf */
    } of[METRIC_COUNT];
    struct {
        char labels[64]; /* empty: there is none */
        _Atomic double value[METRIC_ENGINE_COUNT];
    } engine[METRIC_ENGINES_MAX];
};

enum err metrics_open(struct metrics **out)
{
    *out = calloc(1, sizeof **out);
    return *out ? ERR_OK : err_set(ERR_NOMEM, "no memory for the metrics");
}

void metrics_close(struct metrics *m)
{
    free(m);
}

static void add(_Atomic double *value, double n)
{
    double old = atomic_load_explicit(value, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(value, &old, old + n, memory_order_relaxed,
                                                  memory_order_relaxed))
        ;
}

void metric_add(struct metrics *m, enum metric_id id, int64_t n)
{
    add(&m->of[id].value, (double)n);
}

void metric_engine_name(struct metrics *m, int engine, const char *device)
{
    snprintf(m->engine[engine].labels, sizeof m->engine[engine].labels,
             "engine=\"%d\",device=\"%.32s\"", engine, device);
}

void metric_engine_add(struct metrics *m, int engine, enum metric_engine_id id, int64_t n)
{
    add(&m->engine[engine].value[id], (double)n);
}

void metric_set(struct metrics *m, enum metric_id id, double value)
{
    atomic_store_explicit(&m->of[id].value, value, memory_order_relaxed);
}

void metric_observe(struct metrics *m, enum metric_id id, double seconds)
{
    int i = 0;
    while (i < BOUNDS && seconds > bounds[i])
        i++;
    atomic_fetch_add_explicit(&m->of[id].bin[i], 1, memory_order_relaxed);
    add(&m->of[id].value, seconds);
}

static unsigned long long observations(const struct metrics *m, enum metric_id id)
{
    unsigned long long n = 0;
    for (int i = 0; i <= BOUNDS; i++)
        n += atomic_load_explicit(&m->of[id].bin[i], memory_order_relaxed);
    return n;
}

double metric_get(struct metrics *m, enum metric_id id)
{
    if (rows[id].kind == HISTOGRAM)
        return (double)observations(m, id);
    return atomic_load_explicit(&m->of[id].value, memory_order_relaxed);
}

/* ---- the text format ----------------------------------------------------------------------------
 */

static enum err write_head(enum kind kind, const char *name, const char *help, struct buf *out)
{
    static const char *const type[] = {"counter", "gauge", "histogram"};
    return buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type[kind]);
}

static enum err write_value(const struct row *row, double value, struct buf *out)
{
    const char *open = *row->labels ? "{" : "", *close = *row->labels ? "}" : "";
    return buf_printf(out, "%s%s%s%s %.15g\n", row->name, open, row->labels, close, value);
}

static enum err write_histogram(const struct metrics *m, enum metric_id id, struct buf *out)
{
    const struct row *row = &rows[id];
    const char *comma = *row->labels ? "," : "";
    unsigned long long below = 0;
    enum err e = ERR_OK;
    for (int i = 0; !e && i <= BOUNDS; i++) {
        char le[32] = "+Inf";
        if (i < BOUNDS)
            snprintf(le, sizeof le, "%g", bounds[i]);
        below += atomic_load_explicit(&m->of[id].bin[i], memory_order_relaxed);
        e = buf_printf(out, "%s_bucket{%s%sle=\"%s\"} %llu\n", row->name, row->labels, comma, le,
                       below);
    }
    if (!e)
        e = buf_printf(out, "%s_sum{%s} %.9g\n%s_count{%s} %llu\n", row->name, row->labels,
                       atomic_load_explicit(&m->of[id].value, memory_order_relaxed), row->name,
                       row->labels, below);
    return e;
}

static enum err write_engines(const struct metrics *m, struct buf *out)
{
    enum err e = ERR_OK;
    for (int id = 0; !e && id < METRIC_ENGINE_COUNT; id++) {
        const struct engine_row *row = &engine_rows[id];
        e = write_head(row->kind, row->name, row->help, out);
        for (int i = 0; !e && i < METRIC_ENGINES_MAX && *m->engine[i].labels; i++)
            e = buf_printf(out, "%s{%s} %.15g\n", row->name, m->engine[i].labels,
                           atomic_load_explicit(&m->engine[i].value[id], memory_order_relaxed));
    }
    return e;
}

enum err metrics_write(struct metrics *m, struct buf *out)
{
    const char *previous = "";
    enum err e = ERR_OK;
    for (int id = 0; !e && id < METRIC_COUNT; id++) {
        const struct row *row = &rows[id];
        if (strcmp(row->name, previous) != 0)
            e = write_head(row->kind, row->name, row->help, out);
        previous = row->name;
        if (!e && row->kind == HISTOGRAM)
            e = write_histogram(m, (enum metric_id)id, out);
        else if (!e)
            e = write_value(row, metric_get(m, (enum metric_id)id), out);
    }
    return e ? e : write_engines(m, out);
}
