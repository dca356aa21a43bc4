/* What the parts of stream_load share: all that there is of one run. */
#ifndef TV3S_TESTS_LOAD_LOAD_H
#define TV3S_TESTS_LOAD_LOAD_H

#include "tests/load/options.h"
#include "tests/load/samples.h"

#include <libwebsockets.h>
#include <stdatomic.h>

enum { STAGES = 4 }; /* decode, queue, compute, encode */

struct load {
    struct options o;
    struct lws_context *context;
    lws_sorted_usec_list_t timer;
    struct stream *stream;
    int connecting, connected, settled; /* settled: answered all they sent, with --frames */
    struct clip clip;
    uint8_t *sending; /* a copy, since libwebsockets masks in place */
    int64_t from, to; /* microseconds; the window that counts */
    struct samples latency, stage[STAGES];
    size_t *part; /* with --every: how many of latency there are when each part ends */
    int parts;
    int64_t masks_right;
    json_t *errors; /* kind: how many */
    bool failed, stopping, over;
    atomic_bool woken, again;
};

/* Nothing can be measured any more: the run ends. */
void load_fail(struct load *l, const char *what, const char *more);

void load_say(const char *line); /* on standard output, at once */
int64_t load_now_us(void);

/* The last line of standard output (report.c). */
void load_report(struct load *l);

#endif
