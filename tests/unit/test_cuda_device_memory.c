/* Memory of a device for decoded pictures (kernels/device_memory.h), on the stand-in, whose driver
 * shares memory between processes by a memfd. */
#include "tests/unit/device_pictures.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DEVICES = 2 };

/* ---- nothing is left --------------------------------------------------------------------------
 */

struct held_things {
    size_t memory, handles, ranges;
    int descriptors;
};

static int descriptors(void)
{
    DIR *d = opendir("/proc/self/fd");
    int count = 0;
    while (readdir(d))
        count++;
    closedir(d);
    return count;
}

static struct held_things things(void)
{
    return (struct held_things){cuda_host_memory, cuda_host_handles, cuda_host_ranges,
                                descriptors()};
}

static void assert_nothing_left(struct held_things before)
{
    assert_int_equal(cuda_host_memory, before.memory);
    assert_int_equal(cuda_host_handles, before.handles);
    assert_int_equal(cuda_host_ranges, before.ranges);
    assert_int_equal(descriptors(), before.descriptors);
}

/* ---- the memory -------------------------------------------------------------------------------
 */

static void assert_holds(struct device_memory *m, size_t offset, const uint8_t *want, size_t bytes)
{
    uint8_t *got = malloc(bytes);
    said(device_memory_read(m, offset, got, bytes), ERR_OK);
    assert_memory_equal(got, want, bytes);
    free(got);
}

static void a_surface_is_put_with_packed_rows(void **state)
{
    (void)state;
    struct held_things before = things();
    uint8_t a[NV12], b[NV12];
    picture(a, 1, 0);
    picture(b, 2, 0);
    for (int shared = 0; shared < 2; shared++) {
        int fd = -1;
        struct device_memory *m = memory(0, 2 * NV12 + 7, shared ? &fd : NULL);
        put(m, 0, NV12 + 7, b);
        put(m, 0, 0, a);
        assert_holds(m, 0, a, NV12);
        assert_holds(m, NV12 + 7, b, NV12);
        assert_int_equal(fd != -1, shared);
        assert_true(!shared || fcntl(fd, F_GETFD) & FD_CLOEXEC);
        device_memory_close(m);
        if (shared)
            close(fd);
    }
    assert_nothing_left(before);
}

static void what_does_not_fit_is_not_put(void **state)
{
    (void)state;
    uint8_t a[NV12];
    picture(a, 1, 0);
    struct device_memory *m = memory(0, NV12 + 1, NULL);
    struct surface s = surface_of(0, a);
    said(device_memory_put(m, 2, &s.nv12), ERR_ARG);
    said(device_memory_put(m, SIZE_MAX, &s.nv12), ERR_ARG);
    said(device_memory_put(m, NV12 + 2, &s.nv12), ERR_ARG);
    said(device_memory_read(m, 2, a, NV12), ERR_ARG);
    said(device_memory_read(m, 1, a, NV12), ERR_OK);
    s.nv12.pitch[1] = WIDTH - 1;
    said(device_memory_put(m, 0, &s.nv12), ERR_DEVICE);
    cudaFree(s.at);
    device_memory_close(m);
    device_memory_close(NULL);
}

/* ---- two processes ----------------------------------------------------------------------------
 */

/* Puts a picture there as a decoding process does; ends the process. */
static void write_and_end(int fd, size_t bytes, const uint8_t *nv12)
{
    struct device_memory *m;
    if (device_memory_import(0, fd, bytes, &m) != ERR_OK)
        _exit(1);
    struct surface s = surface_of(0, nv12);
    if (device_memory_put(m, 100, &s.nv12) != ERR_OK)
        _exit(2);
    _exit(0); /* as one that was killed: nothing is given back */
}

static void what_is_shared_holds_nothing_of_others(void **state)
{
    static const uint8_t zeros[NV12];
    struct held_things before = things();
    int fd;
    (void)state;
    struct device_memory *m = memory(0, NV12, &fd);
    assert_holds(m, 0, zeros, NV12);
    close(fd);
    device_memory_close(m);
    assert_nothing_left(before);
}

static void another_process_writes_what_this_one_reads(void **state)
{
    (void)state;
    struct held_things before = things();
    uint8_t nv12[NV12];
    int fd, status;
    struct device_memory *m = memory(0, NV12 + 100, &fd);
    picture(nv12, 3, 0);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        write_and_end(fd, NV12 + 100, nv12);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_holds(m, 100, nv12, NV12);
    close(fd);
    assert_holds(m, 100, nv12, NV12);
    device_memory_close(m);
    assert_nothing_left(before);
}

