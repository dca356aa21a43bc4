#include "engine/safetensors_parts.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

/* Parses a header and `data` zero bytes behind it; the parsed file does not outlive this. */
static enum err parse(const char *header, size_t data)
{
    struct st_file *f = NULL;
    size_t len = strlen(header);
    uint8_t *buf = calloc(1, 8 + len + data);
    assert_non_null(buf);
    for (int i = 0; i < 8; i++)
        buf[i] = (uint8_t)(len >> 8 * i);
    memcpy(buf + 8, header, len);
    enum err err = st_parse(buf, 8 + len + data, &f);
    st_close(f);
    free(buf);
    return err;
}

static void good_headers_parse(void **state)
{
    (void)state;
    assert_int_equal(parse("{}", 0), ERR_OK);
    assert_int_equal(parse("{}   ", 0), ERR_OK);
    assert_int_equal(parse("{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4),
                     ERR_OK);
    assert_int_equal(parse("{\"a\":{\"dtype\":\"F16\",\"shape\":[0,3],\"data_offsets\":[0,0]}}", 0),
                     ERR_OK);
}

static void broken_headers_are_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "[]",
        "{",
        "",
        "1",
        "{\"a\":1}",
        "{\"a\":{}}",
        /* unknown type, shape not a list, negative, fractional, too many sides */
        "{\"a\":{\"dtype\":\"F8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":4,\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[-4],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[4.0],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,4],\"data_offsets\":[0,4]}}",
        /* offsets: missing, one, backwards, past the end, negative, of another size */
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[4]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[4,0]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[0,5]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[-4,0]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,4]}}",
        /* products that overflow to something small */
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387905],\"data_offsets\":[0,4]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}",
        /* overlap, hole, left over, one name twice */
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]},"
        "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},"
        "\"b\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[2,4]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[0,3]}}",
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]},"
        "\"a\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
        "{\"__metadata__\":[]}",
        "{\"__metadata__\":{\"a\":1}}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err_set(ERR_OK, "%s", "");
        if (parse(bad[i], 4) == ERR_OK)
            fail_msg("accepted: %s", bad[i]);
        assert_string_not_equal(err_text(), "");
    }
}

static void header_lengths_are_checked(void **state)
{
    (void)state;
    uint8_t buf[16] = {0};
    struct st_file *f;
    assert_int_equal(st_parse(buf, 0, &f), ERR_FORMAT);
    assert_int_equal(st_parse(buf, 7, &f), ERR_FORMAT);
    memset(buf, 0xff, 8); /* 2^64 - 1 */
    assert_int_equal(st_parse(buf, sizeof buf, &f), ERR_FORMAT);
    memset(buf, 0, 8);
    buf[5] = 1; /* a terabyte */
    assert_int_equal(st_parse(buf, sizeof buf, &f), ERR_FORMAT);
    size_t len = (size_t)ST_MAX_HEADER + 100;
    uint8_t *large = calloc(1, len);
    assert_non_null(large);
    large[0] = 64, large[2] = ST_MAX_HEADER >> 16 & 0xff; /* ST_MAX_HEADER + 64 */
    assert_int_equal(st_parse(large, len, &f), ERR_LIMIT);
    free(large);
}

static void deep_json_is_refused(void **state)
{
    (void)state;
    char *text = malloc(200001);
    assert_non_null(text);
    memset(text, '[', 200000);
    memcpy(text, "{\"a\":", 5);
    text[200000] = 0;
    assert_int_equal(parse(text, 0), ERR_FORMAT);
    free(text);
}

