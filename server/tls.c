/* Certificates that can be changed while the daemon runs.
 *
 * GnuTLS asks for the certificate at every handshake, by a callback that is given nothing of ours:
 * so the one in use stands in a variable of this file. A handshake may go on with the one that it
 * got for as long as its client likes, so none is freed before the end. That is some kilobytes for
 * every renewal: a SIGHUP without new files makes none. */
#include "server/tls.h"

#include "base/try.h"
#include "server/config.h"

#include <gnutls/gnutls.h>
#include <openssl/err.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { CHAIN_MAX = 16 };

struct identity {
    struct identity *older;
    gnutls_datum_t certificate_file, key_file;
    gnutls_pcert_st chain[CHAIN_MAX];
    unsigned length;
    gnutls_privkey_t key;
};

static _Atomic(struct identity *) current;

bool tls_wanted(const struct config *c)
{
    return c->tls_certificate[0] || c->tls_key[0];
}

/* ---- GnuTLS -------------------------------------------------------------------------------------
 */

static void identity_free(struct identity *i)
{
    for (unsigned n = 0; n < i->length; n++)
        gnutls_pcert_deinit(&i->chain[n]);
    if (i->key)
        gnutls_privkey_deinit(i->key);
    if (i->key_file.data)
        gnutls_memset(i->key_file.data, 0, i->key_file.size);
    gnutls_free(i->certificate_file.data);
    gnutls_free(i->key_file.data);
    free(i);
}

static bool same(const gnutls_datum_t *a, const gnutls_datum_t *b)
{
    return a->size == b->size && memcmp(a->data, b->data, a->size) == 0;
}

static enum err bad(const char *what, const char *path, int code)
{
    return err_set(ERR_FORMAT, "%s %s: %s", what, path, gnutls_strerror(code));
}

/* Whether the two belong together: GnuTLS looks at that when it is given both as a whole. */
static enum err check_pair(const struct identity *i, const char *path)
{
    gnutls_certificate_credentials_t all;
    int code = gnutls_certificate_allocate_credentials(&all);
    if (code < 0)
        return err_set(ERR_NOMEM, "no memory for a certificate");
    code = gnutls_certificate_set_x509_key_mem(all, &i->certificate_file, &i->key_file,
                                               GNUTLS_X509_FMT_PEM);
    gnutls_certificate_free_credentials(all);
    return code < 0 ? bad("the key", path, code) : ERR_OK;
}

static enum err read_identity(const struct config *c, struct identity *i)
{
    unsigned room = CHAIN_MAX;
    int code = gnutls_load_file(c->tls_certificate, &i->certificate_file);
    if (code < 0)
        return bad("the certificate", c->tls_certificate, code);
    code = gnutls_load_file(c->tls_key, &i->key_file);
    if (code < 0)
        return bad("the key", c->tls_key, code);
    code = gnutls_pcert_list_import_x509_raw(i->chain, &room, &i->certificate_file,
                                             GNUTLS_X509_FMT_PEM, 0);
    if (code < 0)
        return bad("the certificate", c->tls_certificate, code);
    i->length = room;
    code = gnutls_privkey_init(&i->key);
    if (code >= 0)
        code = gnutls_privkey_import_x509_raw(i->key, &i->key_file, GNUTLS_X509_FMT_PEM, NULL, 0);
    return code < 0 ? bad("the key", c->tls_key, code) : check_pair(i, c->tls_key);
}

enum err tls_load(const struct config *c)
{
    struct identity *before = atomic_load(&current);
    if (!tls_wanted(c))
        return ERR_OK;
    if (!c->tls_certificate[0] || !c->tls_key[0])
        return err_set(ERR_ARG, "tls_certificate and tls_key go together");
    struct identity *i = calloc(1, sizeof *i);
    if (!i)
        return err_set(ERR_NOMEM, "no memory for a certificate");
    enum err e = read_identity(c, i);
    if (e || (before && same(&before->certificate_file, &i->certificate_file) &&
              same(&before->key_file, &i->key_file))) {
        identity_free(i);
        return e;
    }
    i->older = before;
    atomic_store(&current, i);
    return ERR_OK;
}

void tls_close(void)
{
    struct identity *i = atomic_exchange(&current, NULL);
    while (i) {
        struct identity *older = i->older;
        identity_free(i);
        i = older;
    }
}

int tls_choose(gnutls_session_t session, const gnutls_datum_t *authorities, int count,
               const gnutls_pk_algorithm_t *algorithms, int algorithms_count,
               gnutls_pcert_st **chain, unsigned *length, gnutls_privkey_t *key)
{
    struct identity *i = atomic_load(&current);
    (void)session, (void)authorities, (void)count, (void)algorithms, (void)algorithms_count;
    *chain = i->chain;
    *length = i->length;
    *key = i->key;
    return 0;
}

/* ---- OpenSSL ------------------------------------------------------------------------------------
 */

enum err tls_load_openssl(const struct config *c, SSL_CTX *context)
{
    ERR_clear_error();
    if (SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) == 1 &&
        SSL_CTX_use_certificate_chain_file(context, c->tls_certificate) == 1 &&
        SSL_CTX_use_PrivateKey_file(context, c->tls_key, SSL_FILETYPE_PEM) == 1 &&
        SSL_CTX_check_private_key(context) == 1)
        return ERR_OK;
    const char *text = ERR_reason_error_string(ERR_get_error());
    return err_set(ERR_FORMAT, "%s and %s: %s", c->tls_certificate, c->tls_key,
                   text ? text : "they cannot be used");
}