/* What was imported stays when who made it is gone, and the descriptor. */
static void what_is_imported_is_held(void **state)
{
    (void)state;
    struct held_things before = things();
    uint8_t nv12[NV12];
    int fd;
    struct device_memory *made = memory(0, NV12, &fd), *m;
    picture(nv12, 4, 0);
    put(made, 0, 0, nv12);
    said(device_memory_import(0, fd, NV12, &m), ERR_OK);
    assert_int_equal(device_memory_bytes(m), NV12);
    assert_ptr_not_equal(device_memory_at(m), device_memory_at(made));
    device_memory_close(made);
    close(fd);
    assert_holds(m, 0, nv12, NV12);
    device_memory_close(m);
    assert_nothing_left(before);
}

static void assert_not_imported(int fd, size_t bytes)
{
    struct held_things before = things();
    struct device_memory *m = (struct device_memory *)&before;
    said(device_memory_import(0, fd, bytes, &m), ERR_DEVICE);
    assert_null(m);
    assert_nothing_left(before);
}

static void what_is_no_memory_is_not_imported(void **state)
{
    (void)state;
    enum { MB = 1 << 20 };
    int fd, pair[2];
    assert_not_imported(-1, NV12);
    assert_not_imported(fd = open("/dev/null", O_RDWR), NV12);
    close(fd);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    assert_not_imported(pair[0], NV12);
    close(pair[0]);
    close(pair[1]);
    fd = memfd_create("foreign", MFD_CLOEXEC);
    assert_not_imported(fd, NV12);
    assert_int_equal(ftruncate(fd, 8 * MB), 0);
    assert_not_imported(fd, NV12);
    close(fd);
    struct device_memory *m = memory(0, MB, &fd);
    assert_not_imported(fd, 8 * MB); /* more than there is */
    device_memory_close(m);
    close(fd);
}

/* ---- what fails -------------------------------------------------------------------------------
 */

static enum err open_it(int *fd, struct device_memory **m)
{
    return device_memory_open(0, NV12, fd, m);
}

static enum err open_alone(int *fd, struct device_memory **m)
{
    *fd = -1;
    return device_memory_open(0, NV12, NULL, m);
}

static enum err import_it(int *fd, struct device_memory **m)
{
    int from = *fd;
    *fd = -1;
    return device_memory_import(0, from, NV12, m);
}

/* Each call in turn; returns how many there are. */
static int fail_each_call(enum err (*make)(int *fd, struct device_memory **m), int from,
                          cudaError_t how, enum err want)
{
    int failures = 0;
    for (size_t call = 1;; call++) {
        struct held_things before = things();
        struct device_memory *m;
        int fd = from;
        cuda_host_fail_with = how;
        cuda_host_fail_at = cuda_host_calls + call;
        enum err e = make(&fd, &m);
        bool all = cuda_host_calls < cuda_host_fail_at;
        cuda_host_fail_at = 0;
        assert_int_equal(e == ERR_OK, all);
        if (e == ERR_OK) {
            device_memory_close(m);
            if (fd >= 0)
                close(fd);
        } else {
            said(e, want);
            assert_null(m);
            assert_int_equal(fd, -1);
            failures++;
        }
        assert_int_equal(cudaGetLastError(), cudaSuccess);
        assert_nothing_left(before);
        if (all)
            return failures;
    }
}

static void every_call_that_fails_leaves_nothing(void **state)
{
    (void)state;
    static const struct {
        cudaError_t how;
        enum err want;
    } way[] = {{cudaErrorUnknown, ERR_DEVICE},
               {cudaErrorMemoryAllocation, ERR_NOMEM},
               {cudaErrorNotSupported, ERR_UNSUPPORTED},
               {cudaErrorInsufficientDriver, ERR_UNSUPPORTED}};
    int fd;
    struct device_memory *made = memory(0, NV12, &fd);
    for (size_t i = 0; i < sizeof way / sizeof *way; i++) {
        /* A stream, the driver's eleven entries, granularity, range, create, map, access, export */
        assert_int_equal(fail_each_call(open_it, -1, way[i].how, way[i].want), 20);
        assert_int_equal(fail_each_call(import_it, fd, way[i].how, way[i].want), 17);
        assert_int_equal(fail_each_call(open_alone, -1, way[i].how, way[i].want), 2);
    }
    close(fd);
    device_memory_close(made);
}

