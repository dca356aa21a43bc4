#include "server/config.h"
#include "server/config_table.h"
#include "server/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

/* Arguments after the program's name, NULL at the end. */
static enum err load(struct config *c, char **args)
{
    static char *argv[16];
    enum config_action action;
    int argc = 1;
    argv[0] = "tv3sd";
    for (; args && args[argc - 1]; argc++)
        argv[argc] = args[argc - 1];
    *c = (struct config){0};
    return config_load(c, argc, argv, &action);
}
#define LOAD(c, ...) load(c, (char *[]){__VA_ARGS__, NULL})

static void write_file(char path[32], const char *text)
{
    strcpy(path, "/tmp/tv3sd-config-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static void refused(char **args, const char *why)
{
    struct config c;
    assert_int_equal(load(&c, args), ERR_ARG);
    if (!strstr(err_text(), why))
        fail_msg("'%s' does not say '%s'", err_text(), why);
    config_free(&c);
}
#define REFUSED(why, ...) refused((char *[]){__VA_ARGS__, NULL}, why)

static char *read_all(FILE *f)
{
    size_t n = 0, cap = 1 << 16;
    char *text = malloc(cap);
    rewind(f);
    n = fread(text, 1, cap - 1, f);
    text[n] = '\0';
    fclose(f);
    return text;
}

static void defaults_are_the_tables(void **state)
{
    (void)state;
    struct config c;
    assert_int_equal(load(&c, NULL), ERR_OK);
    assert_int_equal(c.http_port, 8080);
    assert_int_equal(c.models.count, 1);
    assert_string_equal(c.listen, "127.0.0.1");
    assert_true(c.max_upload == 4294967296);
    assert_true(c.batch_delay == 0.005);
    assert_true(c.gzip && !c.deflate);
    assert_int_equal(c.cors_origins.count, 0);
    config_free(&c);
}

static void every_default_is_within_its_range(void **state)
{
    (void)state;
    struct config c = {0};
    for (int i = 0; i < settings_count; i++)
        if (setting_set(&c, &settings[i], settings[i].value))
            fail_msg("%s: %s", settings[i].name, err_text());
    config_free(&c);
}

static void flags_go_over_environment_over_file(void **state)
{
    (void)state;
    struct config c;
    char path[32];
    write_file(path, "{\"batch_max\": 3, \"workers\": 3, \"queue_max\": 3, \"//note\": 1}");
    setenv("TV3SD_WORKERS", "4", 1);
    setenv("TV3SD_QUEUE_MAX", "4", 1);
    assert_int_equal(LOAD(&c, "--queue-max", "5", "--config", path), ERR_OK);
    assert_int_equal(c.batch_max, 3);
    assert_int_equal(c.workers, 4);
    assert_int_equal(c.queue_max, 5);
    assert_string_equal(c.file, path);
    unsetenv("TV3SD_WORKERS");
    unsetenv("TV3SD_QUEUE_MAX");
    config_free(&c);
    unlink(path);
}

static void the_environment_names_the_file_too(void **state)
{
    (void)state;
    struct config c;
    char path[32];
    write_file(path, "{\"batch_max\": 3}");
    setenv("TV3SD_CONFIG", path, 1);
    assert_int_equal(load(&c, NULL), ERR_OK);
    assert_int_equal(c.batch_max, 3);
    unsetenv("TV3SD_CONFIG");
    config_free(&c);
    unlink(path);
}

static void what_kubernetes_sets_is_no_setting(void **state)
{
    (void)state;
    struct config c;
    setenv("TV3SD_PORT_8080_TCP_ADDR", "10.0.0.1", 1);
    setenv("TV3SD_SERVICE_HOST", "10.0.0.1", 1);
    assert_int_equal(load(&c, NULL), ERR_OK);
    unsetenv("TV3SD_PORT_8080_TCP_ADDR");
    unsetenv("TV3SD_SERVICE_HOST");
    config_free(&c);
}

static void values_have_forms_for_people(void **state)
{
    (void)state;
    struct config c;
    assert_int_equal(LOAD(&c, "--max-upload=64M", "--max-image", "1.5K", "--cors-origins",
                          " http://a , http://b,", "--deflate", "--gzip=no"),
                     ERR_OK);
    assert_true(c.max_upload == 64u << 20);
    assert_true(c.max_image == 1536);
    assert_int_equal(c.cors_origins.count, 2);
    assert_string_equal(c.cors_origins.item[0], "http://a");
    assert_string_equal(c.cors_origins.item[1], "http://b");
    assert_true(c.deflate && !c.gzip);
    config_free(&c);
}

static void model_may_be_repeated(void **state)
{
    (void)state;
    struct config c;
    assert_int_equal(LOAD(&c, "--model", "a=x", "--model", "y"), ERR_OK);
    assert_int_equal(c.models.count, 2);
    assert_string_equal(c.models.item[1], "y");
    config_free(&c);
}

static void errors_name_the_setting_and_where_it_came_from(void **state)
{
    (void)state;
    char path[32];
    REFUSED("--batch-max: 65", "--batch-max", "65");
    REFUSED("--batch_max: 65", "--batch_max=65");
    REFUSED("1 to 64", "--batch-max", "0");
    REFUSED("--batch-maximum: there is no such setting", "--batch-maximum", "3");
    REFUSED("--ws-port wants a value", "--ws-port");
    REFUSED("whole number", "--batch-max", "1.5");
    REFUSED("not a number", "--batch-max", "-1");
    REFUSED("not a number", "--batch-delay", "0x1p-3");
    REFUSED("not a number", "--batch-delay", "nan");
    REFUSED("not a number", "--max-upload", "4Q");
    REFUSED("neither true nor false", "--gzip=perhaps");
    REFUSED("--name value", "batch_max=3");
    REFUSED("wants a file", "--config");
    REFUSED("/nowhere/at.all", "--config", "/nowhere/at.all");
    setenv("TV3SD_BATCHES", "1", 1);
    refused(NULL, "environment TV3SD_BATCHES");
    unsetenv("TV3SD_BATCHES");
    static const char *const files[][2] = {{"{\"batches\": 3}", "\"batches\""},
                                           {"{\"batch_max\": \"3\"}", "\"batch_max\": a number"},
                                           {"{\"batch_max\": 3, \"batch_max\": 4}", "duplicate"},
                                           {"{\"gzip\": 1}", "\"gzip\": true or false"},
                                           {"{\"models\": [1]}", "array of strings"},
                                           {"{\"models\": \"a\"}", "array of strings"},
                                           {"{\"listen\": 1}", "a string"},
                                           {"[]", "object"},
                                           {"{\n\"listen\" 1}", "line 2"}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        write_file(path, files[i][0]);
        REFUSED(files[i][1], "--config", path);
        unlink(path);
    }
}

static void a_name_that_is_none_is_guessed(void **state)
{
    (void)state;
    static const char *const flags[][2] = {
        {"--htpp-port", "--htpp-port: there is no such setting; did you mean --http-port?"},
        {"--http_prot=1", "did you mean --http-port?"},
        {"--dump-confg", "did you mean --dump-config?"},
        {"--modle", "did you mean --model?"},
        {"--confi", "did you mean --config?"},
        {"--colour", "--colour: there is no such setting; see --help"}};
    char path[32];
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        REFUSED(flags[i][1], (char *)flags[i][0]);
    setenv("TV3SD_HTTPPORT", "1", 1);
    refused(NULL, "environment TV3SD_HTTPPORT: there is no such setting; "
                  "did you mean TV3SD_HTTP_PORT?");
    unsetenv("TV3SD_HTTPPORT");
    write_file(path, "{\"http-port\": 3}");
    REFUSED("there is no setting \"http-port\"; did you mean \"http_port\"?", "--config", path);
    unlink(path);
}

static void a_dump_read_back_is_the_same(void **state)
{
    (void)state;
    struct config a, b;
    char path[] = "/tmp/tv3sd-dump-XXXXXX";
    int fd = mkstemp(path);
    assert_int_equal(LOAD(&a, "--batch-delay", "0.25", "--max-pixels=5M", "--isa", "avx2"), ERR_OK);
    FILE *f = fdopen(fd, "w+");
    assert_int_equal(config_dump(&a, f), ERR_OK);
    char *one = read_all(f);
    assert_int_equal(LOAD(&b, "--config", path), ERR_OK);
    f = tmpfile();
    assert_int_equal(config_dump(&b, f), ERR_OK);
    char *two = read_all(f);
    assert_string_equal(one, two);
    free(one);
    free(two);
    config_free(&a);
    config_free(&b);
    unlink(path);
}

/* To write it again: build/tv3sd --sample-config > config/tv3sd.json */
static void the_sample_file_is_the_table(void **state)
{
    (void)state;
    FILE *f = fopen("config/tv3sd.json", "r"), *want = tmpfile();
    if (!f)
        fail_msg("run this test where config/tv3sd.json is");
    assert_int_equal(config_sample(want), ERR_OK);
    char *a = read_all(f), *b = read_all(want);
    assert_string_equal(a, b);
    free(a);
    free(b);
}

static void help_names_every_setting(void **state)
{
    (void)state;
    FILE *f = tmpfile();
    config_help(f);
    char *text = read_all(f);
    for (int i = 0; i < settings_count; i++)
        assert_non_null(strstr(text, settings[i].help));
    free(text);
}

static void reload_takes_over_what_can_be(void **state)
{
    (void)state;
    struct config c;
    char path[32], *ignored;
    write_file(path, "{\"batch_max\": 3, \"workers\": 3, \"stream_linger\": 9}");
    assert_int_equal(LOAD(&c, "--config", path, "--stream-linger", "7"), ERR_OK);
    FILE *f = fopen(path, "w");
    fputs("{\"batch_max\": 5, \"workers\": 5, \"stream_linger\": 11, \"log_level\": \"debug\"}", f);
    fclose(f);
    assert_int_equal(config_reload(&c, &ignored), ERR_OK);
    assert_int_equal(c.batch_max, 5);
    assert_int_equal(c.workers, 3);
    assert_true(c.stream_linger == 7); /* the flag still goes over the file */
    assert_string_equal(c.log_level, "debug");
    assert_string_equal(ignored, "workers");
    free(ignored);
    f = fopen(path, "w");
    fputs("{\"batch_max\": 6, \"queue_max\": 0}", f);
    fclose(f);
    assert_int_equal(config_reload(&c, &ignored), ERR_ARG);
    assert_int_equal(c.batch_max, 5);
    assert_null(ignored);
    config_free(&c);
    unlink(path);
}

static void log_values_are_quoted(void **state)
{
    (void)state;
    enum log_level level;
    char line[2000];
    assert_string_equal(log_text("a \"b\"\n"), "\"a \\\"b\\\"?\"");
    memset(line, '"', sizeof line - 1);
    line[sizeof line - 1] = '\0';
    assert_true(strlen(log_text(line)) < 512);
    assert_int_equal(log_level_parse("warning", &level), ERR_OK);
    assert_int_equal(level, LOG_WARNING);
    assert_int_equal(log_level_parse("loud", &level), ERR_ARG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_the_tables),
        cmocka_unit_test(every_default_is_within_its_range),
        cmocka_unit_test(flags_go_over_environment_over_file),
        cmocka_unit_test(the_environment_names_the_file_too),
        cmocka_unit_test(what_kubernetes_sets_is_no_setting),
        cmocka_unit_test(values_have_forms_for_people),
        cmocka_unit_test(model_may_be_repeated),
        cmocka_unit_test(errors_name_the_setting_and_where_it_came_from),
        cmocka_unit_test(a_name_that_is_none_is_guessed),
        cmocka_unit_test(a_dump_read_back_is_the_same),
        cmocka_unit_test(the_sample_file_is_the_table),
        cmocka_unit_test(help_names_every_setting),
        cmocka_unit_test(reload_takes_over_what_can_be),
        cmocka_unit_test(log_values_are_quoted),
    };
    return cmocka_run_group_tests_name("server config", tests, NULL, NULL);
}
