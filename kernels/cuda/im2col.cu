/* Patches of channels-last maps as rows of a matrix: convolutions become matrix products.
 *
 *   out[image, oy, ox][(ky * k + kx) * c + ch] = in[image, oy * step - pad + ky, ..., ch]
 *
 * A thread writes N neighbouring columns of one row: 16 bytes where the matrix allows it. Where a
 * position's channels are whole groups of N too, it reads them as one (WIDE); 3 channels are read
 * one by one. Bytes: the matrix written once, (k / step)^2 times the map read, from the caches but
 * for the first time. Groups are counted in 32 bits, as fuse.cu's are: a thread divides four times,
 * and in 64 bits that would take longer than the bytes. Not measured on a device yet. */
#include "kernels/cuda/device.h"

enum { BLOCK = 256 };

struct patches {
    int images, h, w, c, k, step, pad, oh, ow, ld;
};

/* N elements, moved as one. */
template <typename E, int N> struct __align__(sizeof(E) * N) group
{
    E value[N];
};

/* Where column `col` of the patch at (y, x) comes from; NULL: it is zero. */
template <typename E>
__device__ __forceinline__ const E *source(const patches &p, const E *map, int y, int x, int col)
{
    int at = col / p.c, ky = at / p.k;
    y += ky;
    x += at - ky * p.k;
    if (ky >= p.k || y < 0 || y >= p.h || x < 0 || x >= p.w)
        return NULL;
    return map + ((size_t)y * p.w + x) * p.c + (col - at * p.c);
}

template <typename E, int N, bool WIDE>
__global__ void im2col_kernel(const E *in, patches p, E *out)
{
    unsigned groups = (unsigned)p.ld / N, i = blockIdx.x * BLOCK + threadIdx.x, row = i / groups;
    unsigned one = (unsigned)(p.oh * p.ow), image = row / one;
    if (image >= (unsigned)p.images)
        return;
    int col = (int)(i - row * groups) * N, at = (int)(row - image * one), oy = at / p.ow;
    int y = oy * p.step - p.pad, x = (at - oy * p.ow) * p.step - p.pad;
    const E *map = in + (size_t)image * p.h * p.w * p.c;
    group<E, N> v;
    if (WIDE) {
        const E *from = source(p, map, y, x, col);
        for (int j = 0; j < N; j++)
            v.value[j] = 0;
        if (from)
            v = *reinterpret_cast<const group<E, N> *>(from);
    } else {
        for (int j = 0; j < N; j++) {
            const E *from = source(p, map, y, x, col + j);
            v.value[j] = from ? *from : (E)0;
        }
    }
    *reinterpret_cast<group<E, N> *>(out + (size_t)row * p.ld + col) = v;
}

template <typename E>
static cudaError_t launch(const void *in, patches p, void *out, cudaStream_t stream)
{
    enum { N = 16 / sizeof(E) };
    const E *from = (const E *)in;
    E *to = (E *)out;
    bool out_wide = p.ld % N == 0 && (uintptr_t)out % 16 == 0;
    bool wide = out_wide && p.c % N == 0 && (uintptr_t)in % 16 == 0;
    size_t elements = (size_t)p.images * p.oh * p.ow * p.ld;
    size_t threads = out_wide ? elements / N : elements;
    unsigned grid = blocks_of(threads, BLOCK);
    if (threads > UINT32_MAX - BLOCK)
        return cudaErrorInvalidValue;
    if (wide)
        LAUNCH((im2col_kernel<E, N, true>), grid, BLOCK, 0, stream, from, p, to);
    else if (out_wide)
        LAUNCH((im2col_kernel<E, N, false>), grid, BLOCK, 0, stream, from, p, to);
    else
        LAUNCH((im2col_kernel<E, 1, false>), grid, BLOCK, 0, stream, from, p, to);
    return cudaGetLastError();
}

cudaError_t cuda_im2col(const void *in, int images, int h, int w, int c, int k, int step, int pad,
                        int oh, int ow, int ld, int elem, void *out, cudaStream_t stream)
{
    patches p = {images, h, w, c, k, step, pad, oh, ow, ld};
    return elem == 2 ? launch<uint16_t>(in, p, out, stream) : launch<uint32_t>(in, p, out, stream);
}
