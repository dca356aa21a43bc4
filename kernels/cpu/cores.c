/* A core for each of the threads that compute.
 *
 * An operation ends when its last thread does, and one frame is some hundred operations. Left to
 * the system, two threads that wake each other meet on one core now and then and stay there for the
 * whole batch, the other core idle or with somebody else's work, since each is asleep or waiting
 * too briefly to be moved. Measured on two cores beside other work: one batch in twenty took 7 to
 * 11 ms instead of 2.6. So where the threads are as many as the cores each keeps to its own. With
 * fewer threads the system may choose: a core that others use would hold up all. */
#include "kernels/cpu/cpu.h"

#include <omp.h>
#include <sched.h>

/* The calling thread to the `index`th of these cores. */
static void keep_to(const cpu_set_t *cores, int index)
{
    cpu_set_t one;
    int core = 0;
    while (!CPU_ISSET(core, cores) || index-- > 0)
        core++;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    sched_setaffinity(0, sizeof one, &one); /* refused: it stays where the system wants it */
}

void cpu_own_cores(struct backend *be)
{
    int threads = cpu_of(be)->gemm.threads;
    cpu_set_t cores;
    if (sched_getaffinity(0, sizeof cores, &cores) || CPU_COUNT(&cores) != threads)
        return;
    omp_set_num_threads(threads);
#pragma omp parallel
    keep_to(&cores, omp_get_thread_num());
}
