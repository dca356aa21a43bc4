/* A few channels of one thread in registers: what the convolutions share. */
#ifndef TV3S_KERNELS_CUDA_CHANNELS_H
#define TV3S_KERNELS_CUDA_CHANNELS_H

#include "kernels/cuda/device.h"

/* V channels of a thread, 4 or 1: arithmetic on small arrays that become registers. */
template <int V> struct channels {
    float v[V];
};

template <int V, typename T> __device__ __forceinline__ channels<V> load(const T *p)
{
    channels<V> r;
    if (V == 4) {
        float4 f = load4(p);
        r.v[0] = f.x, r.v[1 % V] = f.y, r.v[2 % V] = f.z, r.v[3 % V] = f.w;
    } else {
        r.v[0] = to_f32(*p);
    }
    return r;
}

#endif
