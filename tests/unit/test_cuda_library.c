/* Where a machine has no cuBLASLt: kernels/cuda/library/cublasLt.c in the stand-in's place, looking
 * for a version that nobody has. */
#include "kernels/backend.h"

#include <cublasLt.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#undef CUBLAS_VER_MAJOR
#define CUBLAS_VER_MAJOR none
#include "kernels/cuda/library/cublasLt.c"

static void a_library_that_is_missing_is_named_where_a_gpu_is_asked_for(void **state)
{
    (void)state;
    struct backend *be = NULL;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(cuda_backend_open(0, DT_F32, false, &be), ERR_DEVICE);
        assert_null(be);
        assert_non_null(strstr(err_text(), "cuBLASLt does not start on cuda:0: "));
        assert_non_null(strstr(err_text(), "libcublasLt.so.none"));
    }
    assert_int_equal(cpu_backend_open(DT_F32, 1, NULL, &be), ERR_OK);
    be->ops->close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_library_that_is_missing_is_named_where_a_gpu_is_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
