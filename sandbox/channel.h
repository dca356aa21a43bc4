/* The sockets between the processes: pairs that keep messages apart, and may carry descriptors.
 * Inside sandbox/ only. Any thread; a message goes whole or not at all. */
#ifndef TV3S_SANDBOX_CHANNEL_H
#define TV3S_SANDBOX_CHANNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

enum { CHANNEL_FDS = 4 }; /* that a message has at most */

/* pair[0] is the daemon's: who receives from it is woken every SANDBOX_LATE_MS, with EAGAIN. False:
 * errno says why. */
bool channel_open(int pair[2]);
void channel_slice(int fd); /* what makes it the daemon's */

/* Does not wait. False: errno says why; EAGAIN when too much is under way. */
bool channel_send(int to, const void *message, size_t len, const int *fd, int fds);
/* Bytes; 0 when the other end is gone; -1: errno says why. fd[CHANNEL_FDS] are what came, the
 * caller's to close, -1 for none. */
ssize_t channel_receive(int from, void *message, size_t len, int *fd);
void channel_close_all(const int *fd); /* of those CHANNEL_FDS what there is */

#endif
