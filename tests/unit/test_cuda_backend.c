/* The CUDA backend without an engine, on the stand-in: which devices it opens on, and the memory
 * that a batch's tables go up through, which grows as they do. */
#include "kernels/backend.h"
#include "kernels/cuda/cuda.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static enum err open_it(struct backend **out)
{
    return cuda_backend_open(0, DT_F32, false, out);
}

static struct backend *backend(void)
{
    struct backend *be;
    if (open_it(&be) != ERR_OK)
        fail_msg("%s", err_text());
    return be;
}

/* ---- opening ----------------------------------------------------------------------------------
 */

static void assert_refused(int device, enum dtype dtype, bool tf32, const char *what)
{
    struct backend *be = (struct backend *)&be;
    assert_int_equal(cuda_backend_open(device, dtype, tf32, &be), ERR_UNSUPPORTED);
    assert_null(be);
    if (!strstr(err_text(), what))
        fail_msg("\"%s\" does not say \"%s\"", err_text(), what);
}

static void devices_that_do_not_serve_are_named(void **state)
{
    (void)state;
    assert_int_equal(cuda_backend_devices(), 1);
    assert_refused(0, DT_F16, false, "f32, tf32 and bf16 only");
    assert_refused(0, DT_BF16, true, "f32, tf32 and bf16 only");
    assert_refused(1, DT_F32, false, "no device cuda:1: this machine has 1");
    assert_refused(-1, DT_F32, false, "no device cuda:-1");
    cuda_host_major = 7;
    assert_refused(0, DT_F32, false, "of compute capability 7.0; 8.0 is the least");
    cuda_host_major = 8;
    cuda_host_devices = 0;
    assert_refused(0, DT_F32, false, "no CUDA device");
    assert_int_equal(cuda_backend_devices(), 0);
    cuda_host_devices = 1;
}

static void a_call_that_fails_opens_nothing(void **state)
{
    (void)state;
    static const struct {
        cudaError_t how;
        enum err want[2];
    } way[] = {{cudaErrorUnknown, {ERR_DEVICE, ERR_DEVICE}},
               {cudaErrorMemoryAllocation, {ERR_DEVICE, ERR_NOMEM}}}; /* of an object, of memory */
    size_t memory = cuda_host_memory;
    for (size_t i = 0; i < sizeof way / sizeof *way; i++) {
        struct backend *be;
        enum err e = ERR_DEVICE;
        size_t failures = 0;
        cuda_host_fail_with = way[i].how;
        while (e != ERR_OK) {
            cuda_host_fail_at = cuda_host_calls + failures + 1;
            e = open_it(&be);
            assert_int_equal(e == ERR_OK, cuda_host_calls < cuda_host_fail_at);
            if (e != ERR_OK) {
                failures++;
                assert_null(be);
                assert_true(e == way[i].want[0] || e == way[i].want[1]);
                assert_int_equal(cuda_host_memory, memory);
            }
        }
        cuda_host_fail_at = 0;
        assert_int_equal(failures, 3 + 2 + CUDA_DEPTH + 1); /* streams, events, the workspace */
        be->ops->close(be);
        assert_int_equal(cuda_host_memory, memory);
    }
}

/* ---- a batch's memory -------------------------------------------------------------------------
 */

/* Tables of 3 MB, of which block after block is wanted, each copied to where it is looked at. */
struct tables {
    struct backend *be;
    int count;
    void *copy[8];
};

enum { MB = 1 << 20, TABLE = 3 * MB };

static enum err walk_tables(void *arg)
{
    struct tables *t = arg;
    enum err e = ERR_OK;
    for (int i = 0; e == ERR_OK && i < t->count; i++) {
        void *host;
        const void *there;
        e = t->be->ops->stage(t->be, TABLE, &host);
        if (e != ERR_OK)
            break;
        memset(host, 1 + i, TABLE);
        e = t->be->ops->staged(t->be, host, TABLE, &there);
        t->be->ops->copy(t->be, t->copy[i], there, TABLE);
    }
    return e;
}

static struct tables tables(struct backend *be, int count)
{
    struct tables t = {.be = be, .count = count};
    for (int i = 0; i < count; i++)
        assert_int_equal(be->ops->alloc(be, TABLE, &t.copy[i]), ERR_OK);
    return t;
}

static void assert_copied(const struct tables *t)
{
    uint8_t *got = malloc(TABLE), *want = malloc(TABLE);
    for (int i = 0; i < t->count; i++) {
        memset(want, 1 + i, TABLE);
        assert_int_equal(t->be->ops->download(t->be, got, t->copy[i], TABLE), ERR_OK);
        assert_memory_equal(got, want, TABLE);
        t->be->ops->zero(t->be, t->copy[i], TABLE);
    }
    free(got);
    free(want);
}

static void tables_close(struct tables *t)
{
    for (int i = 0; i < t->count; i++)
        t->be->ops->free(t->be, t->copy[i]);
    t->be->ops->close(t->be);
}

static void memory_grows_to_one_block_and_stays(void **state)
{
    (void)state;
    struct tables t = tables(backend(), 8);
    const struct cuda_stage *stage = &cuda_of(t.be)->flight[0].in;
    size_t allocations = 0;
    for (int i = 0; i < 3; i++) {
        if (i == 1)
            allocations = cuda_host_allocations;
        assert_int_equal(t.be->ops->start(t.be, walk_tables, &t), ERR_OK);
        assert_int_equal(stage->blocks, 1);
        assert_int_equal(t.be->ops->finish(t.be), ERR_OK);
        assert_copied(&t);
    }
    assert_int_equal(cuda_host_allocations, allocations);
    tables_close(&t);
}

static void memory_that_is_not_there_costs_the_batch(void **state)
{
    (void)state;
    size_t memory = cuda_host_memory, failures = 0;
    for (;; failures++) {
        struct tables t = tables(backend(), 3);
        cuda_host_fail_with = cudaErrorMemoryAllocation;
        cuda_host_fail_at = cuda_host_calls + failures + 1;
        enum err e = t.be->ops->start(t.be, walk_tables, &t);
        bool all = cuda_host_calls < cuda_host_fail_at;
        cuda_host_fail_at = 0;
        if (!all && e == ERR_NOMEM) { /* again, when there is some */
            assert_true(strstr(err_text(), "memory") || strstr(err_text(), "has no room"));
            e = t.be->ops->start(t.be, walk_tables, &t);
            assert_int_equal(e, ERR_OK);
        }
        if (e == ERR_OK) {
            assert_int_equal(t.be->ops->finish(t.be), ERR_OK);
            assert_copied(&t);
        } else {
            assert_int_equal(e, ERR_DEVICE); /* a copy, or an event */
            assert_int_equal(t.be->ops->start(t.be, walk_tables, &t), ERR_DEVICE);
        }
        tables_close(&t);
        assert_int_equal(cuda_host_memory, memory);
        if (all)
            break;
    }
    assert_true(failures > 6);
}

static void tables_are_a_batchs(void **state)
{
    (void)state;
    struct backend *be = backend();
    void *host;
    assert_int_equal(be->ops->stage(be, 100, &host), ERR_INTERNAL);
    be->ops->close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(devices_that_do_not_serve_are_named),
        cmocka_unit_test(a_call_that_fails_opens_nothing),
        cmocka_unit_test(memory_grows_to_one_block_and_stays),
        cmocka_unit_test(memory_that_is_not_there_costs_the_batch),
        cmocka_unit_test(tables_are_a_batchs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
