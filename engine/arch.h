/* The architecture of a model as plain numbers, and what follows from it.
 *
 * It is inferred from the shapes of a checkpoint's tensors (MODEL.md section 4) or read from the
 * `__metadata__` of a model file; everything after reads struct arch and nothing else. */
#ifndef TV3S_ENGINE_ARCH_H
#define TV3S_ENGINE_ARCH_H

#include "base/err.h"
#include "engine/safetensors.h"

#include <stdbool.h>
#include <stdint.h>

enum encoder_kind { ENCODER_MIT, ENCODER_SWIN };
enum head_kind { HEAD_TV3S, HEAD_SEGFORMER };
enum output_kind { OUTPUT_DIRECT, OUTPUT_ADD, OUTPUT_CONCAT };
enum resize_kind { RESIZE_NATIVE, RESIZE_VSPW, RESIZE_CITYSCAPES, RESIZE_FIXED };

enum { ARCH_STAGES = 4, ARCH_MAX_CLASSES = 255, ARCH_NAME = 32, ARCH_CLASS_NAME = 64 };

/* How a frame becomes the network's input (MODEL.md section 1). */
struct resize_spec {
    enum resize_kind kind;
    int width, height; /* RESIZE_FIXED only */
};

struct arch {
    char name[ARCH_NAME]; /* "mit_b1", "swin_t", or "mit", "swin" for sizes without a name */

    enum encoder_kind encoder;
    int dims[ARCH_STAGES];   /* channels of c1..c4 */
    int depths[ARCH_STAGES]; /* blocks per stage */
    int heads[ARCH_STAGES];
    int mlp[ARCH_STAGES]; /* hidden width of the MLP */
    int sr[ARCH_STAGES];  /* MiT: spatial reduction of keys and values, 1 = none */
    int swin_window;      /* Swin: 7 */
    float eps_block;      /* LayerNorm eps: norm1, norm2, stage norms */
    float eps_embed;      /* LayerNorm eps: patch embedding, sr */

    enum head_kind head;
    int embed;   /* E */
    int classes; /* 1..ARCH_MAX_CLASSES */

    /* HEAD_TV3S only */
    int layers;  /* L = 2N */
    int window;  /* w */
    int shift;   /* s < w */
    int inner;   /* D */
    int state;   /* n */
    int conv;    /* k */
    int dt_rank; /* R */
    enum output_kind output;

    struct resize_spec resize;

    char class_names[ARCH_MAX_CLASSES][ARCH_CLASS_NAME]; /* UTF-8; "class 7" where unknown */
    uint8_t palette[ARCH_MAX_CLASSES][3];                /* RGB */
};

/* Infers everything from tensor shapes (canonical names). Window, shift, resize and `add` get the
 * defaults of MODEL.md section 4; class names and palette get generated ones. ERR_FORMAT
 * names the tensor that does not fit. `f` may be any st_file with canonical names. */
enum err arch_infer(const struct st_file *f, struct arch *out);

/* The model file's `__metadata__`: keys "tv3s" (format version "1"), "arch", "classes", "palette",
 * the last three JSON. arch_read checks every range: ERR_UNSUPPORTED for a file of
 * another version or maker, ERR_FORMAT. arch_write adds them to a writer: ERR_NOMEM. */
enum err arch_read(const struct st_file *f, struct arch *out);
enum err arch_write(const struct arch *a, struct st_writer *w);

/* Calls `visit` for every tensor a model of this architecture must have (canonical name, shape).
 * Stops at and returns the first error. The name is valid during the call only. */
typedef enum err (*arch_visit_fn)(void *ctx, const char *name, int ndim, const int64_t *shape);
enum err arch_visit(const struct arch *a, arch_visit_fn visit, void *ctx);

/* Parses "vspw", "cityscapes", "native" or "WxH" (each side 32..16384). ERR_ARG. */
enum err resize_parse(const char *text, struct resize_spec *out);
/* Writes the same text back; `size` >= 32. */
void resize_format(const struct resize_spec *r, char *text, size_t size);
/* Network input size of a width x height frame. Both results >= 32 or ERR_ARG. */
enum err resize_apply(const struct resize_spec *r, int width, int height, int *net_w, int *net_h);

#endif