static void values_convert_at_any_alignment(void **state)
{
    (void)state;
    uint8_t raw[64] = {0};
    float out[2];
    uint16_t half[2] = {0x3c00, 0xc000}, brain[2] = {0x3f80, 0xc000};
    float single[2] = {1, -2};
    double twice[2] = {1, -2};
    const void *const value[] = {single, brain, half, twice};
    static const enum dtype type[] = {DT_F32, DT_BF16, DT_F16, DT_F64};
    for (size_t shift = 0; shift < 8; shift++)
        for (int i = 0; i < 4; i++) {
            memcpy(raw + shift, value[i], 2 * dtype_size(type[i]));
            struct st_tensor t = {.name = "t", .dtype = type[i], .ndim = 1, .shape = {2}};
            t.data = raw + shift;
            assert_int_equal(st_to_f32(&t, 0, 2, out), ERR_OK);
            assert_true(out[0] == 1 && out[1] == -2);
            assert_int_equal(st_to_f32(&t, 1, 1, out), ERR_OK);
            assert_true(out[0] == -2);
            assert_int_equal(st_to_f32(&t, 1, 2, out), ERR_ARG);
            assert_int_equal(st_to_f32(&t, SIZE_MAX, 2, out), ERR_ARG);
        }
    struct st_tensor t = {.name = "t", .dtype = DT_I64, .ndim = 1, .shape = {2}, .data = raw};
    assert_int_equal(st_to_f32(&t, 0, 2, out), ERR_UNSUPPORTED);
}

static void what_is_not_finite_is_found(void **state)
{
    (void)state;
    enum { N = 10000 };
    float *v = calloc(N, sizeof *v);
    size_t at;
    assert_non_null(v);
    struct st_tensor t = {.dtype = DT_F32, .ndim = 1, .shape = {N}, .data = v};
    v[7] = 3e38f;
    assert_true(st_all_finite(&t, &at));
    v[9999] = NAN;
    assert_false(st_all_finite(&t, &at));
    assert_int_equal(at, 9999);
    v[4097] = -INFINITY;
    assert_false(st_all_finite(&t, &at));
    assert_int_equal(at, 4097);
    free(v);

    uint16_t half[2] = {0x7bff, 0x7c00}, brain[2] = {0x7f7f, 0xff80};
    double twice[2] = {1e38, 1e39}; /* the second is no float */
    const void *const value[] = {half, brain, twice};
    static const enum dtype type[] = {DT_F16, DT_BF16, DT_F64};
    for (int i = 0; i < 3; i++) {
        struct st_tensor u = {.dtype = type[i], .ndim = 1, .shape = {2}, .data = value[i]};
        assert_false(st_all_finite(&u, &at));
        assert_int_equal(at, 1);
    }
}

/* Three tensors in an order that is not the file's. */
static struct st_writer *small_writer(void)
{
    static const float b[2] = {1, 2};
    static const uint16_t a[3] = {1, 2, 3};
    static const int64_t two[] = {2, 1}, three[] = {3};
    struct st_writer *w;
    assert_int_equal(st_writer_open(&w), ERR_OK);
    assert_int_equal(st_writer_metadata(w, "key", "\"quoted\"\n\xc3\xa9"), ERR_OK);
    assert_int_equal(st_writer_add(w, "a", DT_BF16, 1, three, a), ERR_OK);
    assert_int_equal(st_writer_add(w, "b", DT_F32, 2, two, b), ERR_OK);
    assert_int_equal(st_writer_add(w, "c", DT_F32, 0, NULL, b), ERR_OK);
    return w;
}

static void check_small(const struct st_file *f)
{
    assert_int_equal(st_count(f), 3);
    assert_string_equal(st_at(f, 0)->name, "a");
    assert_string_equal(st_metadata(f, "key"), "\"quoted\"\n\xc3\xa9");
    assert_null(st_metadata(f, "other"));
    assert_null(st_find(f, "d"));
    const struct st_tensor *b = st_find(f, "b");
    assert_non_null(b);
    assert_int_equal(b->ndim, 2);
    assert_int_equal(b->shape[0], 2);
    assert_int_equal(b->bytes, 8);
    assert_int_equal((uintptr_t)b->data % 4, 0);
    assert_int_equal(st_elements(st_find(f, "c")), 1);
}

