/* The stand-in for CUDA's execution model (tests/cuda_host) does what a kernel test relies on:
 * results as on a card where the kernel is right, and a failure or another result where it is not.
 */
#include "tests/cuda_host/semantics.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* Runs the statement in both orders of threads. */
#define BOTH_ORDERS for (int order = 0; order < 2 && (cuda_host_reverse = order, 1); order++)

static void threads_of_a_grid_have_their_indices(void **state)
{
    (void)state;
    unsigned long out[12 * 24];
    BOTH_ORDERS
    {
        memset(out, 0xff, sizeof out);
        assert_int_equal(sem_indices(out), cudaSuccess);
        for (unsigned b = 0; b < 12; b++)
            for (unsigned t = 0; t < 24; t++)
                assert_int_equal(out[b * 24 + t], t % 4 + 100ul * (b % 2) + 10000ul * (t / 4 % 2) +
                                                      1000000ul * (b / 2 % 3) +
                                                      100000000ul * (t / 8) +
                                                      10000000000ul * (b / 6));
    }
}

static void a_barrier_makes_shared_memory_visible_and_its_lack_shows(void **state)
{
    (void)state;
    float in[64], out[2][64];
    for (int i = 0; i < 64; i++)
        in[i] = (float)i;
    BOTH_ORDERS
    {
        assert_int_equal(sem_reverse(in, out[order], true), cudaSuccess);
        for (int i = 0; i < 64; i++)
            assert_true(out[order][i] == (float)(63 - i));
        memset(out, 0, sizeof out);
        assert_int_equal(sem_reverse_dynamic(in, out[order], sizeof in), cudaSuccess);
        for (int i = 0; i < 64; i++)
            assert_true(out[order][i] == (float)(63 - i));
    }
    BOTH_ORDERS
    assert_int_equal(sem_reverse(in, out[order], false), cudaSuccess);
    assert_memory_not_equal(out[0], out[1], sizeof out[0]);
    BOTH_ORDERS
    {
        assert_int_equal(sem_warp_memory(in, out[order], true), cudaSuccess);
        for (int i = 0; i < 32; i++)
            assert_true(out[order][i] == (float)(i ^ 1));
    }
    BOTH_ORDERS
    assert_int_equal(sem_warp_memory(in, out[order], false), cudaSuccess);
    assert_memory_not_equal(out[0], out[1], 32 * sizeof(float));
}

static void shared_memory_holds_nothing_at_a_blocks_start(void **state)
{
    (void)state;
    unsigned out[64] = {0};
    assert_int_equal(sem_unwritten(out), cudaSuccess);
    for (int i = 0; i < 64; i++)
        assert_int_equal(out[i], 0xffffffffu);
}

static void shuffles_take_from_the_lanes_they_name(void **state)
{
    (void)state;
    int out[SEM_SHUFFLES][32];
    BOTH_ORDERS
    {
        assert_int_equal(sem_shuffles(out[0]), cudaSuccess);
        for (int i = 0; i < 32; i++) {
            int in8 = i % 8, base = i - in8;
            assert_int_equal(out[0][i], 10 * (i >= 3 ? i - 3 : i));
            assert_int_equal(out[1][i], 10 * (i < 29 ? i + 3 : i));
            assert_int_equal(out[2][i], 10 * (i ^ 5));
            assert_int_equal(out[3][i], 70);
            assert_int_equal(out[4][i], 10 * (in8 >= 3 ? i - 3 : i));
            assert_int_equal(out[5][i], 10 * (in8 < 5 ? i + 3 : i));
            assert_int_equal(out[6][i], 10 * (i ^ 5));
            assert_int_equal(out[7][i], 10 * (base + 7));
        }
        int half[32];
        assert_int_equal(sem_half_warps(half), cudaSuccess);
        for (int i = 0; i < 32; i++)
            assert_int_equal(half[i], i < 16 ? i ^ 1 : i ^ 2);
    }
}

static void votes_and_atomics_count_every_thread(void **state)
{
    (void)state;
    unsigned v[7], every_third = 0;
    int a[3] = {0, -1, 99};
    for (unsigned i = 0; i < 32; i += 3)
        every_third |= 1u << i;
    assert_int_equal(sem_votes(v), cudaSuccess);
    assert_true(v[0] == 1 && v[1] == 0 && v[2] == every_third);
    assert_true(v[3] == 1 && v[4] == 1 && v[5] == 0xffffffffu && v[6] == 40);
    assert_int_equal(sem_atomics(a), cudaSuccess);
    assert_true(a[0] == 64 && a[1] == 63 && a[2] == 0);
}

