/* Times in microseconds, and what is told of them. A program that runs out of memory here ends. */
#ifndef TV3S_TESTS_LOAD_SAMPLES_H
#define TV3S_TESTS_LOAD_SAMPLES_H

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

struct samples {
    uint32_t *of;
    size_t count, room;
};

void samples_add(struct samples *s, int64_t value);

/* Percentiles of those from `from` up to `to`, in milliseconds; null where there are none. It sorts
 * them, so parts are to be asked for before the whole. */
json_t *samples_report(struct samples *s, size_t from, size_t to);

#endif
