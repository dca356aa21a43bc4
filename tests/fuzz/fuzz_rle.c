/* Mask JSON from anywhere: decoders stay in bounds, and what they accept comes back the same. */
#include "proto/mask_rle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef enum err (*decode_fn)(const char *, size_t, size_t, struct mask_labels *);
typedef enum err (*encode_fn)(const struct mask *, struct buf *);

static void round_trip(const struct mask_labels *in, decode_fn decode, encode_fn encode)
{
    struct buf text = {0};
    struct mask_labels back;
    struct mask m = {
        .width = in->width, .height = in->height, .labels = in->labels, .frame = -1, .time = NAN};
    if (encode(&m, &text) || decode((char *)text.data, text.len, 1u << 20, &back))
        abort();
    if (back.width != in->width || back.height != in->height ||
        memcmp(back.labels, in->labels, (size_t)in->width * (size_t)in->height) != 0)
        abort();
    free(back.labels);
    buf_free(&text);
}

static int is_partition(const struct mask_labels *m)
{
    return !memchr(m->labels, 255, (size_t)m->width * (size_t)m->height);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mask_labels m;
    if (mask_rle_decode((const char *)data, size, 1u << 16, &m) == ERR_OK) {
        round_trip(&m, mask_rle_decode, mask_rle_encode);
        if (is_partition(&m))
            round_trip(&m, mask_coco_decode, mask_coco_encode);
        free(m.labels);
    }
    if (mask_coco_decode((const char *)data, size, 1u << 16, &m) == ERR_OK) {
        round_trip(&m, mask_rle_decode, mask_rle_encode);
        if (is_partition(&m))
            round_trip(&m, mask_coco_decode, mask_coco_encode);
        free(m.labels);
    }
    return 0;
}
