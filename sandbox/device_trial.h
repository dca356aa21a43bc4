/* Whether a CUDA device decodes as the CPU does, byte by byte: seen before anything of anybody's is
 * decoded there. */
#ifndef TV3S_SANDBOX_DEVICE_TRIAL_H
#define TV3S_SANDBOX_DEVICE_TRIAL_H

#include "sandbox/sandbox.h"

/* A clip of ours goes through a decoding process on the device, and its pictures through shared
 * memory there, as an upload's do. `wait` may be NULL. ERR_OK: they are those of a process without
 * a device. ERR_CANCELLED; every other error says why it is not to be used. */
enum err device_trial(struct sandbox *s, int index, const struct sandbox_wait *wait);

#endif
