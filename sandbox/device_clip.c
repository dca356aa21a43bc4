/* H.264 as phones and editors write it: High profile, CABAC, transforms of 8x8, two B-frames in a
 * row, two groups of pictures, and lines that are cut off below. Made by
 *
 *   ffmpeg -f lavfi -i testsrc2=size=176x136:rate=25 -frames:v 12 -pix_fmt yuv420p -c:v libx264
 *       -profile:v high -preset slow -qp 38 -g 6 -bf 2 -threads 1 -bsf:v
 * filter_units=remove_types=6 -fflags +bitexact -map_metadata -1 -movflags +faststart
 * sandbox/device_clip.mp4 */
#include "sandbox/device_clip.h"

#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

/* The assembler puts the file in, found from the root of the repository, where `make` runs. */
__asm__(".section .rodata\n"
        "device_clip:\n"
        ".incbin \"sandbox/device_clip.mp4\"\n"
        "device_clip_end:\n"
        ".byte 0\n"
        ".text\n");
extern const char device_clip[], device_clip_end[];

int device_clip_open(void)
{
    const size_t bytes = (size_t)((uintptr_t)device_clip_end - (uintptr_t)device_clip);
    int fd = memfd_create("tv3sd-clip", MFD_CLOEXEC);
    if (fd >= 0 && write(fd, device_clip, bytes) == (ssize_t)bytes)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}
