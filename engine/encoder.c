#include "engine/encoder.h"

#include <stdlib.h>

struct encoder {
    struct mit *mit;
    struct swin *swin;
};

enum err encoder_open(const struct loader *l, struct encoder **out)
{
    struct encoder *enc = calloc(1, sizeof *enc);
    *out = enc;
    if (!enc)
        return err_set(ERR_NOMEM, "out of memory");
    return l->model->arch.encoder == ENCODER_MIT ? mit_open(l, &enc->mit)
                                                 : swin_open(l, &enc->swin);
}

void encoder_close(const struct loader *l, struct encoder *enc)
{
    if (!enc)
        return;
    mit_close(l, enc->mit);
    swin_close(l, enc->swin);
    free(enc);
}

enum err encoder_run(const struct encoder *enc, struct arena *arena, const struct plan *p,
                     const float *input, int images, void *const c[ARCH_STAGES])
{
    return enc->mit ? mit_run(enc->mit, arena, p, input, images, c)
                    : swin_run(enc->swin, arena, p, input, images, c);
}
