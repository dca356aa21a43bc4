/* What stream_load is told: its essay says what it does with it. */
#ifndef TV3S_TESTS_LOAD_OPTIONS_H
#define TV3S_TESTS_LOAD_OPTIONS_H

#include "proto/mask.h"
#include "tests/load/clip.h"

#include <stdbool.h>

enum { CREDIT_MAX = 64 };

struct options {
    int port, streams, frames, credit;
    double rate, warmup, seconds, every; /* frames a second of a stream; seconds */
    bool flood;
    const char *prefix, *ca, *masks;
    enum mask_format format;
};

/* False, after a word on standard error: they are wrong, or an image or mask cannot be read. */
bool options_read(struct options *o, struct clip *clip, int argc, char **argv);

#endif
