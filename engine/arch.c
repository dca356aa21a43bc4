#include "engine/arch_parts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- ranges -------------------------------------------------------------------------------------
 */

static enum err in_range(const char *what, int stage, int value, int low, int high)
{
    if (value >= low && value <= high)
        return ERR_OK;
    if (stage >= 0)
        return err_set(ERR_FORMAT, "%s of stage %d is %d, not %d to %d", what, stage + 1, value,
                       low, high);
    return err_set(ERR_FORMAT, "%s is %d, not %d to %d", what, value, low, high);
}

static enum err check_stage(const struct arch *a, int i)
{
    enum err err = in_range("channels", i, a->dims[i], 1, ARCH_MAX_CHANNELS);
    if (!err)
        err = in_range("depth", i, a->depths[i], 1, ARCH_MAX_DEPTH);
    if (!err)
        err = in_range("heads", i, a->heads[i], 1, ARCH_MAX_HEADS);
    if (!err)
        err = in_range("MLP width", i, a->mlp[i], 1, ARCH_MAX_HIDDEN);
    if (!err && a->encoder == ENCODER_MIT)
        err = in_range("reduction", i, a->sr[i], 1, ARCH_MAX_SR);
    if (!err && a->dims[i] % a->heads[i])
        err = err_set(ERR_FORMAT, "%d channels of stage %d do not divide into %d heads", a->dims[i],
                      i + 1, a->heads[i]);
    return err;
}

static enum err check_tv3s_head(const struct arch *a)
{
    enum err err = in_range("layers", -1, a->layers, 2, ARCH_MAX_LAYERS);
    if (!err && a->layers % 2)
        err = err_set(ERR_FORMAT, "%d layers, but a block has two", a->layers);
    if (!err)
        err = in_range("window", -1, a->window, 1, ARCH_MAX_WINDOW);
    if (!err)
        err = in_range("shift", -1, a->shift, 0, a->window - 1);
    if (!err)
        err = in_range("inner channels", -1, a->inner, 1, ARCH_MAX_HIDDEN);
    if (!err)
        err = in_range("state", -1, a->state, 1, ARCH_MAX_STATE);
    if (!err)
        err = in_range("conv", -1, a->conv, 1, ARCH_MAX_CONV);
    if (!err)
        err = in_range("dt_rank", -1, a->dt_rank, 1, ARCH_MAX_STATE);
    return err;
}

enum err arch_check(const struct arch *a)
{
    enum err err = ERR_OK;
    for (int i = 0; !err && i < ARCH_STAGES; i++)
        err = check_stage(a, i);
    if (!err && a->encoder == ENCODER_SWIN)
        err = in_range("attention window", -1, a->swin_window, 2, ARCH_MAX_SWIN_WINDOW);
    if (!err && !(a->eps_block >= 1e-12f && a->eps_block <= 0.1f))
        err = err_set(ERR_FORMAT, "eps_block is %g", (double)a->eps_block);
    if (!err && !(a->eps_embed >= 1e-12f && a->eps_embed <= 0.1f))
        err = err_set(ERR_FORMAT, "eps_embed is %g", (double)a->eps_embed);
    if (!err)
        err = in_range("embed", -1, a->embed, 1, ARCH_MAX_CHANNELS);
    if (!err)
        err = in_range("classes", -1, a->classes, 1, ARCH_MAX_CLASSES);
    if (!err && a->head == HEAD_TV3S)
        err = check_tv3s_head(a);
    return err;
}

/* ---- names --------------------------------------------------------------------------------------
 */

