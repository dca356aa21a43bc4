/* A stand-in for NVIDIA's driver: libcuda.so.1 and libnvcuvid.so.1 as far as FFmpeg asks them, on
 * the host. FFmpeg's own hwcontext_cuda and nvdec run on it. It decodes really: each picture's bit
 * stream goes through libavcodec's decoder, so the pictures are those of FFmpeg's decoder bit by
 * bit.
 *
 * It is found by programs alone that are linked to look for it (driver.mk). The file "faults"
 * beside libcuda.so.1, read when that is loaded, makes it fail. Its lines are a name and a number:
 *   memory BYTES    for surfaces of all decoders together
 *   codecs MASK     offered: a bit for each cudaVideoCodec
 *   width, height N the largest picture
 *   decode N        a decoder's pictures from the N-th on, from 0, fail to be decoded
 *   map N           the same, to be mapped
 *   copy N          copies to the host from the N-th on fail
 *   wrong N         a decoder's pictures from the N-th on are mapped with a wrong byte
 *   crash N         the process ends by a fault when the N-th is mapped
 *   socket N        it asks for a socket then
 * An empty file in place of a library is none. */
#ifndef TV3S_TESTS_CUDA_HOST_DRIVER_H
#define TV3S_TESTS_CUDA_HOST_DRIVER_H

#include <ffnvcodec/dynlink_loader.h>

#include <stdbool.h>
#include <stddef.h>

/* Of CUresult, beyond the header's. */
#define INVALID_VALUE   ((CUresult)1)
#define OUT_OF_MEMORY   ((CUresult)2)
#define INVALID_CONTEXT ((CUresult)201)
#define INVALID_HANDLE  ((CUresult)400)
#define NOT_SUPPORTED   ((CUresult)801)

/* What FFmpeg's loader wants to find and its decoder does not call. */
#define UNUSED(name)                                                                               \
    CUresult name(void);                                                                           \
    CUresult name(void)                                                                            \
    {                                                                                              \
        return NOT_SUPPORTED;                                                                      \
    }

enum fault {
    FAULT_MEMORY,
    FAULT_CODECS,
    FAULT_WIDTH,
    FAULT_HEIGHT,
    FAULT_DECODE,
    FAULT_MAP,
    FAULT_COPY,
    FAULT_WRONG,
    FAULT_CRASH,
    FAULT_SOCKET,
    FAULTS
};

/* cuda.c, for nvcuvid.c. A fault that the file does not name is `none`. */
long driver_fault(enum fault f, long none);
/* The calling thread has a context. */
CUresult driver_check_context(void);

/* h264.c: the parameter sets of a picture as a byte stream, of which its own slices tell no more
 * than the number. At most H264_SETS bytes; 0: such a picture is none of ours. */
enum { H264_SETS = 2048 };
size_t h264_sets(const CUVIDPICPARAMS *p, unsigned char *out);

#endif
