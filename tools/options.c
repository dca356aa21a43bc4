#include "tools/options.h"

#include <ctype.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* A decimal number of lo..hi at the start of `text`; *end is what follows it. */
static bool number(const char *text, int lo, int hi, int *out, char **end)
{
    if (!isdigit((unsigned char)*text) && *text != '-') /* strtol takes more */
        return false;
    errno = 0;
    long v = strtol(text, end, 10);
    if (*end == text || errno || v < lo || v > hi)
        return false;
    *out = (int)v;
    return true;
}

bool option_int(const char *text, int lo, int hi, int *out)
{
    char *end;
    int v;
    if (!number(text, lo, hi, &v, &end) || *end)
        return false;
    *out = v;
    return true;
}

bool option_size(const char *text, int *width, int *height)
{
    char *x;
    int w, h;
    if (!number(text, 1, ENGINE_MAX_SIDE, &w, &x) || *x != 'x' ||
        !option_int(x + 1, 1, ENGINE_MAX_SIDE, &h))
        return false;
    *width = w;
    *height = h;
    return true;
}

bool option_device(const char *text, enum device_kind *kind, int *index)
{
    int i = 0;
    bool cpu = strcmp(text, "cpu") == 0;
    if (!cpu && strcmp(text, "cuda") != 0 &&
        (strncmp(text, "cuda:", 5) != 0 || !option_int(text + 5, 0, INT_MAX, &i)))
        return false;
    *kind = cpu ? DEVICE_CPU : DEVICE_CUDA;
    *index = i;
    return true;
}

bool option_dtype(const char *text, struct engine_config *out)
{
    bool bf16 = strcmp(text, "bf16") == 0, tf32 = strcmp(text, "tf32") == 0;
    if (!bf16 && !tf32 && strcmp(text, "f32") != 0)
        return false;
    out->dtype = bf16 ? DT_BF16 : DT_F32;
    out->tf32 = tf32;
    return true;
}

const char *option_dtype_name(const struct engine_config *c)
{
    if (c->dtype == DT_BF16)
        return "bf16";
    return c->tf32 ? "tf32" : "f32";
}

bool option_mode(const char *text, enum stream_mode *out)
{
    static const char *const name[] = {
        [MODE_STREAM] = "stream", [MODE_CLIP] = "clip", [MODE_FRAME] = "frame"};
    for (int i = 0; i < (int)(sizeof name / sizeof *name); i++) {
        if (strcmp(text, name[i]) != 0)
            continue;
        *out = (enum stream_mode)i;
        return true;
    }
    return false;
}
