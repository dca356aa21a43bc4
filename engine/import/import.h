/* `tv3s convert`: from a checkpoint to a model file. */
#ifndef TV3S_ENGINE_IMPORT_IMPORT_H
#define TV3S_ENGINE_IMPORT_IMPORT_H

#include "engine/arch.h"

/* What no tensor's shape tells. Zero-initialised: everything as the checkpoint has it. */
struct import_options {
    int window;     /* 0: keep */
    bool set_shift; /* else half the window where the window is set */
    int shift;
    bool set_resize;
    struct resize_spec resize;
    bool set_output;
    enum output_kind output; /* OUTPUT_DIRECT or OUTPUT_ADD */
};

struct import_report {
    struct arch arch;
    size_t parameters; /* of the checkpoint's model */
    const char *note;  /* a sentence worth telling, or NULL */
};

/* Reads the checkpoint `in` and writes the model file `out`, whole or not at all. `out` may not be
 * `in`. Errors name the tensor, or the file. */
enum err import_checkpoint(const char *in, const char *out, const struct import_options *options,
                           struct import_report *report);

#endif
