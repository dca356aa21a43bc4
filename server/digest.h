/* What an upload asks for, as a SHA-256: its parameters and its body. Two requests with the same
 * digest ask for the same. One thread at a time. */
#ifndef TV3S_SERVER_DIGEST_H
#define TV3S_SERVER_DIGEST_H

#include "server/session.h"

struct digest;

/* `webhook` "": none. */
enum err digest_open(const struct session_params *p, const char *webhook, struct digest **out);
void digest_add(struct digest *d, const void *data, size_t len); /* NULL d is allowed */
uint64_t digest_bytes(const struct digest *d);                   /* of the body, so far */
/* Frees it (NULL is allowed). `hex` gets the digest, unless NULL. */
void digest_end(struct digest *d, char hex[65]);

#endif