static void kernels_that_no_card_runs_fail(void **state)
{
    (void)state;
    cuda_host_verbose = false;
    BOTH_ORDERS
    {
        for (int i = SEM_LEAVES; i <= SEM_NOT_IN_MASK; i++)
            assert_int_equal(sem_wrong((enum sem_wrong)i), cudaErrorLaunchFailure);
        for (int i = SEM_MANY_THREADS; i < SEM_WRONG_COUNT; i++)
            assert_int_equal(sem_wrong((enum sem_wrong)i), cudaErrorInvalidConfiguration);
        assert_int_equal(sem_wrong(SEM_WRONG_COUNT), cudaSuccess);
    }
    cuda_host_verbose = true;
    assert_int_equal(sem_large_shared(), cudaSuccess);
    assert_int_equal(sem_too_large_shared(), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaErrorInvalidValue);
    assert_int_equal(cudaGetLastError(), cudaSuccess);
}

/* From pageable memory: NVIDIA's "API synchronization behavior" allows no less. */
static void a_plain_copy_is_there_for_who_waits_for_the_default_stream(void **state)
{
    (void)state;
    uint8_t bytes[16], got[16];
    void *device;
    cudaStream_t other, waits;
    memset(bytes, 1, sizeof bytes);
    assert_int_equal(cudaMalloc(&device, sizeof bytes), cudaSuccess);
    assert_int_equal(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking), cudaSuccess);
    assert_int_equal(cudaStreamCreateWithFlags(&waits, cudaStreamDefault), cudaSuccess);
    for (int i = 0; i < 3; i++) {
        cudaStream_t in = i < 2 ? other : waits;
        memset(bytes, i + 1, sizeof bytes);
        assert_int_equal(cudaMemcpy(device, bytes, sizeof bytes, cudaMemcpyHostToDevice),
                         cudaSuccess);
        memset(bytes, 9, sizeof bytes);
        if (i == 1)
            assert_int_equal(cudaDeviceSynchronize(), cudaSuccess);
        assert_int_equal(cudaMemcpyAsync(got, device, sizeof got, cudaMemcpyDeviceToHost, in),
                         cudaSuccess);
        assert_int_equal(cudaStreamSynchronize(in), cudaSuccess);
        assert_int_equal(got[0] == i + 1, i > 0);
    }
    cudaStreamDestroy(other);
    cudaStreamDestroy(waits);
    cudaFree(device);
}

static void what_a_capture_forbids_makes_it_invalid(void **state)
{
    (void)state;
    cudaStream_t s;
    cudaGraph_t graph;
    void *p;
    assert_int_equal(cudaStreamCreateWithFlags(&s, cudaStreamNonBlocking), cudaSuccess);
    assert_int_equal(sem_nothing(s), cudaSuccess);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(cudaStreamBeginCapture(s, cudaStreamCaptureModeThreadLocal), cudaSuccess);
        cudaError_t e = i == 0   ? sem_nothing(s)
                        : i == 1 ? sem_nothing_else(s)
                        : i == 2 ? cudaMalloc(&p, 1)
                        : i == 3 ? cudaStreamSynchronize(s)
                                 : cudaDeviceSynchronize();
        assert_int_equal(e, i ? cudaErrorStreamCaptureUnsupported : cudaSuccess);
        assert_int_equal(cudaStreamEndCapture(s, &graph),
                         i ? cudaErrorStreamCaptureInvalidated : cudaSuccess);
        if (i == 0)
            cudaGraphDestroy(graph);
    }
    cudaGetLastError();
    cudaStreamDestroy(s);
}

/* Only AddressSanitizer sees it; a child of this process dies of it. */
static void writing_behind_shared_memory_ends_the_process_under_asan(void **state)
{
    (void)state;
    assert_int_equal(sem_overflow(false, NULL), cudaSuccess);
#ifdef __SANITIZE_ADDRESS__
    for (int dynamic = 0; dynamic < 2; dynamic++) {
        pid_t child = fork();
        int status = 0;
        if (child == 0) {
            float out;
            freopen("/dev/null", "w", stderr);
            sem_overflow(dynamic, &out);
            _exit(0);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_false(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(threads_of_a_grid_have_their_indices),
        cmocka_unit_test(a_barrier_makes_shared_memory_visible_and_its_lack_shows),
        cmocka_unit_test(shared_memory_holds_nothing_at_a_blocks_start),
        cmocka_unit_test(shuffles_take_from_the_lanes_they_name),
        cmocka_unit_test(votes_and_atomics_count_every_thread),
        cmocka_unit_test(kernels_that_no_card_runs_fail),
        cmocka_unit_test(a_plain_copy_is_there_for_who_waits_for_the_default_stream),
        cmocka_unit_test(what_a_capture_forbids_makes_it_invalid),
        cmocka_unit_test(writing_behind_shared_memory_ends_the_process_under_asan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
