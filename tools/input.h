/* Frames of a file for an engine, decoded on the engine's device where they can be. A decoder there
 * that fails is replaced by one of the host's, which goes on where it was. One thread at a time. */
#ifndef TV3S_TOOLS_INPUT_H
#define TV3S_TOOLS_INPUT_H

#include "media/decode.h"

struct input;
struct device_memory;

struct input_options {
    const char *path;
    int device;                   /* CUDA's number of the device that is to decode, or -1 and */
    const char *why;              /* the reason, or NULL: there is none to decode */
    struct decode_options decode; /* but for the device */
};

/* As decoder_open. */
enum err input_open(const struct input_options *o, struct input **out);
void input_close(struct input *in);                           /* NULL is allowed */
const struct decode_info *input_info(const struct input *in); /* valid until input_next */

/* As decoder_next, but without ERR_DEVICE. Where f->device_pixels is set, it is in *memory, which
 * is NULL at first, may be replaced, and is the caller's to close. */
enum err input_next(struct input *in, struct frame *f, struct device_memory **memory, bool *end);

int64_t input_corrupt(const struct input *in);
/* Where frames were decoded: "nvdec", "cpu", or the one and then the other. *why: where a device
 * was to decode and the host did, the reason; else NULL. Valid while the input lives. */
const char *input_place(const struct input *in, const char **why);

#endif
