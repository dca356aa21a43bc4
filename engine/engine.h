/* The engine: frames of many streams in, label maps out.
 *
 *   model (mapped weights) -> engine (packed weights, plans, one device) -> stream (hidden state)
 *
 * A batch is a list of runs; a run is one stream and some consecutive frames of it. The encoder
 * sees all frames, the scan sees every (layer, window) of every stream as one sequence. State is
 * committed only when the whole batch succeeded: after an error every stream is as it was.
 *
 * ERR_DEVICE is for good: the device failed, and every call that needs it says so from then on.
 *
 * Threads: an engine and its streams belong to one thread at a time, the engine thread. The model
 * is shared and read-only. */
#ifndef TV3S_ENGINE_ENGINE_H
#define TV3S_ENGINE_ENGINE_H

#include "base/pixels.h"
#include "engine/model.h"

struct engine;
struct stream;

enum device_kind { DEVICE_CPU, DEVICE_CUDA };

struct engine_config {
    enum device_kind device;
    int device_index;
    enum dtype dtype; /* DT_F32 or DT_BF16 */
    bool tf32;        /* CUDA, DT_F32: products in TF32 */
    int threads;      /* CPU: 0 = all cores this process may use */
    const char *isa;  /* CPU: "avx512_bf16", "avx512", "avx2", "baseline"; NULL = best */
    /* CUDA: memory for batches of so many frames of this size (the model's preset), taken at open
     * so that nothing is allocated later. 0: as it is needed, as on a CPU. */
    int room_frames, room_width, room_height;
};

enum stream_mode { MODE_STREAM, MODE_CLIP, MODE_FRAME };

enum { CLIP_MAX_FRAMES = 16, ENGINE_MAX_SIDE = 16384, ENGINE_RUN_MAX = 256 };

struct stream_config {
    enum stream_mode mode;
    bool resize_override; /* else the model's preset */
    struct resize_spec resize;
    int clip_frames;                   /* MODE_CLIP; 0 = the default four */
    int clip_offsets[CLIP_MAX_FRAMES]; /* frames back, descending, last 0: {9, 6, 3, 0}. A frame
                                          before the stream's first is its first. */
};

/* A borrowed picture: its rows, of all planes, are `stride` bytes apart. Every engine takes RGB24;
 * NV12, of pixels_nv12_size, only one of engine_takes_nv12, and then the labels are those that the
 * picture would have as swscale's RGB24 (kernels/cuda/yuv.h). Of such an engine the pixels may be
 * on a CUDA device, its own or another, with packed rows (kernels/device_memory.h); they are then
 * borrowed until their batch was waited for. */
struct image {
    const uint8_t *pixels;
    int width, height;
    ptrdiff_t stride;
    struct pixel_format format;
    bool on_device; /* pixels is a device address */
};

/* One whose rows follow each other directly. */
static inline struct image image_of(const uint8_t *pixels, int width, int height,
                                    struct pixel_format format)
{
    ptrdiff_t row = (ptrdiff_t)pixels_row(format.layout, width);
    return (struct image){pixels, width, height, row, format, false};
}

static inline struct image image_of_rgb24(const uint8_t *rgb, int width, int height)
{
    return image_of(rgb, width, height, (struct pixel_format){0});
}

/* One stream and its next `count` frames, all of one size, borrowed for the call. For frame i,
 * labels[i] (width * height bytes, tightly packed, of the original size) and logits[i] (classes * h
 * * w floats, grid logits) may each be NULL; a frame with neither still advances the stream.
 * `labels` or `logits` itself may be NULL. */
struct engine_run {
    struct stream *stream;
    int count;
    const struct image *frames;
    uint8_t *const *labels;
    float *const *logits;
};

/* What a frame of this size means for this model. */
struct geometry {
    int width, height;           /* the frame */
    int net_width, net_height;   /* the network's input */
    int c1_width, c1_height;     /* stride-4 features */
    int grid_width, grid_height; /* logits; TV3S: multiples of the window; SegFormer: c1's size */
    int windows;                 /* all layers' windows, 0 for SegFormer */
    size_t state_bytes;          /* one stream's hidden state */
    double gflop;                /* 2 * multiply-adds of one frame, as the engine computes it */
};

/* "cpu avx512 bf16, 2 threads": for humans and logs. Valid while the engine lives. */
const char *engine_description(const struct engine *e);

/* Whether frames may be NV12: half the bytes to a device. A CPU has no use for them. Constant, so
 * any thread may ask. */
bool engine_takes_nv12(const struct engine *e);

/* How many devices DEVICE_CUDA can be, by number from 0. */
int engine_cuda_devices(void);

