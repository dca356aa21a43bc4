/* server/http_headers.c: ranges, encodings, IDs, content types. */
#include "server/http_headers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { SIZE = 1000 };

static void expect(const char *text, enum range_kind kind, uint64_t first, uint64_t length)
{
    uint64_t f, l;
    if (range_parse(text, SIZE, &f, &l) != kind)
        fail_msg("%s: wrong kind", text);
    if (kind != RANGE_OUTSIDE && (f != first || l != length))
        fail_msg("%s: %llu+%llu", text, (unsigned long long)f, (unsigned long long)l);
}

static void a_range_is_a_part(void **state)
{
    (void)state;
    expect("bytes=0-0", RANGE_PART, 0, 1);
    expect("bytes=0-999", RANGE_PART, 0, 1000);
    expect("bytes=10-19", RANGE_PART, 10, 10);
    expect("bytes=990-", RANGE_PART, 990, 10);
    expect("bytes=990-5000", RANGE_PART, 990, 10);
    expect("bytes=-10", RANGE_PART, 990, 10);
    expect("bytes=-5000", RANGE_PART, 0, 1000);
    expect("BYTES= 5-6 ", RANGE_PART, 5, 2);
    expect("bytes=0-18446744073709551615", RANGE_PART, 0, 1000);
}

static void a_range_may_lie_outside(void **state)
{
    uint64_t f, l;
    (void)state;
    expect("bytes=1000-", RANGE_OUTSIDE, 0, 0);
    expect("bytes=1000-2000", RANGE_OUTSIDE, 0, 0);
    expect("bytes=-0", RANGE_OUTSIDE, 0, 0);
    assert_int_equal(range_parse("bytes=0-", 0, &f, &l), RANGE_OUTSIDE);
    assert_int_equal(range_parse("bytes=-1", 0, &f, &l), RANGE_OUTSIDE);
}

static void what_is_no_single_range_is_the_whole(void **state)
{
    static const char *const odd[] = {
        "",           "bytes",           "bytes=",        "bytes=-",
        "bytes=5-4",  "bytes=a-b",       "bytes=1-2,5-6", "bytes=0-1x",
        "lines=0-1",  "bytes=--5",       "bytes=+1-2",    "bytes=18446744073709551616-",
        "bytes 0-10", "bytes=0x10-0x20", "bytes=1 - 2",
    };
    (void)state;
    expect(NULL, RANGE_WHOLE, 0, SIZE);
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
        expect(odd[i], RANGE_WHOLE, 0, SIZE);
}

static void gzip_is_accepted_or_not(void **state)
{
    (void)state;
    assert_true(accepts_gzip("gzip"));
    assert_true(accepts_gzip("br, GZIP;q=0.5"));
    assert_true(accepts_gzip("deflate,gzip , br"));
    assert_true(accepts_gzip("*"));
    assert_true(accepts_gzip("gzip; q=1.0"));
    assert_false(accepts_gzip(NULL));
    assert_false(accepts_gzip(""));
    assert_false(accepts_gzip("identity"));
    assert_false(accepts_gzip("gzip;q=0"));
    assert_false(accepts_gzip("br, gzip; q=0.000, deflate"));
    assert_false(accepts_gzip("gzipped, notgzip"));
    assert_true(accepts_gzip("gzip;q=0.01"));
}

static void weights_of_encodings_count(void **state)
{
    static const char *const yes[] = {
        "gzip;q=1",         "gzip;q=1.000",      "gzip ; q=0.001",
        "*;q=0, gzip",      "gzip, *;q=0",       "x-gzip",
        "gzip;Q=0.5",       "identity;q=0.5, *", "identity;q=0, gzip;q=0.1",
        "gzip;q=0, x-gzip", "identity, gzip",    "br;q=1, gzip;q=0.2",
        ", ,gzip",          "gzip;q=1.",         "identity;q=0.5, gzip;q=0.5",
    };
    static const char *const no[] = {
        "gzip;q=0.",      "*;q=0",
        "gzip;q=0, *",    "identity;q=1, gzip;q=0.5",
        "gzip;q=1.5",     "gzip;q=1.001",
        "gzip;q=2",       "gzip;q=-1",
        "gzip;q=",        "gzip;q",
        "gzip;",          "gzip;q=0.5x",
        "gzip;q=0.0001",  "gzip;level=9",
        "gzip q=1",       "identity, gzip;q=0.999",
        "gzip;q=0.5;q=1", "*;q=0.4, identity;q=0.5",
    };
    (void)state;
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++)
        if (!accepts_gzip(yes[i]))
            fail_msg("%s: refused", yes[i]);
    for (size_t i = 0; i < sizeof no / sizeof *no; i++)
        if (accepts_gzip(no[i]))
            fail_msg("%s: taken", no[i]);
}

