/* Where webhooks may go, and how they are signed.
 *
 * An upload names a URL; the daemon, which may reach what its clients cannot, calls it only if the
 * host and port are listed in `webhook_hosts`, and connects only to addresses that are public or in
 * a network that is listed there: what a name resolves to is nobody's promise. The address is
 * looked at when the socket is made, so no second answer of a name server can change it.
 *
 * The signature is that of Standard Webhooks: HMAC-SHA256 over "ID.TIMESTAMP.BODY". Read-only once
 * open: any thread. */
#ifndef TV3S_SERVER_WEBHOOK_RULES_H
#define TV3S_SERVER_WEBHOOK_RULES_H

#include "base/err.h"
#include "server/address.h"

struct config;
struct webhook_rules;

enum { WEBHOOK_HOST = 256, WEBHOOK_SIGNATURE = 64 };

/* ERR_ARG, ERR_IO, ERR_FORMAT: a setting, or the file of the secret, which is wanted where hosts
 * are listed. */
enum err webhook_rules_open(const struct config *c, struct webhook_rules **out);
void webhook_rules_close(struct webhook_rules *w); /* NULL is allowed */

/* Whether a URL may be called: http or https, no user, a host that is listed. `host` gets
 * "host:port", in small letters. ERR_ARG where not. */
enum err webhook_url_check(const struct webhook_rules *w, const char *url, char host[WEBHOOK_HOST]);
/* Whether a connection may be made to what a listed host resolved to. */
bool webhook_address_allowed(const struct webhook_rules *w, const struct address *a);
/* "v1," and base64 of the HMAC. */
enum err webhook_sign(const struct webhook_rules *w, const char *id, const char *timestamp,
                      const char *body, char signature[WEBHOOK_SIGNATURE]);

#endif
