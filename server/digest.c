#include "server/digest.h"

#include "server/describe.h"

#include <gnutls/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct digest {
    gnutls_hash_hd_t hash;
    uint64_t bytes;
};

static void add_text(struct digest *d, const char *text)
{
    gnutls_hash(d->hash, text, strlen(text) + 1);
}

enum err digest_open(const struct session_params *p, const char *webhook, struct digest **out)
{
    char resize[32] = "";
    struct digest *d = *out = calloc(1, sizeof *d);
    if (d && gnutls_hash_init(&d->hash, GNUTLS_DIG_SHA256) != 0) {
        free(d);
        d = *out = NULL;
    }
    if (!d)
        return err_set(ERR_NOMEM, "no memory for a SHA-256");
    if (p->stream.resize_override)
        resize_format(&p->stream.resize, resize, sizeof resize);
    add_text(d, p->model->name);
    add_text(d, mode_name(p->stream.mode));
    add_text(d, mask_format_name(p->format));
    add_text(d, resize);
    add_text(d, webhook);
    return ERR_OK;
}

void digest_add(struct digest *d, const void *data, size_t len)
{
    if (!d)
        return;
    gnutls_hash(d->hash, data, len);
    d->bytes += len;
}

uint64_t digest_bytes(const struct digest *d)
{
    return d->bytes;
}

void digest_end(struct digest *d, char hex[65])
{
    uint8_t sum[32];
    if (!d)
        return;
    gnutls_hash_deinit(d->hash, sum);
    for (size_t i = 0; hex && i < sizeof sum; i++)
        snprintf(hex + 2 * i, 3, "%02x", sum[i]);
    free(d);
}
