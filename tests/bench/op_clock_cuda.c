/* The clock for a build with CUDA: events on the backend's stream; a CPU backend is timed too. */
#include "kernels/cuda/cuda.h"
#include "tests/bench/op_clock.h"

#include <stdio.h>
#include <string.h>

static struct mark {
    double cpu;
    cudaEvent_t event;
} * marks;
static size_t places, made;

static bool on_gpu(const struct backend *be)
{
    return strncmp(be->ops->name, "cuda", 4) == 0;
}

static void expect(cudaError_t e)
{
    if (e == cudaSuccess)
        return;
    fprintf(stderr, "the clock: %s\n", cudaGetErrorString(e));
    exit(1);
}

void op_clock_open(struct backend *be)
{
    if (on_gpu(be))
        cuda_of(be)->no_graphs = true;
}

bool op_clock_live(struct backend *be)
{
    return !on_gpu(be) || cuda_of(be)->walk != CUDA_DRY;
}

void op_clock_mark(struct backend *be, size_t i)
{
    marks = op_clock_room(marks, &places, i, sizeof *marks);
    if (!on_gpu(be)) {
        marks[i].cpu = op_now();
        return;
    }
    for (; made <= i; made++)
        expect(cudaEventCreateWithFlags(&marks[made].event, 0));
    expect(cudaEventRecord(marks[i].event, cuda_of(be)->stream));
}

double op_clock_between(struct backend *be, size_t from, size_t to)
{
    float ms;
    if (!on_gpu(be))
        return marks[to].cpu - marks[from].cpu;
    expect(cudaEventElapsedTime(&ms, marks[from].event, marks[to].event));
    return 1e-3 * (double)ms;
}
