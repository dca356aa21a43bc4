/* Listening sockets: passed by systemd (sd_listen_fds(3)), or bound here. The main thread. */
#ifndef TV3S_SERVER_LISTEN_H
#define TV3S_SERVER_LISTEN_H

#include "base/err.h"

#include <stdbool.h>

struct config;

/* The socket that systemd passed under `name` (FileDescriptorName=), whatever its address; else one
 * bound to `address` and `port`, 0 being any free one. The caller closes it. ERR_IO: the port is
 * taken, or what systemd passed is no listening stream socket. ERR_ARG: no such address. */
enum err listen_open(const char *name, const char *address, int port, int *fd);

/* The settings of both ports, without binding them. ERR_ARG: no such address, or one port for both.
 */
enum err listen_check(const struct config *c);

/* Whether systemd passed a socket under `name`: it outlives the process, and so do those who wait
 * to be accepted. */
bool listen_passed(const char *name);

/* Whether only this machine reaches it: the socket that systemd passed under `name`, or, without
 * one, the address, is of the loopback (or no address of a network at all). */
bool listen_is_local(const char *name, const char *address);

int listen_port(int fd); /* 0 when it has none */

#endif
