#include "tools/npy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct place {
    char folder[64], path[96];
};

static int make_place(void **state)
{
    struct place *p = calloc(1, sizeof *p);
    strcpy(p->folder, "/tmp/tv3s-npy-XXXXXX");
    if (!mkdtemp(p->folder))
        return -1;
    snprintf(p->path, sizeof p->path, "%s/a.npy", p->folder);
    *state = p;
    return 0;
}

static int remove_place(void **state)
{
    struct place *p = *state;
    unlink(p->path);
    int left = rmdir(p->folder); /* fails when a temporary file stayed behind */
    free(p);
    return left;
}

static size_t read_all(const char *path, uint8_t *out, size_t room)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(out, 1, room, f);
    fclose(f);
    return n;
}

/* Offset of the data; checks everything before it. */
static size_t check_header(const uint8_t *file, const char *descr, const char *shape)
{
    char expected[256];
    assert_memory_equal(file, "\x93NUMPY\x01\x00", 8);
    size_t data = 10 + file[8] + 256u * file[9];
    assert_int_equal(data % 64, 0);
    assert_int_equal(file[data - 1], '\n');
    int n = snprintf(expected, sizeof expected,
                     "{'descr': '%s', 'fortran_order': False, 'shape': %s, }", descr, shape);
    assert_memory_equal(file + 10, expected, (size_t)n);
    for (size_t i = 10 + (size_t)n; i < data - 1; i++)
        assert_int_equal(file[i], ' ');
    return data;
}

static void writes_items_and_their_number(void **state)
{
    struct place *p = *state;
    const float item[6] = {0, -1.5f, 2, 3, 4, 1e-30f};
    uint8_t file[1024];
    struct npy *f;
    assert_int_equal(npy_open(p->path, DT_F32, 2, (const int64_t[]){2, 3}, &f), ERR_OK);
    for (int i = 0; i < 11; i++)
        assert_int_equal(npy_write(f, item), ERR_OK);
    assert_int_not_equal(access(p->path, F_OK), 0); /* not there before it is whole */
    assert_int_equal(npy_commit(f), ERR_OK);
    size_t length = read_all(p->path, file, sizeof file);
    size_t data = check_header(file, "<f4", "(11, 2, 3,)");
    assert_int_equal(length, data + 11 * sizeof item);
    assert_memory_equal(file + data, item, sizeof item);
    assert_memory_equal(file + data + 10 * sizeof item, item, sizeof item);
}

static void writes_bytes_and_no_items(void **state)
{
    struct place *p = *state;
    uint8_t file[1024];
    struct npy *f;
    assert_int_equal(npy_open(p->path, DT_U8, 0, NULL, &f), ERR_OK);
    assert_int_equal(npy_commit(f), ERR_OK);
    size_t length = read_all(p->path, file, sizeof file);
    assert_int_equal(length, check_header(file, "|u1", "(0,)"));
}

static void the_widest_shape_fits_the_header(void **state)
{
    struct place *p = *state;
    int64_t shape[NPY_MAX_DIMS];
    uint8_t file[1024];
    struct npy *f;
    for (int i = 0; i < NPY_MAX_DIMS; i++)
        shape[i] = i ? INT32_MAX : 0;
    assert_int_equal(npy_open(p->path, DT_U8, NPY_MAX_DIMS, shape, &f), ERR_OK);
    assert_int_equal(npy_write(f, ""), ERR_OK);
    assert_int_equal(npy_commit(f), ERR_OK);
    read_all(p->path, file, sizeof file);
    check_header(file, "|u1",
                 "(1, 0, 2147483647, 2147483647, 2147483647, 2147483647, 2147483647, "
                 "2147483647, 2147483647,)");
}

static void an_aborted_file_leaves_nothing(void **state)
{
    struct place *p = *state;
    struct npy *f;
    assert_int_equal(npy_open(p->path, DT_U8, 1, (const int64_t[]){4}, &f), ERR_OK);
    assert_int_equal(npy_write(f, "abcd"), ERR_OK);
    npy_abort(f);
    npy_abort(NULL);
    assert_int_not_equal(access(p->path, F_OK), 0);
}

static void wrong_arrays_and_places_are_refused(void **state)
{
    struct place *p = *state;
    struct npy *f;
    assert_int_equal(npy_open(p->path, DT_F16, 1, (const int64_t[]){4}, &f), ERR_ARG);
    assert_int_equal(npy_open(p->path, DT_F32, 1, (const int64_t[]){-4}, &f), ERR_ARG);
    assert_int_equal(npy_open(p->path, DT_F32, NPY_MAX_DIMS + 1, NULL, &f), ERR_ARG);
    assert_int_equal(npy_open(p->path, DT_F32, 3, (const int64_t[]){1 << 30, 1 << 30, 16}, &f),
                     ERR_ARG);
    assert_int_equal(npy_open("/dev/null", DT_F32, 0, NULL, &f), ERR_UNSUPPORTED);
    assert_int_equal(npy_open(p->folder, DT_F32, 0, NULL, &f), ERR_IO);
    strcat(p->path, "/b");
    assert_int_equal(npy_open(p->path, DT_F32, 0, NULL, &f), ERR_IO);
    assert_null(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(writes_items_and_their_number, make_place, remove_place),
        cmocka_unit_test_setup_teardown(writes_bytes_and_no_items, make_place, remove_place),
        cmocka_unit_test_setup_teardown(the_widest_shape_fits_the_header, make_place, remove_place),
        cmocka_unit_test_setup_teardown(an_aborted_file_leaves_nothing, make_place, remove_place),
        cmocka_unit_test_setup_teardown(wrong_arrays_and_places_are_refused, make_place,
                                        remove_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
