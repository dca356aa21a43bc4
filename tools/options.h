/* Values of the options that several commands have. Each takes the whole text or fails; the caller
 * says which option it was: return tool_option(argv[0], "size", optarg). */
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

/* "f32", "bf16" or "tf32", which is CUDA's: sets dtype and tf32. And back. */
bool option_dtype(const char *text, struct engine_config *out);
const char *option_dtype_name(const struct engine_config *c);

/* "stream", "clip" or "frame". */
bool option_mode(const char *text, enum stream_mode *out);

#endif
