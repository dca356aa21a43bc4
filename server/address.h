/* Addresses of clients, and how many connections each has.
 *
 * Behind a proxy the peer of every connection is the proxy; then the client is whom the header of
 * `forwarded_header` names, if the peer is one of `trusted_proxies`. The list in that header is
 * read from its end, each part written by the one after it: the first address that is no proxy of
 * ours is the client. What stands before it anybody may have made up.
 *
 * With `proxy_protocol` the peer itself is whom such a proxy names at the begin of its connection
 * (entrance.h), and the header is read if that one is a trusted proxy too.
 *
 * An IPv6 client is its /64, since it has all of that. Any thread. */
#ifndef TV3S_SERVER_ADDRESS_H
#define TV3S_SERVER_ADDRESS_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>

struct config;
struct addresses;

enum { ADDRESS_TEXT = 48 };

struct address {
    bool known;        /* false: a UNIX socket's peer, which has none */
    uint8_t bytes[16]; /* IPv4 as ::ffff:a.b.c.d */
};

/* ERR_ARG: trusted_proxies holds what is no address, network or "unix", or forwarded_header is no
 * header that we know. */
enum err addresses_open(const struct config *c, struct addresses **out);
void addresses_close(struct addresses *a); /* NULL is allowed */

struct address address_of(const struct sockaddr *peer);
void address_print(const struct address *a, char text[ADDRESS_TEXT]); /* "-": not known */

/* A network as "192.0.2.0/24" or "2001:db8::/32", or one address. ERR_ARG: the text is neither. */
struct network {
    struct address first;
    int bits; /* of `first` that count */
};
enum err network_parse(const char *text, struct network *out);
bool network_holds(const struct network *n, const struct address *a);

/* Whether the peer is a proxy whose header counts. */
bool address_trusted(const struct addresses *a, const struct address *peer);
/* Whether it begins its connections with a PROXY header. */
bool address_announces(const struct addresses *a, const struct address *peer);
/* The client: the peer, or whom a trusted peer's header names. `header` may be NULL. ERR_ARG: the
 * header of a trusted proxy is malformed. */
enum err address_client(const struct addresses *a, const struct address *peer, const char *header,
                        struct address *out);

/* One connection more of it. ERR_ADDRESS: it has as many as `address_connections` already, and
 * nothing is counted. A proxy of ours, and who has no address, is not counted. */
enum err address_enter(struct addresses *a, const struct address *who);
void address_leave(struct addresses *a, const struct address *who); /* after ERR_OK */
bool address_full(struct addresses *a, const struct address *who);

#endif
