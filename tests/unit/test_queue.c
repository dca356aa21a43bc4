#include "base/queue.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <unistd.h>
#include <cmocka.h>

static void items_come_out_in_order(void **state)
{
    (void)state;
    struct queue *q;
    void *item;
    int v[5];
    assert_int_equal(queue_open(3, &q), ERR_OK);
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 3; i++)
            assert_int_equal(queue_put(q, &v[i]), ERR_OK);
        for (int i = 0; i < 3; i++) {
            assert_int_equal(queue_get(q, &item), ERR_OK);
            assert_ptr_equal(item, &v[i]);
        }
        assert_int_equal(queue_put(q, &v[4]), ERR_OK); /* moves the head on */
        assert_int_equal(queue_get(q, &item), ERR_OK);
    }
    queue_close(q);
}

static void a_finished_queue_is_drained_then_gives_null(void **state)
{
    (void)state;
    struct queue *q;
    void *item;
    int v;
    assert_int_equal(queue_open(2, &q), ERR_OK);
    assert_int_equal(queue_put(q, &v), ERR_OK);
    queue_finish(q);
    assert_int_equal(queue_put(q, &v), ERR_CANCELLED);
    assert_int_equal(queue_get(q, &item), ERR_OK);
    assert_ptr_equal(item, &v);
    assert_int_equal(queue_get(q, &item), ERR_OK);
    assert_null(item);
    queue_close(q);
}

static void a_stopped_queue_gives_items_to_drain_only(void **state)
{
    (void)state;
    struct queue *q;
    void *item;
    int v;
    assert_int_equal(queue_open(2, &q), ERR_OK);
    assert_int_equal(queue_put(q, &v), ERR_OK);
    queue_stop(q);
    assert_int_equal(queue_get(q, &item), ERR_CANCELLED);
    assert_ptr_equal(queue_drain(q), &v);
    assert_null(queue_drain(q));
    queue_close(q);
}

static void *wait_for_item(void *q)
{
    void *item;
    return (void *)(uintptr_t)queue_get(q, &item);
}

static void *wait_for_room(void *q)
{
    return (void *)(uintptr_t)queue_put(q, q);
}

static void stop_wakes_who_waits(void **state)
{
    (void)state;
    struct queue *empty, *full;
    pthread_t a, b;
    void *ra, *rb;
    int v;
    assert_int_equal(queue_open(1, &empty), ERR_OK);
    assert_int_equal(queue_open(1, &full), ERR_OK);
    assert_int_equal(queue_put(full, &v), ERR_OK);
    pthread_create(&a, NULL, wait_for_item, empty);
    pthread_create(&b, NULL, wait_for_room, full);
    usleep(20000);
    queue_stop(empty);
    queue_stop(full);
    pthread_join(a, &ra);
    pthread_join(b, &rb);
    assert_int_equal((uintptr_t)ra, ERR_CANCELLED);
    assert_int_equal((uintptr_t)rb, ERR_CANCELLED);
    queue_close(empty);
    queue_close(full);
}

enum { ITEMS = 20000, PRODUCERS = 3 };

static void *produce(void *q)
{
    for (uintptr_t i = 1; i <= ITEMS; i++)
        if (queue_put(q, (void *)i))
            return NULL;
    return q;
}

static void nothing_is_lost_or_doubled_between_threads(void **state)
{
    (void)state;
    struct queue *q;
    pthread_t t[PRODUCERS];
    uint64_t sum = 0;
    void *item;
    assert_int_equal(queue_open(4, &q), ERR_OK);
    for (int i = 0; i < PRODUCERS; i++)
        pthread_create(&t[i], NULL, produce, q);
    for (int i = 0; i < PRODUCERS * ITEMS; i++) {
        assert_int_equal(queue_get(q, &item), ERR_OK);
        sum += (uintptr_t)item;
    }
    for (int i = 0; i < PRODUCERS; i++)
        pthread_join(t[i], NULL);
    assert_true(sum == (uint64_t)PRODUCERS * ITEMS * (ITEMS + 1) / 2);
    assert_int_equal(queue_count(q), 0);
    queue_close(q);
}

static void a_queue_has_room_for_something(void **state)
{
    (void)state;
    struct queue *q;
    assert_int_equal(queue_open(0, &q), ERR_ARG);
    assert_null(q);
    queue_close(q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(items_come_out_in_order),
        cmocka_unit_test(a_finished_queue_is_drained_then_gives_null),
        cmocka_unit_test(a_stopped_queue_gives_items_to_drain_only),
        cmocka_unit_test(stop_wakes_who_waits),
        cmocka_unit_test(nothing_is_lost_or_doubled_between_threads),
        cmocka_unit_test(a_queue_has_room_for_something),
    };
    return cmocka_run_group_tests_name("queue", tests, NULL, NULL);
}
