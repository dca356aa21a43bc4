#include "engine/arch_parts.h"
#include "engine/safetensors_parts.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { MAX_TENSORS = 4000 };

/* The tensors of an architecture, without data. */
struct shapes {
    struct st_tensor tensor[MAX_TENSORS];
    size_t count;
};

static enum err collect(void *ctx, const char *name, int ndim, const int64_t *shape)
{
    struct shapes *s = ctx;
    struct st_tensor *t = &s->tensor[s->count++];
    assert_true(s->count < MAX_TENSORS);
    t->name = strdup(name);
    t->ndim = ndim;
    memcpy(t->shape, shape, (size_t)ndim * sizeof *shape);
    return ERR_OK;
}

static struct shapes *shapes_of(const struct arch *a)
{
    struct shapes *s = calloc(1, sizeof *s);
    assert_non_null(s);
    assert_int_equal(arch_visit(a, collect, s), ERR_OK);
    return s;
}

static void shapes_free(struct shapes *s)
{
    for (size_t i = 0; i < s->count; i++)
        free((char *)s->tensor[i].name);
    free(s);
}

static enum err infer(const struct shapes *s, struct arch *out)
{
    struct st_file *f;
    assert_int_equal(st_assemble(s->tensor, s->count, &f), ERR_OK);
    enum err err = arch_infer(f, out);
    st_close(f);
    return err;
}

