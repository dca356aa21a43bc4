#include "base/nearest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char *const names[] = {"http_port", "ws_port",    "listen",    "gzip",
                                    "drop",      "max_upload", "max_pixels"};

static const char *meant(const char *typed)
{
    struct nearest n = nearest_to(typed);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        nearest_offer(&n, names[i]);
    return nearest_name(&n);
}

static void a_few_letters_amiss_are_forgiven(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {{"http_prot", "http_port"},
                                           {"htpt_prot", "http_port"},
                                           {"http-port", "http_port"},
                                           {"HttpPort", "http_port"},
                                           {"httpport", "http_port"},
                                           {"liste", "listen"},
                                           {"listens", "listen"},
                                           {"glip", "gzip"},
                                           {"max_uploads", "max_upload"},
                                           {"max_pixel", "max_pixels"},
                                           {"gzip", "gzip"}};
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (!meant(pairs[i][0]) || strcmp(meant(pairs[i][0]), pairs[i][1]) != 0)
            fail_msg("'%s' is taken for %s", pairs[i][0], meant(pairs[i][0]));
}

static void what_is_far_from_all_or_between_two_is_nobody_s(void **state)
{
    (void)state;
    static const char *const far[] = {"",       "p",    "zipg",     "port",
                                      "colour", "max_", "htt_prt_", "http"};
    for (size_t i = 0; i < sizeof far / sizeof *far; i++)
        if (meant(far[i]))
            fail_msg("'%s' is taken for %s", far[i], meant(far[i]));
    struct nearest n = nearest_to("tls_kay");
    nearest_offer(&n, "tls_bay");
    nearest_offer(&n, "tls_key");
    assert_null(nearest_name(&n));
    nearest_offer(&n, "tls_kay");
    assert_string_equal(nearest_name(&n), "tls_kay");
}

static void names_of_any_length_are_safe(void **state)
{
    (void)state;
    char text[300];
    for (size_t n = 0; n < sizeof text; n++) {
        memset(text, 'x', n);
        text[n] = '\0';
        struct nearest a = nearest_to(text);
        nearest_offer(&a, text);
        if (n <= 64)
            assert_ptr_equal(nearest_name(&a), text);
        else
            assert_null(nearest_name(&a));
        assert_null(meant(text));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_few_letters_amiss_are_forgiven),
        cmocka_unit_test(what_is_far_from_all_or_between_two_is_nobody_s),
        cmocka_unit_test(names_of_any_length_are_safe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
