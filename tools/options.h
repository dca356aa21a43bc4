/* Values of the options that several commands have. Each takes the whole text or fails; the caller
 * says which option it was: return tool_usage(argv[0], "--size '%s' is not WIDTHxHEIGHT", optarg).
 */
#ifndef TV3S_TOOLS_OPTIONS_H
#define TV3S_TOOLS_OPTIONS_H

#include "engine/engine.h"

#include <stdbool.h>

/* A decimal number of lo..hi. */
bool option_int(const char *text, int lo, int hi, int *out);

/* "864x480", each side 1..ENGINE_MAX_SIDE. */
bool option_size(const char *text, int *width, int *height);

/* "cpu", "cuda" or "cuda:N". */
bool option_device(const char *text, enum device_kind *kind, int *index);

/* "f32" or "bf16". */
bool option_dtype(const char *text, enum dtype *out);

/* "stream", "clip" or "frame". */
bool option_mode(const char *text, enum stream_mode *out);

#endif
