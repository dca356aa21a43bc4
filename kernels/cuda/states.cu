/* Hidden states into a batch: what each stream had, or zeros, copied to where the batch works on
 * it, all in one launch from a table, so that their places are data and a captured graph serves any
 * streams. 2 x the states' bytes; blocks are 16 KiB of one state each. Not measured on a device
 * yet. */
#include "kernels/cuda/device.h"

enum { BLOCK = 256, PER_THREAD = 4, PER_BLOCK = BLOCK * PER_THREAD };

/* States are aligned to 64 bytes; what is left over after groups of 16 bytes goes by floats. */
__global__ void move_states_kernel(const struct state_move *moves)
{
    struct state_move m = moves[blockIdx.y];
    size_t groups = m.bytes / 16, first = (size_t)blockIdx.x * PER_BLOCK + threadIdx.x;
    for (int i = 0; i < PER_THREAD; i++) {
        size_t at = first + (size_t)i * BLOCK;
        if (at < groups)
            ((float4 *)m.dst)[at] = m.src ? ((const float4 *)m.src)[at] : make_float4(0, 0, 0, 0);
        else if (at - groups < m.bytes % 16 / 4)
            ((float *)m.dst)[3 * groups + at] = m.src ? ((const float *)m.src)[3 * groups + at] : 0;
    }
}

cudaError_t cuda_move_states(const struct state_move *moves, int count, size_t most,
                             cudaStream_t stream)
{
    dim3 grid(blocks_of(most / 16 + 3, PER_BLOCK), (unsigned)count);
    LAUNCH((move_states_kernel), grid, BLOCK, 0, stream, moves);
    return cudaGetLastError();
}
