/* The daemon's talk with the zygote. Inside sandbox/ only. Any thread. */
#ifndef TV3S_SANDBOX_HOST_H
#define TV3S_SANDBOX_HOST_H

#include "sandbox/sandbox.h"
#include "sandbox/wire.h"

#include <sys/types.h>

/* The sockets and files stay the caller's. `file` may be -1. ERR_BUSY, ERR_IO. */
enum err host_spawn(struct sandbox *s, const struct child_order *order, int socket, int memory,
                    int file, pid_t *pid);
/* Ends the child. Its status as of waitpid, or -1 when the zygote that knew it is gone. */
int host_bury(struct sandbox *s, pid_t pid);
void host_allow(struct sandbox *s, pid_t pid, uint32_t cpu_seconds);

const struct sandbox_options *host_options(const struct sandbox *s);
uint32_t host_cpu_seconds(const struct sandbox *s); /* that a child may use for one frame */

#endif