static struct st_tensor *find(struct shapes *s, const char *name)
{
    for (size_t i = 0; i < s->count; i++)
        if (strcmp(s->tensor[i].name, name) == 0)
            return &s->tensor[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static struct arch base_arch(enum encoder_kind encoder, int first, int classes)
{
    static const int mit_b0[] = {32, 64, 160, 256}, mit[] = {64, 128, 320, 512};
    static const int sr[] = {8, 4, 2, 1};
    struct arch a = {.encoder = encoder,
                     .eps_block = encoder == ENCODER_MIT ? 1e-6f : 1e-5f,
                     .eps_embed = 1e-5f,
                     .head = HEAD_TV3S,
                     .embed = 256,
                     .classes = classes,
                     .layers = 8,
                     .window = 20,
                     .shift = 10,
                     .inner = 512,
                     .state = 16,
                     .conv = 4,
                     .dt_rank = 16};
    for (int i = 0; i < ARCH_STAGES; i++) {
        if (encoder == ENCODER_MIT) {
            a.dims[i] = first == 32 ? mit_b0[i] : mit[i];
            a.heads[i] = a.dims[i] / first;
            a.sr[i] = sr[i];
        } else {
            a.dims[i] = first << i;
            a.heads[i] = a.dims[i] / 32;
            a.swin_window = 7;
        }
        a.mlp[i] = 4 * a.dims[i];
        a.depths[i] = 2;
    }
    a.resize.kind = classes == 124  ? RESIZE_VSPW
                    : classes == 19 ? RESIZE_CITYSCAPES
                                    : RESIZE_NATIVE;
    return a;
}

static const struct size_case {
    const char *name;
    enum encoder_kind encoder;
    int first, depths[ARCH_STAGES];
} sizes[] = {
    {"mit_b0", ENCODER_MIT, 32, {2, 2, 2, 2}},    {"mit_b1", ENCODER_MIT, 64, {2, 2, 2, 2}},
    {"mit_b2", ENCODER_MIT, 64, {3, 4, 6, 3}},    {"mit_b3", ENCODER_MIT, 64, {3, 4, 18, 3}},
    {"mit_b4", ENCODER_MIT, 64, {3, 8, 27, 3}},   {"mit_b5", ENCODER_MIT, 64, {3, 6, 40, 3}},
    {"swin_t", ENCODER_SWIN, 96, {2, 2, 6, 2}},   {"swin_s", ENCODER_SWIN, 96, {2, 2, 18, 2}},
    {"swin_b", ENCODER_SWIN, 128, {2, 2, 18, 2}}, {"swin_l", ENCODER_SWIN, 192, {2, 2, 18, 2}},
    {"mit", ENCODER_MIT, 64, {1, 2, 1, 1}},       {"swin", ENCODER_SWIN, 32, {2, 1, 1, 2}},
};

static void every_size_is_recognised_from_its_shapes(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int segformer = 0; segformer < 2; segformer++) {
            struct arch want = base_arch(sizes[i].encoder, sizes[i].first, 124), have;
            memcpy(want.depths, sizes[i].depths, sizeof want.depths);
            if (segformer) {
                want.head = HEAD_SEGFORMER;
                want.embed = 768;
                want.layers = want.window = want.shift = want.inner = 0;
                want.state = want.conv = want.dt_rank = 0;
            }
            arch_set_name(&want);
            arch_default_labels(&want);
            assert_string_equal(want.name, sizes[i].name);
            struct shapes *s = shapes_of(&want);
            if (infer(s, &have))
                fail_msg("%s: %s", sizes[i].name, err_text());
            assert_memory_equal(&have, &want, sizeof want);
            shapes_free(s);
        }
}

static void concat_shows_in_the_classifier(void **state)
{
    (void)state;
    struct arch a = base_arch(ENCODER_MIT, 32, 19), have;
    a.output = OUTPUT_CONCAT;
    struct shapes *s = shapes_of(&a);
    assert_int_equal(find(s, "decode_head.linear_pred2.weight")->shape[1], 512);
    assert_int_equal(infer(s, &have), ERR_OK);
    assert_int_equal(have.output, OUTPUT_CONCAT);
    assert_int_equal(have.resize.kind, RESIZE_CITYSCAPES);
    shapes_free(s);
}

static void other_sizes_of_the_head_are_inferred(void **state)
{
    (void)state;
    struct arch a = base_arch(ENCODER_MIT, 32, 5), have;
    a.embed = 48, a.layers = 2, a.inner = 80, a.state = 8, a.conv = 3, a.dt_rank = 3;
    struct shapes *s = shapes_of(&a);
    assert_int_equal(infer(s, &have), ERR_OK);
    assert_int_equal(have.embed, 48);
    assert_int_equal(have.layers, 2);
    assert_int_equal(have.inner, 80);
    assert_int_equal(have.state, 8);
    assert_int_equal(have.conv, 3);
    assert_int_equal(have.dt_rank, 3);
    assert_int_equal(have.classes, 5);
    assert_int_equal(have.resize.kind, RESIZE_NATIVE);
    shapes_free(s);
}

/* Infers after `spoil` changed one tensor; the message must name it. */
static void expect_refusal(const char *name, void (*spoil)(struct st_tensor *), const char *text)
{
    struct arch a = base_arch(ENCODER_MIT, 32, 19), have;
    struct shapes *s = shapes_of(&a);
    spoil(find(s, name));
    assert_int_equal(infer(s, &have), ERR_FORMAT);
    if (!strstr(err_text(), text))
        fail_msg("'%s' does not hold '%s'", err_text(), text);
    shapes_free(s);
}

static void rename_it(struct st_tensor *t)
{
    ((char *)t->name)[0] = '_';
}
static void widen(struct st_tensor *t)
{
    t->shape[0]++;
}
static void add_side(struct st_tensor *t)
{
    t->shape[t->ndim++] = 1;
}
static void make_integer(struct st_tensor *t)
{
    t->dtype = DT_I64;
}
static void make_huge(struct st_tensor *t)
{
    t->shape[0] = INT64_MAX;
}

static void a_checkpoint_that_disagrees_with_itself_is_refused(void **state)
{
    (void)state;
    expect_refusal("backbone.norm3.bias", rename_it, "backbone.norm3.bias [160] is missing");
    expect_refusal("backbone.block2.1.attn.kv.weight", widen,
                   "backbone.block2.1.attn.kv.weight has shape [129, 64], not [128, 64]");
    expect_refusal("backbone.norm1.weight", add_side,
                   "backbone.norm1.weight has shape [32, 1], not [32]");
    expect_refusal("decode_head.vs.norm_f.weight", make_integer,
                   "decode_head.vs.norm_f.weight [256] is I64");
    expect_refusal("decode_head.linear_c1.proj.weight", rename_it,
                   "linear_c1.proj.weight is missing");
    expect_refusal("decode_head.linear_pred2.weight", make_huge, "decode_head.linear_pred2.weight");
    expect_refusal("backbone.patch_embed1.proj.weight", rename_it,
                   "backbone.patch_embed1.proj.weight is missing");
}

static void a_hole_in_the_numbering_is_a_missing_tensor(void **state)
{
    (void)state;
    struct arch a = base_arch(ENCODER_MIT, 32, 19), have;
    a.depths[1] = 3;
    struct shapes *s = shapes_of(&a);
    for (size_t i = 0; i < s->count; i++)
        if (strncmp(s->tensor[i].name, "backbone.block2.1.", 18) == 0)
            rename_it(&s->tensor[i]);
    assert_int_equal(infer(s, &have), ERR_FORMAT);
    assert_non_null(strstr(err_text(), "backbone.block2.1.norm1.weight"));
    shapes_free(s);
}

/* Writes the metadata of `a`, with one key's text replaced, and reads it back. */
static enum err write_and_read(const struct arch *a, const char *key, const char *from,
                               const char *to, struct arch *out)
{
    struct st_writer *w, *spoilt;
    struct st_file *f;
    void *buf;
    size_t len;
    static const char *const keys[] = {"tv3s", "arch", "classes", "palette"};
    assert_int_equal(st_writer_open(&w), ERR_OK);
    assert_int_equal(arch_write(a, w), ERR_OK);
    assert_int_equal(st_write_memory(w, &buf, &len), ERR_OK);
    st_writer_close(w);
    assert_int_equal(st_parse(buf, len, &f), ERR_OK);
    assert_int_equal(st_writer_open(&spoilt), ERR_OK);
    for (int i = 0; i < 4; i++) {
        char text[20000];
        const char *value = st_metadata(f, keys[i]), *hit = NULL;
        if (key && strcmp(key, keys[i]) == 0) {
            hit = strstr(value, from);
            if (!hit)
                fail_msg("no '%s' in %s", from, value);
            if (!to)
                continue;
        }
        int before = hit ? (int)(hit - value) : (int)strlen(value);
        snprintf(text, sizeof text, "%.*s%s%s", before, value, hit ? to : "",
                 hit ? hit + strlen(from) : "");
        assert_int_equal(st_writer_metadata(spoilt, keys[i], text), ERR_OK);
    }
    st_close(f);
    free(buf);
    assert_int_equal(st_write_memory(spoilt, &buf, &len), ERR_OK);
    st_writer_close(spoilt);
    assert_int_equal(st_parse(buf, len, &f), ERR_OK);
    enum err err = arch_read(f, out);
    st_close(f);
    free(buf);
    return err;
}

static void metadata_reads_back(void **state)
{
    (void)state;
    struct arch a = base_arch(ENCODER_SWIN, 96, 124), have;
    a.output = OUTPUT_ADD;
    a.resize = (struct resize_spec){RESIZE_FIXED, 640, 352};
    arch_set_name(&a);
    arch_default_labels(&a);
    assert_true(arch_set_class_name(&a, 3, "caf\xc3\xa9 \"bar\"", 11));
    memset(&have, 0xff, sizeof have);
    assert_int_equal(write_and_read(&a, NULL, NULL, NULL, &have), ERR_OK);
    assert_memory_equal(&a, &have, sizeof a);
    a = base_arch(ENCODER_MIT, 32, 255);
    arch_set_name(&a);
    arch_default_labels(&a);
    assert_int_equal(write_and_read(&a, NULL, NULL, NULL, &have), ERR_OK);
    assert_memory_equal(&a, &have, sizeof a);
}

static void hostile_metadata_is_refused(void **state)
{
    (void)state;
    static const char *const spoil[][3] = {
        {"tv3s", "1", "2"},
        {"tv3s", "1", NULL},
        {"arch", "{", NULL},
        {"arch", "{", "["},
        {"arch", "\"mit\"", "\"resnet\""},
        {"arch", "\"mit\"", "7"},
        {"arch", "[32,64,160,256]", "[32,64,160]"},
        {"arch", "[32,64,160,256]", "[32,64,160,256,256]"},
        {"arch", "[32,64,160,256]", "[0,64,160,256]"},
        {"arch", "[32,64,160,256]", "[-32,64,160,256]"},
        {"arch", "[32,64,160,256]", "[32,64,160,1000000]"},
        {"arch", "[32,64,160,256]", "[32,64,160,9223372036854775807]"},
        {"arch", "[32,64,160,256]", "[32,64,160,1e2]"},
        {"arch", "[32,64,160,256]", "[32,64,161,256]"}, /* 5 heads */
        {"arch", "\"depths\":[2,", "\"depths\":[65,"},
        {"arch", "\"heads\":[1,", "\"heads\":[0,"},
        {"arch", "\"sr\":[8,", "\"sr\":[0,"},
        {"arch", "\"eps_block\":1e-6", "\"eps_block\":0"},
        {"arch", "\"eps_block\":1e-6", "\"eps_block\":true"},
        {"arch", "\"embed\":256", "\"embed\":1e999"},
        {"arch", "\"classes\":19", "\"classes\":0"},
        {"arch", "\"classes\":19", "\"classes\":20"}, /* then the names are too few */
        {"arch", "\"classes\":19", "\"classes\":256"},
        {"arch", "\"layers\":8", "\"layers\":7"},
        {"arch", "\"layers\":8", "\"layers\":66"},
        {"arch", "\"window\":20", "\"window\":65"},
        {"arch", "\"window\":20", "\"window\":10"}, /* the shift is 10 */
        {"arch", "\"shift\":10", "\"shift\":-1"},
        {"arch", "\"state\":16", "\"state\":0"},
        {"arch", "\"conv\":4", "\"conv\":17"},
        {"arch", "\"output\":\"direct\"", "\"output\":\"sum\""},
        {"arch", "\"resize\":\"cityscapes\"", "\"resize\":\"8x8\""},
        {"arch", "\"resize\":\"cityscapes\"", "\"size\":\"native\""},
        {"classes", "\"class 3\",", ""},
        {"classes", "\"class 3\"", "3"},
        {"classes", "\"class 3\"", "\"\""},
        {"classes", "\"class 3\"", "\"a\\nb\""},
        {"classes", "[", NULL},
        {"palette", "[128,0,0]", "[128,0]"},
        {"palette", "[128,0,0]", "[256,0,0]"},
        {"palette", "[128,0,0]", "[-1,0,0]"},
        {"palette", "[128,0,0]", "[1.5,0,0]"},
        {"palette", "[128,0,0],", ""},
    };
    struct arch a = base_arch(ENCODER_MIT, 32, 19), have;
    arch_set_name(&a);
    arch_default_labels(&a);
    for (size_t i = 0; i < sizeof spoil / sizeof *spoil; i++)
        if (write_and_read(&a, spoil[i][0], spoil[i][1], spoil[i][2], &have) == ERR_OK)
            fail_msg("accepted: %s instead of %s", spoil[i][2], spoil[i][1]);
}

static void class_names_are_cut_at_a_character(void **state)
{
    (void)state;
    struct arch a = {.classes = 1};
    char text[100];
    memset(text, 'x', sizeof text);
    assert_true(arch_set_class_name(&a, 0, text, 99));
    assert_int_equal(strlen(a.class_names[0]), 63);
    memcpy(text + 61, "\xe2\x82\xac", 3); /* a euro sign across the limit */
    assert_true(arch_set_class_name(&a, 0, text, 99));
    assert_int_equal(strlen(a.class_names[0]), 61);
    static const char *const bad[] = {"",      "\x80",         "\xc0\xaf",         "\xe2\x82",
                                      "a\x01", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc2\x85"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(arch_set_class_name(&a, 0, bad[i], strlen(bad[i])));
}

static void resize_presets_have_the_published_sizes(void **state)
{
    (void)state;
    static const struct {
        const char *preset;
        int w, h, net_w, net_h;
    } cases[] = {
        {"vspw", 853, 480, 864, 480},         {"vspw", 854, 480, 864, 480},
        {"vspw", 1280, 720, 864, 480},        {"vspw", 1920, 1080, 864, 480},
        {"vspw", 480, 853, 480, 864},         {"vspw", 640, 480, 640, 480},
        {"vspw", 100, 100, 480, 480},         {"cityscapes", 2048, 1024, 1024, 512},
        {"cityscapes", 1000, 1000, 512, 512}, {"native", 33, 47, 33, 47},
        {"320x200", 5000, 3000, 320, 200},    {"vspw", 16384, 1, 864, 32},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct resize_spec r;
        char text[32];
        int w, h;
        assert_int_equal(resize_parse(cases[i].preset, &r), ERR_OK);
        resize_format(&r, text, sizeof text);
        assert_string_equal(text, cases[i].preset);
        assert_int_equal(resize_apply(&r, cases[i].w, cases[i].h, &w, &h), ERR_OK);
        assert_int_equal(w, cases[i].net_w);
        assert_int_equal(h, cases[i].net_h);
    }
}

static void impossible_resizes_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {"",       "x",      "31x32",  "32x16385", "32x",
                                      "32x32x", "+32x32", "32 x32", "VSPW",     "99999999999x32",
                                      "32x32 "};
    struct resize_spec r;
    int w, h;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(resize_parse(bad[i], &r), ERR_ARG);
    assert_int_equal(resize_parse("native", &r), ERR_OK);
    assert_int_equal(resize_apply(&r, 31, 100, &w, &h), ERR_ARG);
    assert_int_equal(resize_apply(&r, 100, 0, &w, &h), ERR_ARG);
    assert_int_equal(resize_apply(&r, 16385, 100, &w, &h), ERR_ARG);
    assert_int_equal(resize_parse("cityscapes", &r), ERR_OK);
    assert_int_equal(resize_apply(&r, 3000, 30, &w, &h), ERR_ARG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_size_is_recognised_from_its_shapes),
        cmocka_unit_test(concat_shows_in_the_classifier),
        cmocka_unit_test(other_sizes_of_the_head_are_inferred),
        cmocka_unit_test(a_checkpoint_that_disagrees_with_itself_is_refused),
        cmocka_unit_test(a_hole_in_the_numbering_is_a_missing_tensor),
        cmocka_unit_test(metadata_reads_back),
        cmocka_unit_test(hostile_metadata_is_refused),
        cmocka_unit_test(class_names_are_cut_at_a_character),
        cmocka_unit_test(resize_presets_have_the_published_sizes),
        cmocka_unit_test(impossible_resizes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
