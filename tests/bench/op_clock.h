/* When operations of a backend began and ended: CPU time stamps, or events on the device's stream.
 * op_clock_cpu.c and op_clock_cuda.c are the two; one is linked. */
#ifndef TV3S_TESTS_OP_CLOCK_H
#define TV3S_TESTS_OP_CLOCK_H

#include "kernels/backend.h"

#include <stdlib.h>
#include <time.h>

/* Before the first mark: every operation is to be called and launched one by one. */
void op_clock_open(struct backend *be);
/* Whether an operation that is called now is carried out. */
bool op_clock_live(struct backend *be);
/* Mark number i, 0 up; marks may be set again in a later step. */
void op_clock_mark(struct backend *be, size_t i);
/* Seconds between two marks; the device is idle. */
double op_clock_between(struct backend *be, size_t from, size_t to);

static inline double op_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Room for mark i in an array of `size` bytes each. */
static inline void *op_clock_room(void *array, size_t *places, size_t i, size_t size)
{
    if (i < *places)
        return array;
    *places = 2 * i + 64;
    array = realloc(array, *places * size);
    if (!array)
        abort(); /* a benchmark */
    return array;
}

#endif
