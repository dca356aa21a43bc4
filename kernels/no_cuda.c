/* In place of kernels/cuda where it was not built. */
#include "kernels/backend.h"

int cuda_backend_devices(void)
{
    return 0;
}

enum err cuda_backend_open(int device, enum dtype dtype, bool tf32, struct backend **out)
{
    (void)device;
    (void)dtype;
    (void)tf32;
    *out = NULL;
    return err_set(ERR_UNSUPPORTED,
                   "this build has no CUDA backend: build with `make CUDA=1`, or use --device cpu");
}
