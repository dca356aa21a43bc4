/* A small video of our own, by which a CUDA device's decoder is tried (device_clip.c). */
#ifndef TV3S_SANDBOX_DEVICE_CLIP_H
#define TV3S_SANDBOX_DEVICE_CLIP_H

enum { DEVICE_CLIP_FRAMES = 12, DEVICE_CLIP_WIDTH = 176, DEVICE_CLIP_HEIGHT = 136 };

/* A descriptor of it as a file in memory, the caller's; -1: there is no memory. */
int device_clip_open(void);

#endif
