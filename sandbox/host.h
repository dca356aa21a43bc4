/* The daemon's talk with the zygote. Inside sandbox/ only. Any thread. */
#ifndef TV3S_SANDBOX_HOST_H
#define TV3S_SANDBOX_HOST_H

#include "sandbox/sandbox.h"
#include "sandbox/wire.h"

#include <sys/types.h>

/* `fd` is the process itself, whoever has its number by now. */
struct host_child {
    pid_t pid; /* 0: none */
    int fd;
};

/* The sockets and files stay the caller's. `file` may be -1; `wait` may be NULL. ERR_BUSY, ERR_IO,
 * ERR_CANCELLED. */
enum err host_spawn(struct sandbox *s, const struct child_order *order, int socket, int memory,
                    int file, const struct sandbox_wait *wait, struct host_child *out);

/* Ends the child, and has it reaped. For who asks how it ended: the signal that ended it, 0 when
 * none did, or -1 when the zygote that knew it is gone. */
void host_bury(struct sandbox *s, const struct host_child *child);
int host_bury_asking(struct sandbox *s, const struct host_child *child);
void host_allow(struct sandbox *s, const struct host_child *child, uint32_t cpu_seconds);

const struct sandbox_options *host_options(const struct sandbox *s);
uint32_t host_cpu_seconds(const struct sandbox *s); /* that a child may use for one frame */

#endif
