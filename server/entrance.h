/* Who comes in: a listening socket's connections, each with the address that counts.
 *
 * Both front ends have one. The libraries' own accepting knows no PROXY protocol, and
 * libwebsockets' none of systemd's sockets; so connections are accepted here and handed over as
 * descriptors. With `proxy_protocol` whoever is in `trusted_proxies` begins with the header
 * (proxy_header.h), and the client is whom it names; such a connection without one is closed, and
 * so is one that takes longer than ENTRANCE_SECONDS, for the specification forbids to guess. Of
 * everybody else a header is no header but a malformed request: who is not trusted cannot say who
 * he is.
 *
 * Nothing waits: the header is looked at with MSG_PEEK, whenever more of it has come (an edge of
 * epoll, since what is only looked at stays), and taken out of the socket when it is whole. So
 * nothing behind it is read here, which may be TLS.
 *
 * All functions from the thread of the front end. */
#ifndef TV3S_SERVER_ENTRANCE_H
#define TV3S_SERVER_ENTRANCE_H

#include "server/address.h"

struct entrance;

/* Headers that are awaited at once; while so many are, nobody else is let in. */
enum { ENTRANCE_WAITING = 256, ENTRANCE_SECONDS = 5 };

/* What a front end is to it. */
struct entrance_host {
    void *self;
    /* Takes the descriptor, and closes it. */
    void (*take)(void *self, int fd, const struct sockaddr *from, socklen_t len);
    /* How many it can take now; NULL: any number. */
    int (*room)(void *self);
};

/* Takes `listener`, also when it fails. ERR_IO, ERR_NOMEM. */
enum err entrance_open(int listener, struct addresses *a, const struct entrance_host *host,
                       struct entrance **out);
void entrance_close(struct entrance *e); /* NULL is allowed */

/* To be watched for EPOLLIN, which means entrance_work. */
int entrance_fd(const struct entrance *e);
/* Lets in who is there. Call it as well when it is shut and the host may have room again. */
void entrance_work(struct entrance *e);
/* Nobody is let in for now: there was no room, or no descriptor. */
bool entrance_shut(const struct entrance *e);
/* Closes the listening socket; who waits for his header's rest may still come in. */
void entrance_deafen(struct entrance *e);

#endif
