/* The models that are served, by name: each with its mapped weights and an engine on every device.
 * The devices are of one kind, so what a frame's labels are does not depend on where it goes.
 *
 * Engines belong to the engine thread of their device, which may close them and open them again;
 * everything else here is constant after models_open. */
#ifndef TV3S_SERVER_MODELS_H
#define TV3S_SERVER_MODELS_H

#include "engine/engine.h"

struct config;

enum { DEVICES_MAX = 16 };

struct served_model {
    char name[64];
    const struct model *model;
    struct engine *engine[DEVICES_MAX]; /* by device: its engine thread only */
    bool takes_nv12;                    /* they do, engine_takes_nv12: constant */
    size_t reserved;  /* bytes for hidden states, which each device has taken; 0: as they come */
    char origin[192]; /* the weights' SHA-256 and the engine's description: equal where a hidden
                         state means the same */
};

struct models;

/* Loads the configured models (NAME=PATH, or PATH with the file's stem as its name). */
enum err models_open(const struct config *c, struct models **out);
/* "cpu", "cuda:1": of 0 .. models_devices - 1. */
int models_devices(const struct models *m);
const char *models_device(const struct models *m, int i);
/* CUDA's number of it; -1: it is a CPU. */
int models_device_index(const struct models *m, int i);
/* Memory for hidden states on each device: max_state_bytes, or what that means where it is 0. */
uint64_t models_state_bytes(const struct models *m);
/* The device's memory is free for others. Its engine thread, with no stream open on it. */
void models_let_go(struct models *m, int device);
/* As it was before that. ERR_NOMEM, ERR_DEVICE: it is let go of still. Its engine thread. */
enum err models_take_up(struct models *m, int device);
void models_close(struct models *m); /* after the engine thread has ended */

int models_count(const struct models *m);
struct served_model *models_at(struct models *m, int i);
/* NULL or "": the first. ERR_NOT_FOUND. */
enum err models_find(struct models *m, const char *name, struct served_model **out);

#endif