static const struct known {
    const char *name;
    enum encoder_kind encoder;
    int dims[ARCH_STAGES], depths[ARCH_STAGES], heads[ARCH_STAGES];
} known[] = {
    {"mit_b0", ENCODER_MIT, {32, 64, 160, 256}, {2, 2, 2, 2}, {1, 2, 5, 8}},
    {"mit_b1", ENCODER_MIT, {64, 128, 320, 512}, {2, 2, 2, 2}, {1, 2, 5, 8}},
    {"mit_b2", ENCODER_MIT, {64, 128, 320, 512}, {3, 4, 6, 3}, {1, 2, 5, 8}},
    {"mit_b3", ENCODER_MIT, {64, 128, 320, 512}, {3, 4, 18, 3}, {1, 2, 5, 8}},
    {"mit_b4", ENCODER_MIT, {64, 128, 320, 512}, {3, 8, 27, 3}, {1, 2, 5, 8}},
    {"mit_b5", ENCODER_MIT, {64, 128, 320, 512}, {3, 6, 40, 3}, {1, 2, 5, 8}},
    {"swin_t", ENCODER_SWIN, {96, 192, 384, 768}, {2, 2, 6, 2}, {3, 6, 12, 24}},
    {"swin_s", ENCODER_SWIN, {96, 192, 384, 768}, {2, 2, 18, 2}, {3, 6, 12, 24}},
    {"swin_b", ENCODER_SWIN, {128, 256, 512, 1024}, {2, 2, 18, 2}, {4, 8, 16, 32}},
    {"swin_l", ENCODER_SWIN, {192, 384, 768, 1536}, {2, 2, 18, 2}, {6, 12, 24, 48}},
};

static bool is_known(const struct arch *a, const struct known *k)
{
    static const int sr[ARCH_STAGES] = {8, 4, 2, 1};
    bool same = a->encoder == k->encoder && memcmp(a->dims, k->dims, sizeof k->dims) == 0 &&
                memcmp(a->depths, k->depths, sizeof k->depths) == 0 &&
                memcmp(a->heads, k->heads, sizeof k->heads) == 0;
    for (int i = 0; i < ARCH_STAGES; i++)
        same = same && a->mlp[i] == 4 * a->dims[i];
    if (a->encoder == ENCODER_MIT)
        return same && memcmp(a->sr, sr, sizeof sr) == 0;
    return same && a->swin_window == 7;
}

void arch_set_name(struct arch *a)
{
    const char *name = a->encoder == ENCODER_MIT ? "mit" : "swin";
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (is_known(a, &known[i]))
            name = known[i].name;
    snprintf(a->name, sizeof a->name, "%s", name);
}

/* ---- labels -------------------------------------------------------------------------------------
 */

void arch_default_labels(struct arch *a)
{
    for (int i = 0; i < a->classes; i++) {
        snprintf(a->class_names[i], ARCH_CLASS_NAME, "class %d", i);
        /* The bits of the label, lowest first, go to the high bits of red, green and blue in turn:
         * labels that differ little get colours that differ much. */
        uint8_t rgb[3] = {0, 0, 0};
        for (unsigned bits = (unsigned)i + 1, at = 0; bits; bits >>= 1, at++)
            if (bits & 1)
                rgb[at % 3] |= (uint8_t)(0x80 >> at / 3);
        memcpy(a->palette[i], rgb, 3);
    }
}

/* Length of the well-formed UTF-8 character at s, 0 where there is none or it is a control. */
static size_t utf8_length(const unsigned char *s, size_t len)
{
    static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = s[0] < 0x80 ? 1 : s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (n == 1)
        return s[0] >= 0x20 && s[0] != 0x7f;
    if (s[0] < 0xc0 || s[0] >= 0xf8 || n > len)
        return 0;
    uint32_t code = s[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (s[i] & 0x3f);
    }
    bool surrogate = code >= 0xd800 && code < 0xe000;
    return code >= least[n] && code <= 0x10ffff && !surrogate && code >= 0xa0 ? n : 0;
}

bool arch_set_class_name(struct arch *a, int label, const char *text, size_t len)
{
    size_t keep = 0;
    for (size_t at = 0, n; at < len; at += n) {
        n = utf8_length((const unsigned char *)text + at, len - at);
        if (!n)
            return false;
        if (at + n < ARCH_CLASS_NAME)
            keep = at + n;
    }
    if (!len)
        return false;
    memcpy(a->class_names[label], text, keep);
    a->class_names[label][keep] = '\0';
    return true;
}
