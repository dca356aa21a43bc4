/* Certificates that can be changed while the daemon runs.
 *
 * GnuTLS asks for the certificate at every handshake, by a callback that is given nothing of ours:
 * so the one in use stands in a variable of this file. OpenSSL asks too; a context of its own would
 * keep a certificate of each kind of key, and serve the old one beside a new one of another kind.
 * A handshake may go on with the one that it
 * got for as long as its client likes, so none is freed before the end. That is some kilobytes for
 * every renewal: a SIGHUP without new files makes none. */
#include "server/tls.h"

#include "base/try.h"
#include "server/config.h"

#include <gnutls/gnutls.h>
#include <openssl/err.h>
#include <openssl/pem.h>
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
    X509 *leaf; /* OpenSSL's: the same */
    STACK_OF(X509) * above;
    EVP_PKEY *secret;
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
    X509_free(i->leaf);
    sk_X509_pop_free(i->above, X509_free);
    EVP_PKEY_free(i->secret);
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

/* It has no password: nobody is here to type one. */
static int no_password(char *text, int room, int writes, void *context)
{
    (void)text, (void)room, (void)writes, (void)context;
    return 0;
}

static BIO *reader(const gnutls_datum_t *file)
{
    return BIO_new_mem_buf(file->data, (int)file->size);
}

static bool read_chain(struct identity *i, BIO *in)
{
    X509 *next = NULL;
    i->leaf = PEM_read_bio_X509(in, NULL, no_password, NULL);
    i->above = sk_X509_new_null();
    while (i->leaf && i->above && (next = PEM_read_bio_X509(in, NULL, no_password, NULL)))
        if (!sk_X509_push(i->above, next))
            break;
    if (next)
        X509_free(next);
    return i->leaf && i->above && !next;
}

/* What GnuTLS has found good. */
static enum err read_for_openssl(struct identity *i)
{
    BIO *certificates = reader(&i->certificate_file), *key = reader(&i->key_file);
    bool good = certificates && key && read_chain(i, certificates);
    if (good)
        i->secret = PEM_read_bio_PrivateKey(key, NULL, no_password, NULL);
    good = good && i->secret && X509_check_private_key(i->leaf, i->secret) == 1;
    BIO_free(certificates);
    BIO_free(key);
    unsigned long cause = ERR_peek_last_error(); /* the end of the chain is one too */
    ERR_clear_error();
    const char *text = good ? NULL : ERR_reason_error_string(cause);
    return good ? ERR_OK
                : err_set(ERR_FORMAT, "the certificate and its key: %s",
                          text ? text : "OpenSSL cannot use them");
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
    if (code < 0)
        return bad("the key", c->tls_key, code);
    TRY(check_pair(i, c->tls_key));
    return read_for_openssl(i);
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

static int choose(SSL *ssl, void *context)
{
    const struct identity *i = atomic_load(&current);
    (void)context;
    SSL_certs_clear(ssl);
    return SSL_use_certificate(ssl, i->leaf) == 1 && SSL_use_PrivateKey(ssl, i->secret) == 1 &&
           SSL_set1_chain(ssl, i->above) == 1;
}

bool tls_prepare(SSL_CTX *context)
{
    SSL_CTX_set_cert_cb(context, choose, NULL);
    return SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) == 1;
}
