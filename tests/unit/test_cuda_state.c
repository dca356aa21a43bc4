/* The checks of test_engine_state.c with the CUDA backend built for the host. */
#define TINY_DEVICE DEVICE_CUDA
#include "tests/unit/test_engine_state.c"
