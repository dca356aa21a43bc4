#include "tests/load/samples.h"

#include <stdlib.h>

void samples_add(struct samples *s, int64_t value)
{
    if (s->count == s->room) {
        s->room = s->room ? 2 * s->room : 4096;
        s->of = realloc(s->of, s->room * sizeof *s->of);
        if (!s->of)
            abort();
    }
    s->of[s->count++] = value < 0 ? 0 : value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

static int compare(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

json_t *samples_report(struct samples *s, size_t from, size_t to)
{
    static const struct {
        const char *name;
        double share;
    } shares[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}, {"max", 1}};
    if (from >= to)
        return json_null();
    json_t *j = json_object();
    qsort(s->of + from, to - from, sizeof *s->of, compare);
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
        size_t at = (size_t)((double)(to - from - 1) * shares[i].share + 0.5);
        json_object_set_new(j, shares[i].name, json_real(s->of[from + at] * 1e-3));
    }
    return j;
}
