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

enum err metrics_write(struct metrics *m, struct buf *out);

#endif
