#include "server/metrics.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static char *text_of(struct metrics *m)
{
    struct buf out = {0};
    assert_int_equal(metrics_write(m, &out), ERR_OK);
    assert_int_equal(buf_append(&out, "", 1), ERR_OK);
    return (char *)out.data;
}

static void has(const char *text, const char *line)
{
    if (!strstr(text, line))
        fail_msg("no '%s'", line);
}

static void values_are_written(void **state)
{
    (void)state;
    struct metrics *m;
    assert_int_equal(metrics_open(&m), ERR_OK);
    metric_add(m, METRIC_FRAMES_LIVE_OK, 3);
    metric_set(m, METRIC_ENGINE_GFLOPS, 12.5);
    metric_add(m, METRIC_QUEUE_ENGINE, 2);
    metric_add(m, METRIC_QUEUE_ENGINE, -1);
    char *text = text_of(m);
    has(text, "tv3sd_frames_total{kind=\"live\",outcome=\"ok\"} 3\n");
    has(text, "tv3sd_engine_gflops 12.5\n");
    has(text, "tv3sd_queue_depth{stage=\"engine\"} 1\n");
    assert_true(metric_get(m, METRIC_FRAMES_LIVE_OK) == 3);
    free(text);
    metrics_close(m);
}

static void histograms_are_cumulative(void **state)
{
    (void)state;
    struct metrics *m;
    assert_int_equal(metrics_open(&m), ERR_OK);
    metric_observe(m, METRIC_SECONDS_DECODE, 0.001); /* a bound belongs to its own bucket */
    metric_observe(m, METRIC_SECONDS_DECODE, 0.3);
    metric_observe(m, METRIC_SECONDS_DECODE, 100);
    char *text = text_of(m);
    has(text, "tv3sd_stage_seconds_bucket{stage=\"decode\",le=\"0.0005\"} 0\n");
    has(text, "tv3sd_stage_seconds_bucket{stage=\"decode\",le=\"0.001\"} 1\n");
    has(text, "tv3sd_stage_seconds_bucket{stage=\"decode\",le=\"0.5\"} 2\n");
    has(text, "tv3sd_stage_seconds_bucket{stage=\"decode\",le=\"8\"} 2\n");
    has(text, "tv3sd_stage_seconds_bucket{stage=\"decode\",le=\"+Inf\"} 3\n");
    has(text, "tv3sd_stage_seconds_count{stage=\"decode\"} 3\n");
    has(text, "tv3sd_stage_seconds_sum{stage=\"decode\"} 100.301\n");
    assert_true(metric_get(m, METRIC_SECONDS_DECODE) == 3);
    free(text);
    metrics_close(m);
}

/* Prometheus refuses a page where a name's lines do not stand together under one head. */
static void each_name_has_one_head(void **state)
{
    (void)state;
    struct metrics *m;
    char seen[64][64];
    int count = 0;
    assert_int_equal(metrics_open(&m), ERR_OK);
    char *text = text_of(m), *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
        char name[64];
        if (sscanf(line, "# HELP %63s", name) == 1) {
            for (int i = 0; i < count; i++)
                assert_string_not_equal(seen[i], name);
            assert_true(strlen(line) > strlen("# HELP ") + strlen(name) + 1); /* says something */
            strcpy(seen[count++], name);
        } else if (line[0] != '#') {
            assert_int_equal(strncmp(line, seen[count - 1], strlen(seen[count - 1])), 0);
        }
    }
    assert_true(count > 10);
    free(text);
    metrics_close(m);
}

enum { THREADS = 4, TIMES = 5000 };

static void *count_up(void *m)
{
    for (int i = 0; i < TIMES; i++) {
        metric_add(m, METRIC_BATCHES, 1);
        metric_observe(m, METRIC_SECONDS_SEND, 0.5);
    }
    return NULL;
}

static void nothing_is_lost_between_threads(void **state)
{
    (void)state;
    struct metrics *m;
    pthread_t t[THREADS];
    assert_int_equal(metrics_open(&m), ERR_OK);
    for (int i = 0; i < THREADS; i++)
        pthread_create(&t[i], NULL, count_up, m);
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    assert_true(metric_get(m, METRIC_BATCHES) == THREADS * TIMES);
    assert_true(metric_get(m, METRIC_SECONDS_SEND) == THREADS * TIMES);
    metrics_close(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_written),
        cmocka_unit_test(histograms_are_cumulative),
        cmocka_unit_test(each_name_has_one_head),
        cmocka_unit_test(nothing_is_lost_between_threads),
    };
    return cmocka_run_group_tests_name("server metrics", tests, NULL, NULL);
}