static void targets_hide_no_zero_and_no_slash(void **state)
{
    (void)state;
    assert_null(target_fault("/v1/streams/a%20b?x=%2F"));
    assert_null(target_fault("/v1/streams/a%2"));
    assert_null(target_fault("%"));
    assert_null(target_fault(""));
    assert_non_null(target_fault("/v1/streams/a%2Fb"));
    assert_non_null(target_fault("/v1/%41/a%2fb?x=1"));
    assert_non_null(target_fault("/v1/streams/a%00"));
    assert_non_null(target_fault("/v1/streams?x=%00"));
}

static void request_ids_are_short_and_plain(void **state)
{
    char text[66];
    (void)state;
    memset(text, 'a', sizeof text);
    text[65] = 0;
    assert_false(request_id_valid(text));
    text[64] = 0;
    assert_true(request_id_valid(text));
    assert_true(request_id_valid("7f-3A._"));
    assert_false(request_id_valid(""));
    assert_false(request_id_valid("a b"));
    assert_false(request_id_valid("a\nb"));
    assert_false(request_id_valid("a\"b"));
}

static void keys_are_visible_ascii(void **state)
{
    char text[257];
    (void)state;
    memset(text, '~', sizeof text);
    text[256] = 0;
    assert_false(key_valid(text));
    text[255] = 0;
    assert_true(key_valid(text));
    assert_true(key_valid("\"8e03978e-40d5\""));
    assert_false(key_valid(""));
    assert_false(key_valid("a b"));
    assert_false(key_valid("a\x7f"));
    assert_false(key_valid("\xc3\xa4"));
}

static void forms_are_told_from_bodies(void **state)
{
    (void)state;
    assert_int_equal(content_kind(NULL), CONTENT_RAW);
    assert_int_equal(content_kind("video/mp4"), CONTENT_RAW);
    assert_int_equal(content_kind("multipart/form-data; boundary=x"), CONTENT_FORM);
    assert_int_equal(content_kind(" Multipart/Form-Data;boundary=x"), CONTENT_FORM);
    assert_int_equal(content_kind("multipart/mixed"), CONTENT_REFUSED);
    assert_int_equal(content_kind("multipart/form-datax"), CONTENT_REFUSED);
    assert_int_equal(content_kind("application/x-www-form-urlencoded"), CONTENT_REFUSED);
    assert_int_equal(content_kind("application/x-www-form-urlencoded; charset=utf-8"),
                     CONTENT_REFUSED);
}

static void numbers_are_digits_in_range(void **state)
{
    uint64_t n = 0;
    (void)state;
    assert_true(number_parse("0", &n) && n == 0);
    assert_true(number_parse("18446744073709551615", &n) && n == UINT64_MAX);
    assert_false(number_parse("18446744073709551616", &n));
    assert_false(number_parse("", &n));
    assert_false(number_parse("-1", &n));
    assert_false(number_parse("1 ", &n));
    assert_false(number_parse("0x1", &n));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_range_is_a_part),
        cmocka_unit_test(a_range_may_lie_outside),
        cmocka_unit_test(what_is_no_single_range_is_the_whole),
        cmocka_unit_test(gzip_is_accepted_or_not),
        cmocka_unit_test(weights_of_encodings_count),
        cmocka_unit_test(targets_hide_no_zero_and_no_slash),
        cmocka_unit_test(request_ids_are_short_and_plain),
        cmocka_unit_test(keys_are_visible_ascii),
        cmocka_unit_test(forms_are_told_from_bodies),
        cmocka_unit_test(numbers_are_digits_in_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
