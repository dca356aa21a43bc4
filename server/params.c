/* What a query says of a stream, a video or an image. */
#include "server/front.h"

#include "base/try.h"
#include "server/describe.h"

#include <string.h>

static enum err parse_mode(const char *text, enum stream_mode *out)
{
    for (int m = MODE_STREAM; m <= MODE_FRAME; m++) {
        if (strcmp(text, mode_name((enum stream_mode)m)) != 0)
            continue;
        *out = (enum stream_mode)m;
        return ERR_OK;
    }
    return err_set(ERR_ARG, "'%.40s' is no mode: stream, clip or frame", text);
}

enum err params_parse(struct server *s, const char *(*get)(void *ctx, const char *name), void *ctx,
                      struct session_params *out)
{
    *out = (struct session_params){.format = MASK_PNG};
    const char *mode = get(ctx, "mode"), *format = get(ctx, "format"), *size = get(ctx, "resize");
    TRY(models_find(s->models, get(ctx, "model"), &out->model));
    if (mode && mode[0])
        TRY(parse_mode(mode, &out->stream.mode));
    if (format && format[0])
        TRY(mask_format_parse(format, &out->format));
    if (size && size[0]) {
        TRY(resize_parse(size, &out->stream.resize));
        out->stream.resize_override = true;
    }
    return ERR_OK;
}
