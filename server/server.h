/* What main wires together: plain pointers, each owned by main. Handed to the front ends. */
#ifndef TV3S_SERVER_SERVER_H
#define TV3S_SERVER_SERVER_H

#include "base/err.h"

#include <stdatomic.h>
#include <stdbool.h>

struct config;
struct access;
struct metrics;
struct models;
struct sandbox;
struct video_decoder;
struct workers;
struct sched;
struct sessions;
struct handover;
struct jobs;
struct http;
struct ws;

struct server {
    const struct config *config;
    struct access *access;
    struct metrics *metrics;
    struct models *models;
    struct sandbox *sandbox; /* NULL: decoding happens here */
    struct video_decoder *video_decoder;
    struct workers *workers;
    struct sched *sched;
    struct sessions *sessions;
    struct handover *handover; /* NULL: none */
    struct jobs *jobs;
    struct http *http;
    struct ws *ws;
    atomic_bool draining; /* /readyz fails, nothing new is accepted */
    bool settings_wrong;  /* why it was not opened: no restart mends that */
};

/* Whether new work is taken in: else ERR_BUSY, and why. Any thread. */
enum err server_takes_work(const struct server *s);

#endif
