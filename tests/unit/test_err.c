#include "base/err.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static void set_keeps_the_text_and_returns_the_code(void **state)
{
    (void)state;
    assert_int_equal(err_set(ERR_FORMAT, "tensor %d of %s", 3, "x"), ERR_FORMAT);
    assert_string_equal(err_text(), "tensor 3 of x");
}

static void context_goes_in_front(void **state)
{
    (void)state;
    err_set(ERR_IO, "no such file");
    assert_int_equal(err_context(ERR_IO, "%s", "model.bin"), ERR_IO);
    assert_string_equal(err_text(), "model.bin: no such file");
}

static void the_text_itself_may_be_an_argument(void **state)
{
    (void)state;
    err_set(ERR_IO, "inner");
    err_set(ERR_ARG, "outer (%s)", err_text());
    assert_string_equal(err_text(), "outer (inner)");
}

static void long_texts_are_cut(void **state)
{
    (void)state;
    char text[2000];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = 0;
    err_set(ERR_ARG, "%s", text);
    assert_int_equal(strlen(err_text()), 511);
    err_context(ERR_ARG, "%s", text);
    assert_int_equal(strlen(err_text()), 511);
}

static void a_message_is_one_line(void **state)
{
    (void)state;
    err_set(ERR_ARG, "two\nlines\x1b[31m");
    assert_string_equal(err_text(), "two?lines?[31m");
    err_context(ERR_ARG, "a\tb");
    assert_string_equal(err_text(), "a?b: two?lines?[31m");
}

static void *other_thread(void *arg)
{
    (void)arg;
    err_set(ERR_ARG, "other");
    return NULL;
}

static void threads_have_their_own_text(void **state)
{
    (void)state;
    pthread_t t;
    err_set(ERR_ARG, "mine");
    assert_int_equal(pthread_create(&t, NULL, other_thread, NULL), 0);
    pthread_join(t, NULL);
    assert_string_equal(err_text(), "mine");
}

static void every_code_has_type_title_and_status(void **state)
{
    (void)state;
#define CHECK(code, http, type, title)                                                             \
    assert_string_equal(err_type(code), type);                                                     \
    assert_string_equal(err_title(code), title);                                                   \
    assert_int_equal(err_http(code), http);
    ERR_TABLE(CHECK)
#undef CHECK
    assert_int_equal(err_http((enum err)12345), 500);
    assert_string_equal(err_type((enum err)12345), "internal");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(set_keeps_the_text_and_returns_the_code),
        cmocka_unit_test(context_goes_in_front),
        cmocka_unit_test(the_text_itself_may_be_an_argument),
        cmocka_unit_test(long_texts_are_cut),
        cmocka_unit_test(a_message_is_one_line),
        cmocka_unit_test(threads_have_their_own_text),
        cmocka_unit_test(every_code_has_type_title_and_status),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