static void what_is_written_reads_back(void **state)
{
    (void)state;
    struct st_writer *w = small_writer();
    struct st_file *f;
    void *buf;
    size_t len;
    assert_int_equal(st_write_memory(w, &buf, &len), ERR_OK);
    assert_int_equal(st_parse(buf, len, &f), ERR_OK);
    check_small(f);
    st_close(f);

    char path[] = "/tmp/tv3s-st-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(st_write_file(w, path), ERR_OK);
    assert_int_equal(st_open(path, &f), ERR_OK);
    check_small(f);
    st_close(f);

    FILE *file = fopen(path, "rb"); /* the two ways give the same bytes */
    char *again = malloc(len + 1);
    assert_non_null(file);
    assert_non_null(again);
    assert_int_equal(fread(again, 1, len + 1, file), len);
    assert_memory_equal(again, buf, len);
    fclose(file);
    free(again);
    free(buf);
    st_writer_close(w);
    unlink(path);
}

static void the_writer_refuses_what_no_reader_takes(void **state)
{
    (void)state;
    struct st_writer *w = small_writer();
    static const int64_t minus[] = {-1};
    void *buf;
    size_t len;
    assert_int_equal(st_writer_add(w, "x", DT_F32, 1, minus, NULL), ERR_ARG);
    assert_int_equal(st_writer_add(w, "x", DT_F32, 9, minus, NULL), ERR_ARG);
    assert_int_equal(st_writer_add(w, "__metadata__", DT_F32, 0, NULL, ""), ERR_ARG);
    assert_int_equal(st_writer_metadata(w, "k", "\xff"), ERR_ARG);
    assert_int_equal(st_writer_add(w, "a", DT_U8, 0, NULL, ""), ERR_OK);
    assert_int_equal(st_write_memory(w, &buf, &len), ERR_EXISTS);
    st_writer_close(w);
}

static void files_that_cannot_be_opened_say_why(void **state)
{
    (void)state;
    struct st_file *f;
    assert_int_equal(st_open("/nonexistent/x", &f), ERR_NOT_FOUND);
    assert_non_null(strstr(err_text(), "/nonexistent/x"));
    assert_int_equal(st_open("/tmp", &f), ERR_IO);
    assert_int_equal(st_open("/dev/null", &f), ERR_IO);
    struct st_writer *w = small_writer();
    assert_int_equal(st_write_file(w, "/nonexistent/x"), ERR_IO);
    assert_int_equal(st_write_file(w, "/dev/full"), ERR_FULL);
    st_writer_close(w);
}

static void assembled_files_are_looked_up_by_name(void **state)
{
    (void)state;
    struct st_tensor t[3] = {{.name = "z"}, {.name = "a"}, {.name = "m"}};
    struct st_file *f;
    assert_int_equal(st_assemble(t, 3, &f), ERR_OK);
    assert_string_equal(st_at(f, 2)->name, "z");
    assert_non_null(st_find(f, "m"));
    assert_null(st_metadata(f, "any"));
    st_close(f);
    t[2].name = "a";
    assert_int_equal(st_assemble(t, 3, &f), ERR_FORMAT);
    assert_string_equal(err_text(), "two tensors are named 'a'");
    assert_int_equal(st_assemble(NULL, 0, &f), ERR_OK);
    assert_null(st_find(f, "a"));
    st_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_headers_parse),
        cmocka_unit_test(broken_headers_are_refused),
        cmocka_unit_test(header_lengths_are_checked),
        cmocka_unit_test(deep_json_is_refused),
        cmocka_unit_test(values_convert_at_any_alignment),
        cmocka_unit_test(what_is_not_finite_is_found),
        cmocka_unit_test(what_is_written_reads_back),
        cmocka_unit_test(the_writer_refuses_what_no_reader_takes),
        cmocka_unit_test(files_that_cannot_be_opened_say_why),
        cmocka_unit_test(assembled_files_are_looked_up_by_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
