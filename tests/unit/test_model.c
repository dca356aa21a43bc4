#include "tiny_model.h"

#include "engine/safetensors_parts.h"

/* What write_model may spoil. */
struct spoil {
    const char *tensor; /* the one to spoil, NULL: none */
    bool omit, widen, nan, integer;
    enum dtype dtype; /* of all tensors: DT_F32 or DT_BF16 */
    bool no_metadata;
};

struct writing {
    struct st_writer *writer;
    const struct spoil *spoil;
    void *data[512]; /* borrowed until written */
    int count;
};

static enum err add(void *ctx, const char *name, int ndim, const int64_t *shape)
{
    struct writing *w = ctx;
    const struct spoil *s = w->spoil;
    bool hit = s->tensor && strcmp(s->tensor, name) == 0;
    int64_t sides[ST_MAX_DIMS];
    size_t n = 1;
    if (hit && s->omit)
        return ERR_OK;
    memcpy(sides, shape, (size_t)ndim * sizeof *shape);
    sides[0] += hit && s->widen;
    for (int i = 0; i < ndim; i++)
        n *= (size_t)sides[i];
    enum dtype dtype = hit && s->integer ? DT_I32 : s->dtype;
    uint8_t *data = calloc(n, dtype_size(dtype));
    assert_non_null(data);
    assert_true(w->count < 512);
    w->data[w->count++] = data;
    for (size_t i = 0; i < n; i++) {
        float v = hit && s->nan && i == n / 2 ? NAN : 0.25f * (float)(i % 7) + 0.5f;
        uint16_t b = f32_to_bf16(v);
        if (dtype == DT_F32)
            memcpy(data + 4 * i, &v, 4);
        else if (dtype == DT_BF16)
            memcpy(data + 2 * i, &b, 2);
    }
    return st_writer_add(w->writer, name, dtype, ndim, sides, data);
}

/* A model file at `path` (a template of mkstemp), with the flaw asked for. */
static void write_model(char *path, const struct arch *a, const struct spoil *spoil)
{
    struct writing *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->spoil = spoil;
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(st_writer_open(&w->writer), ERR_OK);
    if (!spoil->no_metadata)
        assert_int_equal(arch_write(a, w->writer), ERR_OK);
    assert_int_equal(arch_visit(a, add, w), ERR_OK);
    assert_int_equal(st_write_file(w->writer, path), ERR_OK);
    st_writer_close(w->writer);
    while (w->count)
        free(w->data[--w->count]);
    free(w);
}

static enum err open_spoilt(const struct spoil *spoil, struct model **out)
{
    char path[] = "/tmp/tv3s-model-XXXXXX";
    struct arch a = tiny_arch(ENCODER_MIT, HEAD_TV3S);
    write_model(path, &a, spoil);
    enum err err = model_open(path, out);
    unlink(path);
    return err;
}

static void a_whole_model_opens(void **state)
{
    (void)state;
    struct model *m;
    float *v;
    struct arch a = tiny_arch(ENCODER_SWIN, HEAD_SEGFORMER);
    m = tiny_open(&a, 1);
    assert_int_equal(m->arch.encoder, ENCODER_SWIN);
    assert_string_equal(m->arch.name, "swin");
    assert_true(model_has(m, "backbone.layers.%d.blocks.%d.attn.qkv.bias", 2, 1));
    assert_false(model_has(m, "backbone.layers.%d.blocks.%d.attn.qkv.bias", 2, 2));
    assert_int_equal(model_tensor(m, &v, "backbone.norm%d.weight", 3), ERR_OK);
    assert_int_equal((uintptr_t)v % 64, 0);
    free(v);
    assert_int_equal(model_tensor(m, &v, "nothing"), ERR_INTERNAL);
    model_close(m);
    model_close(NULL);
}

static void sixteen_bit_models_open_and_widen(void **state)
{
    (void)state;
    struct model *m;
    float *v;
    assert_int_equal(open_spoilt(&(struct spoil){.dtype = DT_BF16}, &m), ERR_OK);
    assert_int_equal(model_tensor(m, &v, "backbone.norm1.weight"), ERR_OK);
    assert_true(v[0] == 0.5f && v[1] == 0.75f && v[7] == 0.5f);
    free(v);
    model_close(m);
}

static void flaws_are_named(void **state)
{
    (void)state;
    static const struct {
        struct spoil spoil;
        const char *text;
    } cases[] = {
        {{.tensor = "backbone.norm2.bias", .omit = true}, "backbone.norm2.bias [32] is missing"},
        {{.tensor = "backbone.norm2.bias", .widen = true}, "has shape [33], not [32]"},
        {{.tensor = "backbone.norm2.bias", .nan = true}, "backbone.norm2.bias: value 16 is NaN"},
        {{.tensor = "decode_head.vs.layers.3.mixer.D", .integer = true}, "mixer.D [64] is I32"},
        {{.no_metadata = true}, "tv3s convert"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model *m = (void *)1;
        assert_int_not_equal(open_spoilt(&cases[i].spoil, &m), ERR_OK);
        assert_null(m);
        if (!strstr(err_text(), cases[i].text))
            fail_msg("'%s' does not hold '%s'", err_text(), cases[i].text);
    }
}

static void what_is_no_model_is_refused(void **state)
{
    (void)state;
    struct model *m;
    assert_int_equal(model_open("/nonexistent/model", &m), ERR_NOT_FOUND);
    assert_int_equal(model_open("/tmp", &m), ERR_IO);
    char path[] = "/tmp/tv3s-model-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, "PK\3\4 no model at all", 21), 21);
    close(fd);
    assert_int_equal(model_open(path, &m), ERR_FORMAT);
    assert_non_null(strstr(err_text(), "tv3s convert"));
    unlink(path);
}

/* Every byte of the header flipped in turn: an error or a model, nothing else. */
static void a_flipped_header_never_crashes(void **state)
{
    (void)state;
    struct arch a = tiny_arch(ENCODER_MIT, HEAD_SEGFORMER);
    char path[] = "/tmp/tv3s-model-XXXXXX";
    write_model(path, &a, &(struct spoil){0});
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    for (long at = 0; at < 4000; at += 3) {
        struct model *m;
        fseek(f, at, SEEK_SET);
        int byte = fgetc(f);
        fseek(f, at, SEEK_SET);
        fputc(byte ^ 1 << at % 8, f);
        fflush(f);
        if (model_open(path, &m) == ERR_OK)
            model_close(m);
        fseek(f, at, SEEK_SET);
        fputc(byte, f);
        fflush(f);
    }
    fclose(f);
    unlink(path);
}

static void parameters_are_counted(void **state)
{
    (void)state;
    struct model *m;
    assert_int_equal(open_spoilt(&(struct spoil){0}, &m), ERR_OK);
    size_t n = 0;
    for (size_t i = 0; i < st_count(m->file); i++)
        if (!strstr(st_at(m->file, i)->name, "running"))
            n += st_elements(st_at(m->file, i));
    assert_int_equal(model_parameters(m), n);
    model_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_whole_model_opens),
        cmocka_unit_test(sixteen_bit_models_open_and_widen),
        cmocka_unit_test(flaws_are_named),
        cmocka_unit_test(what_is_no_model_is_refused),
        cmocka_unit_test(a_flipped_header_never_crashes),
        cmocka_unit_test(parameters_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
