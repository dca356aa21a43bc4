/* One stream of the load: frames out, as it may, and answers in, counted and compared. */
#ifndef TV3S_TESTS_LOAD_STREAM_H
#define TV3S_TESTS_LOAD_STREAM_H

#include "tests/load/load.h"

struct stream {
    struct load *load;
    struct lws *wsi;
    int number, in_flight, next_image, left; /* left: frames to send yet, -1 without end */
    int turn, next_turn; /* images until the clip begins again, and from then on, with --masks */
    int resets;          /* asked for and not acknowledged */
    int64_t seq, due;    /* microseconds: when the next frame is */
    int64_t last;        /* number of the last answer */
    int64_t unsure;      /* answers before this one have no known mask */
    uint8_t place[CREDIT_MAX]; /* the image of frame `seq`, at seq % CREDIT_MAX */
    bool open;
    struct buf message; /* that comes in, as far as it is here */
    char bye[32];
    int64_t sent, answered, dropped, failed;
};

/* Its hello is counted in load->connected. */
void stream_connect(struct load *l, int number);

/* Its first frame is due at `due`, microseconds. */
void stream_begin(struct stream *s, int64_t due);

int stream_on_event(struct lws *wsi, enum lws_callback_reasons reason, void *user, void *in,
                    size_t len);

#endif
