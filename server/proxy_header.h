/* The header of the PROXY protocol, by which a proxy says at the begin of a connection who is
 * behind it. (haproxy.org: "The PROXY protocol, versions 1 & 2".)
 *
 * Version 1 is a line, "PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", 107 bytes at most.
 * Version 2 is binary: a signature, the length of the rest, the addresses, and behind them whatever
 * the proxy adds (TLVs), which is not looked at. Where the header names no client (UNKNOWN; LOCAL:
 * the proxy's own connection, such as a health check; UNIX sockets, datagrams), the connection is
 * as without one: the specification's UNSPEC.
 *
 * A function of bytes alone, so that it can be fuzzed. Any thread. */
#ifndef TV3S_SERVER_PROXY_HEADER_H
#define TV3S_SERVER_PROXY_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

/* Bytes of a header: what is longer is refused. The addresses take 232 at most; the names and
 * certificates that proxies add fit in the rest. */
enum { PROXY_HEADER_MAX = 4096 };

enum proxy_found { PROXY_MORE, PROXY_WRONG, PROXY_WHOLE };

struct proxy_header {
    size_t len; /* the header's own bytes: what follows is the client's */
    bool named; /* `from` is the client */
    struct sockaddr_storage from;
};

/* What the first `len` bytes of a connection are. PROXY_MORE: the begin of a header, never with
 * PROXY_HEADER_MAX bytes. *out is set with PROXY_WHOLE. */
enum proxy_found proxy_header_read(const void *data, size_t len, struct proxy_header *out);

#endif
