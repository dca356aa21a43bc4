/* Connections that were answered before the peer had said all.
 *
 * A socket that is closed with bytes unread resets the connection, and a client that is still
 * sending meets the reset before it reads why it was refused. So what comes is thrown away for a
 * while longer: LINGER_SECONDS and LINGER_BYTES a connection, LINGER_MAX connections; beyond that
 * they are reset. All in the network thread. */
#ifndef TV3S_SERVER_LINGER_H
#define TV3S_SERVER_LINGER_H

#include <stdbool.h>

struct lingering;

/* NULL: no memory, or no epoll. */
struct lingering *linger_open(void);
void linger_close(struct lingering *l); /* NULL is allowed */

/* To wait on: readable when linger_run has something to do. */
int linger_fd(const struct lingering *l);

/* Keeps a duplicate of `fd`, which the caller closes. */
void linger_take(struct lingering *l, int fd);

/* Throws away what has come, and closes what has ended. */
void linger_run(struct lingering *l);

/* Whether linger_run is to be called about once a second. */
bool linger_some(const struct lingering *l);

#endif