static void a_copy_that_fails_costs_the_copy(void **state)
{
    (void)state;
    uint8_t nv12[NV12], other[NV12];
    struct device_memory *m = memory(0, NV12, NULL);
    picture(nv12, 5, 0);
    struct surface s = surface_of(0, nv12);
    for (size_t call = 1; call <= 3; call++) {
        cuda_host_fail_with = cudaErrorUnknown;
        cuda_host_fail_at = cuda_host_calls + call;
        said(device_memory_put(m, 0, &s.nv12), ERR_DEVICE);
    }
    for (size_t call = 1; call <= 2; call++) {
        cuda_host_fail_at = cuda_host_calls + call;
        said(device_memory_read(m, 0, other, NV12), ERR_DEVICE);
    }
    cuda_host_fail_at = 0;
    said(device_memory_put(m, 0, &s.nv12), ERR_OK);
    assert_holds(m, 0, nv12, NV12);
    cudaFree(s.at);
    device_memory_close(m);
}

static void no_device_and_no_room_are_said(void **state)
{
    (void)state;
    struct held_things before = things();
    struct device_memory *m;
    void *context;
    int fd;
    said(device_memory_open(DEVICES, NV12, &fd, &m), ERR_UNSUPPORTED);
    assert_int_equal(fd, -1);
    said(device_memory_open(-1, NV12, NULL, &m), ERR_UNSUPPORTED);
    said(device_memory_context(DEVICES, &context), ERR_UNSUPPORTED);
    assert_null(context);
    cuda_host_memory_limit = cuda_host_memory + NV12 - 1;
    said(device_memory_open(0, NV12, &fd, &m), ERR_NOMEM);
    said(device_memory_open(0, NV12, NULL, &m), ERR_NOMEM);
    cuda_host_memory_limit = SIZE_MAX;
    said(device_memory_open(0, SIZE_MAX, &fd, &m), ERR_NOMEM);
    said(device_memory_open(0, 0, &fd, &m), ERR_NOMEM);
    assert_null(m);
    assert_nothing_left(before);
}

static void each_device_has_one_context(void **state)
{
    (void)state;
    void *a, *b, *again;
    said(device_memory_context(0, &a), ERR_OK);
    said(device_memory_context(1, &b), ERR_OK);
    said(device_memory_context(0, &again), ERR_OK);
    assert_non_null(a);
    assert_ptr_not_equal(a, b);
    assert_ptr_equal(a, again);
    for (size_t call = 1; call <= 12; call++) {
        cuda_host_fail_at = cuda_host_calls + call;
        said(device_memory_context(0, &a), ERR_DEVICE);
        assert_null(a);
    }
    cuda_host_fail_at = 0;
}

/* ---- threads ----------------------------------------------------------------------------------
 */

struct at_work {
    struct device_memory *m;
    struct surface s;
};

static void *put_there(void *arg)
{
    struct at_work *w = arg;
    return device_memory_put(w->m, 0, &w->s.nv12) == ERR_OK ? w : NULL;
}

/* Its current device is the first. */
static void a_new_thread_puts_on_any_device(void **state)
{
    (void)state;
    uint8_t nv12[NV12];
    pthread_t thread;
    void *done;
    picture(nv12, 6, 0);
    struct at_work w = {memory(1, NV12, NULL), surface_of(1, nv12)};
    assert_int_equal(pthread_create(&thread, NULL, put_there, &w), 0);
    pthread_join(thread, &done);
    assert_ptr_equal(done, &w);
    assert_int_equal(cudaSetDevice(0), cudaSuccess);
    assert_holds(w.m, 0, nv12, NV12);
    cudaFree(w.s.at);
    device_memory_close(w.m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_surface_is_put_with_packed_rows),
        cmocka_unit_test(what_does_not_fit_is_not_put),
        cmocka_unit_test(what_is_shared_holds_nothing_of_others),
        cmocka_unit_test(another_process_writes_what_this_one_reads),
        cmocka_unit_test(what_is_imported_is_held),
        cmocka_unit_test(what_is_no_memory_is_not_imported),
        cmocka_unit_test(every_call_that_fails_leaves_nothing),
        cmocka_unit_test(a_copy_that_fails_costs_the_copy),
        cmocka_unit_test(no_device_and_no_room_are_said),
        cmocka_unit_test(each_device_has_one_context),
        cmocka_unit_test(a_new_thread_puts_on_any_device),
    };
    cuda_host_devices = DEVICES;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