/* Packs the weights on the device. ERR_UNSUPPORTED where the device or dtype is not there;
 * ERR_NOMEM says what does not fit, and what would. The model stays borrowed until engine_close. */
enum err engine_open(const struct model *m, const struct engine_config *c, struct engine **out);
/* CUDA: memory for hidden states, taken now; a CPU's comes as it is needed. ERR_NOMEM. */
enum err engine_reserve_states(struct engine *e, size_t bytes);
/* How many of `bytes` the device could still give; where not all, to a sixteenth. */
size_t engine_room_left(struct engine *e, size_t bytes);
void engine_close(struct engine *e); /* all its streams are closed already */

/* Whether this CPU (or device) computes in `dtype` natively. */
bool engine_dtype_supported(enum device_kind device, enum dtype dtype);

/* Geometry of a frame size under the model's preset or `resize` when not NULL. Thread-safe: it
 * reads the architecture only. ERR_ARG for sizes out of range. */
enum err engine_geometry(const struct arch *a, int width, int height,
                         const struct resize_spec *resize, struct geometry *out);

/* The calling thread calls the engine from now on and does nothing else: on a CPU it and those that
 * compute for it keep to a core each, where they are as many as the cores. (Threads that it makes
 * itself later would inherit its core.) */
void engine_own_cores(struct engine *e);

/* Labels one batch; no other is under way. Errors leave every stream as it was: ERR_ARG for runs
 * that are none, two of one stream, or frames of two sizes; what engine_geometry says of the size;
 * ERR_UNSUPPORTED for NV12 or pixels on a device that the engine does not take; ERR_NOMEM;
 * ERR_DEVICE. */
enum err engine_step(struct engine *e, const struct engine_run *runs, int count);

/* The same in two halves, so that a device copies one batch's pixels and labels while it computes
 * another. Up to engine_depth batches are under way at once (1 on a CPU, which computes in submit);
 * a stream may be in several, and goes on as if those before had succeeded. Of what the runs point
 * to, the labels and pixels on a device are borrowed until their batch was waited for, the rest
 * until submit returns.
 *   submit: errors leave every stream as it was, and no batch to wait for. ERR_BUSY: too many.
 *   wait:   the oldest batch. ERR_DEVICE: this one and all that are under way failed, and their
 *           streams are as they were before. */
enum err engine_submit(struct engine *e, const struct engine_run *runs, int count);
enum err engine_wait(struct engine *e);
int engine_depth(const struct engine *e);

/* Large-matrix-product rate of the device in this engine's dtype, GFLOP/s, measured now (~0.5 s).
 */
enum err engine_measure_peak(struct engine *e, double *gflops);

/* ERR_ARG for clip offsets that are none, ERR_NOMEM. */
enum err stream_open(struct engine *e, const struct stream_config *c, struct stream **out);
void stream_close(struct stream *s); /* NULL is allowed */
/* Back to the zero state. The next frame may have another size. */
void stream_reset(struct stream *s);
/* Frames applied since the state was zero. */
uint64_t stream_frames(const struct stream *s);
/* Bytes of hidden state on the device now, and after `frames` more of this geometry. */
size_t stream_state_bytes(const struct stream *s);
size_t stream_state_bytes_after(const struct stream *s, const struct geometry *g, int frames);
/* Whether a frame of this geometry goes on from the state; else it starts from zero. */
bool stream_continues(const struct stream *s, const struct geometry *g);
/* Moves the state to host memory, and back, bit by bit; on error it is where it was. A spilled
 * stream exports and resets as any other, and a step that goes on from its state fetches it.
 * ERR_NOMEM, ERR_DEVICE. */
enum err stream_spill(struct stream *s);
enum err stream_fetch(struct stream *s);
size_t stream_spilled_bytes(const struct stream *s); /* in host memory now */
/* The hidden state as a safetensors file in a malloc'd buffer (the caller frees it), and back.
 * The bytes are the same on every backend. Import checks model shape and geometry, and replaces
 * the state only when all of it is right; then it first asks `room`, unless that is NULL, for the
 * state's bytes on the device, and fails as that does. ERR_UNSUPPORTED but in MODE_STREAM,
 * ERR_NOT_FOUND where there is no state to export, ERR_FORMAT for what is no state of this model,
 * ERR_NOMEM, ERR_DEVICE. */
enum err stream_export(const struct stream *s, void **buf, size_t *len);
enum err stream_import(struct stream *s, const void *buf, size_t len,
                       enum err (*room)(void *ctx, size_t bytes), void *ctx);

#endif
