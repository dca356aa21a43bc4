/* The sandbox of the decoders, as the settings ask for it; its deaths in the log and the metrics.
 */
#ifndef TV3S_SERVER_DECODERS_H
#define TV3S_SERVER_DECODERS_H

#include "sandbox/sandbox.h"

struct config;
struct metrics;

/* *out is NULL where the setting `sandbox` is false, which the log says. ERR_UNSUPPORTED and the
 * like where it is true and cannot be had. Before any thread is started. */
enum err decoders_open(const struct config *c, struct metrics *m, struct sandbox **out);

#endif
