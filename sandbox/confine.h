/* Takes a process all that decoding does not need. Inside sandbox/ only.
 *
 * In this order: limits (memory, CPU, no files, no processes), Landlock (no file system at all,
 * where the kernel has it), no_new_privs, and a seccomp filter: what is not on the list ends the
 * process. What is on it computes, takes memory that holds no code, reads what is open already and
 * talks to the socket that is there. */
#ifndef TV3S_SANDBOX_CONFINE_H
#define TV3S_SANDBOX_CONFINE_H

#include "base/err.h"

#include <stdint.h>

enum confined { CONFINED_SECCOMP = 1, CONFINED_LANDLOCK = 2, CONFINED_NAMESPACES = 4 };

/* Of the whole program, before the first child: a user namespace without rights, and in it a
 * network with nothing, where that is allowed. The calling process has one thread.
 * CONFINED_NAMESPACES or 0. */
int confine_namespaces(void);

/* `memory`: bytes of address space, without effect in builds with sanitizers. Adds to *done what is
 * in force. ERR_UNSUPPORTED when the kernel, or a filter that is there already, forbids it. */
enum err confine(uint64_t memory, uint32_t cpu_seconds, int *done);

/* The same of a process that decodes on a CUDA device, whose driver's library has threads, opens
 * the device's files when it likes, asks the kernel by ioctl, and reserves more addresses than
 * there is memory (confine_device.c). In two halves: first, before the driver has a thread,
 * Landlock, which leaves the driver's files, and `folders` (NULL-terminated) and what is in them to
 * be read; without it ERR_UNSUPPORTED. Then, before anything is read from outside, all else, for
 * all threads. */
enum err confine_device_files(const char *const *folders, int *done);
enum err confine_device(uint64_t memory, uint32_t cpu_seconds, int *done);

/* Bytes of address space now. */
uint64_t confine_address_space(void);

#endif
