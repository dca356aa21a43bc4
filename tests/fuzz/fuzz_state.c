/* Hidden states from anywhere. What is refused leaves the stream as it was; what is taken comes out
 * as it went in. An input is a state as it stands, or, after a first byte below 128, patches to a
 * real one: offset (2 bytes, from the front or the back), value. */
#include "engine/engine.h"
#include "engine/model.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { SIDE = 64 };

static struct stream *stream;
static void *real; /* its state after a frame */
static size_t real_len;

static void start(void)
{
    static uint8_t rgb[SIDE * SIDE * 3], labels[SIDE * SIDE], *out = labels;
    const struct engine_config engine_config = {.dtype = DT_F32, .threads = 1};
    const struct stream_config config = {.resize_override = true,
                                         .resize = {.kind = RESIZE_NATIVE}};
    const struct image image = image_of_rgb24(rgb, SIDE, SIDE);
    struct model *model;
    struct engine *engine;
    if (model_open("models/street.safetensors", &model) ||
        engine_open(model, &engine_config, &engine) || stream_open(engine, &config, &stream))
        abort();
    struct engine_run run = {.stream = stream, .count = 1, .frames = &image, .labels = &out};
    if (engine_step(engine, &run, 1) || stream_export(stream, &real, &real_len))
        abort();
}

static void expect(const void *want, size_t want_len)
{
    void *now;
    size_t len;
    if (stream_export(stream, &now, &len))
        abort();
    if (len != want_len || memcmp(now, want, len) != 0)
        abort();
    free(now);
}

static void patch(uint8_t *state, const uint8_t *data, size_t size)
{
    for (; size >= 3; data += 3, size -= 3) {
        size_t offset = (size_t)(data[0] << 8 | data[1]) % real_len;
        state[data[0] & 0x80 ? real_len - 1 - offset : offset] = data[2];
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!stream)
        start();
    bool patched = size > 0 && data[0] < 128;
    uint8_t *state = malloc(patched ? real_len : size + 1);
    size_t len = patched ? real_len : size;
    if (!state)
        return 0;
    if (patched) {
        memcpy(state, real, real_len);
        patch(state, data + 1, size - 1);
    } else {
        memcpy(state, data, size);
    }
    if (stream_import(stream, state, len, NULL, NULL)) {
        expect(real, real_len);
    } else {
        void *taken;
        if (stream_export(stream, &taken, &len) || stream_import(stream, taken, len, NULL, NULL))
            abort();
        expect(taken, len);
        free(taken);
        if (stream_import(stream, real, real_len, NULL, NULL))
            abort();
    }
    free(state);
    return 0;
}
