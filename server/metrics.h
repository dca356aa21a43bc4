/* Metrics in Prometheus' text format. One table (metrics.def); counters and gauges are atomics,
 * histograms have fixed buckets in seconds. Any thread. */
#ifndef TV3S_SERVER_METRICS_H
#define TV3S_SERVER_METRICS_H

#include "base/buf.h"

#include <stdint.h>

struct metrics;

/* METRIC_COUNTER(id, name, labels, help), METRIC_GAUGE(...), METRIC_HISTOGRAM(...) in metrics.def;
 * each label combination is an id of its own, e.g. METRIC_FRAMES_LIVE_OK. */
enum metric_id {
#define METRIC_COUNTER(id, name, labels, help)   id,
#define METRIC_GAUGE(id, name, labels, help)     id,
#define METRIC_HISTOGRAM(id, name, labels, help) id,
#include "server/metrics.def"
#undef METRIC_COUNTER
#undef METRIC_GAUGE
#undef METRIC_HISTOGRAM
    METRIC_COUNT
};

enum err metrics_open(struct metrics **out);
void metrics_close(struct metrics *m);

void metric_add(struct metrics *m, enum metric_id id, int64_t n);          /* counters and gauges */
void metric_set(struct metrics *m, enum metric_id id, double value);       /* gauges */
void metric_observe(struct metrics *m, enum metric_id id, double seconds); /* histograms */
double metric_get(struct metrics *m, enum metric_id id); /* a histogram's: how many were observed */

/* What each engine (of a device) counts for itself, labelled with its number and device. The name,
 * copied, is set before anything is counted; engines without one are not written. */
enum metric_engine_id {
#define METRIC_ENGINE_COUNTER(id, name, help) id,
#define METRIC_ENGINE_GAUGE(id, name, help)   id,
#include "server/metrics_engine.def"
#undef METRIC_ENGINE_COUNTER
#undef METRIC_ENGINE_GAUGE
    METRIC_ENGINE_COUNT
};
enum { METRIC_ENGINES_MAX = 16 };
void metric_engine_name(struct metrics *m, int engine, const char *device);
void metric_engine_add(struct metrics *m, int engine, enum metric_engine_id id, int64_t n);

enum err metrics_write(struct metrics *m, struct buf *out);

#endif
