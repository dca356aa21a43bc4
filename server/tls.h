/* TLS of both ports, where the settings name a certificate: GnuTLS inside libmicrohttpd, OpenSSL
 * inside libwebsockets, from the same two PEM files. Both ask at every handshake, so both have
 * another certificate at one moment. */
#ifndef TV3S_SERVER_TLS_H
#define TV3S_SERVER_TLS_H

#include "base/err.h"

#include <gnutls/abstract.h>
#include <openssl/ssl.h>
#include <stdbool.h>

struct config;

/* TLS 1.2 and 1.3, and no key is sent encrypted by the certificate's: who gets hold of that later
 * reads nothing of before. In GnuTLS' words, and the ciphers in OpenSSL's. */
#define TLS_PRIORITIES "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:-RSA"
#define TLS_CIPHERS    "DEFAULT:!kRSA"

bool tls_wanted(const struct config *c);

/* Reads the files, at the start and again: the certificate of the handshakes to come. ERR_ARG: one
 * of the two is named alone. ERR_FORMAT: they cannot be read or do not belong together; what was
 * stays. The main thread. */
enum err tls_load(const struct config *c);
/* After the front ends. */
void tls_close(void);

/* libmicrohttpd's callback, MHD_OPTION_HTTPS_CERT_CALLBACK. */
int tls_choose(gnutls_session_t session, const gnutls_datum_t *authorities, int count,
               const gnutls_pk_algorithm_t *algorithms, int algorithms_count,
               gnutls_pcert_st **chain, unsigned *length, gnutls_privkey_t *key);

/* Makes libwebsockets' context ask, by the rules above. False: it cannot. */
bool tls_prepare(SSL_CTX *context);

#endif
