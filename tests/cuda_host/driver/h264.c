/* Parameter sets of H.264 out of what NVDEC is told of a picture. What it is not told, such as the
 * order of output, the level and the cropping, does not change a picture's pixels. */
#include "tests/cuda_host/driver/driver.h"

#include <string.h>

struct bits {
    unsigned char *out;
    size_t count;
};

static void put(struct bits *b, unsigned value, int n)
{
    for (int i = n - 1; i >= 0; i--, b->count++) {
        if (b->count % 8 == 0)
            b->out[b->count / 8] = 0;
        b->out[b->count / 8] |= (unsigned char)((value >> i & 1) << (7 - b->count % 8));
    }
}

static void put_ue(struct bits *b, unsigned value)
{
    int n = 31 - __builtin_clz(value + 1);
    put(b, 0, n);
    put(b, value + 1, n + 1);
}

static void put_se(struct bits *b, int value)
{
    put_ue(b, value > 0 ? 2U * (unsigned)value - 1 : 2U * (unsigned)-value);
}

/* Lists go in zigzag order. */
static void put_list(struct bits *b, const unsigned char *raster, int side)
{
    int last = 8;
    put(b, 1, 1);
    for (int d = 0; d < 2 * side - 1; d++)
        for (int i = 0; i <= d; i++) {
            int y = d % 2 ? i : d - i, x = d - y;
            if (x >= side || y >= side)
                continue;
            int value = raster[y * side + x], delta = value - last;
            put_se(b, delta > 127 ? delta - 256 : delta < -128 ? delta + 256 : delta);
            last = value;
        }
}

static void put_sequence(struct bits *b, const CUVIDPICPARAMS *p)
{
    const CUVIDH264PICPARAMS *h = &p->CodecSpecific.h264;
    int fields = !h->frame_mbs_only_flag;
    put(b, 100, 8); /* High */
    put(b, 0, 8);
    put(b, 62, 8);
    put_ue(b, 0);
    put_ue(b, 1); /* 4:2:0 */
    put_ue(b, h->bit_depth_luma_minus8);
    put_ue(b, h->bit_depth_chroma_minus8);
    put(b, h->qpprime_y_zero_transform_bypass_flag, 1);
    put(b, 0, 1); /* lists: in the picture's set */
    put_ue(b, (unsigned)h->log2_max_frame_num_minus4);
    put_ue(b, (unsigned)h->pic_order_cnt_type);
    if (h->pic_order_cnt_type == 0)
        put_ue(b, (unsigned)h->log2_max_pic_order_cnt_lsb_minus4);
    put_ue(b, (unsigned)h->num_ref_frames);
    put(b, 0, 1);
    put_ue(b, (unsigned)p->PicWidthInMbs - 1);
    put_ue(b, (unsigned)(p->FrameHeightInMbs >> fields) - 1);
    put(b, !fields, 1);
    if (fields)
        put(b, h->MbaffFrameFlag != 0, 1);
    put(b, h->direct_8x8_inference_flag != 0, 1);
    put(b, 0, 2); /* neither cropping nor VUI */
}

static void put_picture(struct bits *b, const CUVIDH264PICPARAMS *h, unsigned id)
{
    put_ue(b, id);
    put_ue(b, 0);
    put(b, h->entropy_coding_mode_flag != 0, 1);
    put(b, h->pic_order_present_flag != 0, 1);
    put_ue(b, 0); /* one slice group */
    put_ue(b, (unsigned)h->num_ref_idx_l0_active_minus1);
    put_ue(b, (unsigned)h->num_ref_idx_l1_active_minus1);
    put(b, h->weighted_pred_flag != 0, 1);
    put(b, (unsigned)h->weighted_bipred_idc, 2);
    put_se(b, h->pic_init_qp_minus26);
    put_se(b, 0);
    put_se(b, h->chroma_qp_index_offset);
    put(b, h->deblocking_filter_control_present_flag != 0, 1);
    put(b, h->constrained_intra_pred_flag != 0, 1);
    put(b, h->redundant_pic_cnt_present_flag != 0, 1);
    put(b, h->transform_8x8_mode_flag != 0, 1);
    put(b, 1, 1);
    for (int i = 0; i < 6; i++)
        put_list(b, h->WeightScale4x4[i], 4);
    for (int i = 0; i < 2 && h->transform_8x8_mode_flag; i++)
        put_list(b, h->WeightScale8x8[i], 8);
    put_se(b, h->second_chroma_qp_index_offset);
}

/* The set as a NAL unit of this type. */
static size_t wrap(const struct bits *in, unsigned char type, unsigned char *out)
{
    size_t bytes = (in->count + 7) / 8, n = 0;
    static const unsigned char start[] = {0, 0, 0, 1};
    memcpy(out, start, n = sizeof start);
    out[n++] = (unsigned char)(0x60 | type);
    for (size_t i = 0; i < bytes; i++) {
        if (i >= 2 && !out[n - 1] && !out[n - 2] && in->out[i] <= 3)
            out[n++] = 3; /* so that nothing inside looks like a start */
        out[n++] = in->out[i];
    }
    return n;
}

static size_t finish(struct bits *b, unsigned char type, unsigned char *out)
{
    put(b, 1, 1);
    return wrap(b, type, out);
}

/* The number of the picture's set, third in the slice's header. */
static unsigned set_of(const unsigned char *slice, size_t len)
{
    size_t at = 32; /* behind the start code and the unit's type */
    unsigned value = 0;
    for (int i = 0; i < 3; i++) {
        int zeros = 0;
        while (at < 8 * len && !(slice[at / 8] >> (7 - at % 8) & 1) && zeros < 16)
            zeros++, at++;
        value = 0;
        for (int k = 0; k <= zeros && at < 8 * len; k++, at++)
            value = 2 * value + (slice[at / 8] >> (7 - at % 8) & 1U);
        value -= value > 0;
    }
    return value;
}

size_t h264_sets(const CUVIDPICPARAMS *p, unsigned char *out)
{
    const CUVIDH264PICPARAMS *h = &p->CodecSpecific.h264;
    unsigned char raw[H264_SETS / 2];
    struct bits b = {.out = raw};
    if (h->pic_order_cnt_type == 1 || p->nNumSlices == 0)
        return 0;
    put_sequence(&b, p);
    size_t n = finish(&b, 7, out);
    b.count = 0;
    put_picture(&b, h,
                set_of(p->pBitstreamData + p->pSliceDataOffsets[0],
                       p->nBitstreamDataLen - p->pSliceDataOffsets[0]));
    return n + finish(&b, 8, out + n);
}
