#include "server/webhook_rules.h"

#include "base/try.h"
#include "server/config.h"

#include <ctype.h>
#include <curl/curl.h>
#include <gnutls/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { SECRET_MIN = 24, SECRET_MAX = 64, SECRET_FILE_MAX = 4096 };

struct webhook_rules {
    char (*host)[WEBHOOK_HOST]; /* "host" or "host:port" */
    int hosts;
    struct network *inner; /* listed: not public, and allowed all the same */
    int inners;
    uint8_t secret[SECRET_MAX];
    size_t secret_len;
};

/* ---- addresses ----------------------------------------------------------------------------------
 */

/* IANA's special-purpose registries: what is not reached through the internet, or leads elsewhere
 * than it says (NAT64, Teredo, 6to4). */
static const char *const special[] = {
    "0.0.0.0/8",     "10.0.0.0/8",      "100.64.0.0/10",  "127.0.0.0/8",    "169.254.0.0/16",
    "172.16.0.0/12", "192.0.0.0/24",    "192.0.2.0/24",   "192.88.99.0/24", "192.168.0.0/16",
    "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",    "2001::/23",
    "2001:db8::/32", "2002::/16",       "3fff::/20",
};

static bool holds(const char *network, const struct address *a)
{
    struct network n;
    return network_parse(network, &n) == ERR_OK && network_holds(&n, a);
}

static bool is_public(const struct address *a)
{
    if (!holds("0.0.0.0/0", a) && !holds("2000::/3", a))
        return false;
    for (size_t i = 0; i < sizeof special / sizeof *special; i++)
        if (holds(special[i], a))
            return false;
    return true;
}

bool webhook_address_allowed(const struct webhook_rules *w, const struct address *a)
{
    if (!a->known)
        return false;
    for (int i = 0; i < w->inners; i++)
        if (network_holds(&w->inner[i], a))
            return true;
    return is_public(a);
}

/* ---- URLs ---------------------------------------------------------------------------------------
 */

/* A part of it, or "" where it has none, or one that is too long. */
static void get_part(CURLU *u, CURLUPart what, unsigned flags, char *out, size_t room)
{
    char *text = NULL;
    out[0] = 0;
    if (curl_url_get(u, what, &text, flags) == CURLUE_OK && strlen(text) < room)
        snprintf(out, room, "%s", text);
    curl_free(text);
}

static bool listed(const struct webhook_rules *w, const char *host, const char *port, bool usual)
{
    char both[WEBHOOK_HOST + 8];
    snprintf(both, sizeof both, "%s:%s", host, port);
    for (int i = 0; i < w->hosts; i++)
        if (strcasecmp(w->host[i], both) == 0 || (usual && strcasecmp(w->host[i], host) == 0))
            return true;
    return false;
}

static enum err check_parts(const struct webhook_rules *w, CURLU *u, char host[WEBHOOK_HOST])
{
    char scheme[16], name[WEBHOOK_HOST - 8], port[8];
    get_part(u, CURLUPART_SCHEME, 0, scheme, sizeof scheme);
    get_part(u, CURLUPART_HOST, 0, name, sizeof name);
    get_part(u, CURLUPART_PORT, CURLU_DEFAULT_PORT, port, sizeof port);
    bool http = strcmp(scheme, "http") == 0, https = strcmp(scheme, "https") == 0;
    if (!http && !https)
        return err_set(ERR_ARG, "a webhook's URL begins with https:// or http://");
    if (!name[0] || !port[0] || !listed(w, name, port, strcmp(port, http ? "80" : "443") == 0))
        return err_set(ERR_ARG, "no webhooks go to %.100s:%s, which is not in webhook_hosts", name,
                       port);
    snprintf(host, WEBHOOK_HOST, "%s:%s", name, port);
    for (char *p = host; *p; p++)
        *p = (char)tolower((unsigned char)*p);
    return ERR_OK;
}

enum err webhook_url_check(const struct webhook_rules *w, const char *url, char host[WEBHOOK_HOST])
{
    CURLU *u = curl_url();
    if (!u)
        return err_set(ERR_NOMEM, "no memory for a URL");
    CURLUcode code = curl_url_set(u, CURLUPART_URL, url, CURLU_DISALLOW_USER);
    enum err e = code == CURLUE_OK
                     ? check_parts(w, u, host)
                     : err_set(ERR_ARG, "the webhook's URL: %s", curl_url_strerror(code));
    curl_url_cleanup(u);
    return e;
}

/* ---- the signature ------------------------------------------------------------------------------
 */

enum err webhook_sign(const struct webhook_rules *w, const char *id, const char *timestamp,
                      const char *body, char signature[WEBHOOK_SIGNATURE])
{
    const char *const part[] = {id, ".", timestamp, ".", body};
    uint8_t sum[32];
    gnutls_hmac_hd_t h;
    gnutls_datum_t text = {0};
    if (gnutls_hmac_init(&h, GNUTLS_MAC_SHA256, w->secret, w->secret_len) != 0)
        return err_set(ERR_NOMEM, "no memory for a signature");
    for (size_t i = 0; i < sizeof part / sizeof *part; i++)
        gnutls_hmac(h, part[i], strlen(part[i]));
    gnutls_hmac_deinit(h, sum);
    if (gnutls_base64_encode2(&(gnutls_datum_t){sum, sizeof sum}, &text) != 0)
        return err_set(ERR_NOMEM, "no memory for a signature");
    snprintf(signature, WEBHOOK_SIGNATURE, "v1,%.*s", (int)text.size, (const char *)text.data);
    gnutls_free(text.data);
    return ERR_OK;
}

static enum err take_secret(struct webhook_rules *w, const char *text)
{
    static const char prefix[] = "whsec_";
    enum { PREFIX = sizeof prefix - 1 };
    gnutls_datum_t secret = {0};
    if (strncmp(text, prefix, PREFIX) != 0 ||
        gnutls_base64_decode2(
            &(gnutls_datum_t){(uint8_t *)(uintptr_t)text + PREFIX, (unsigned)strlen(text) - PREFIX},
            &secret) != 0)
        return err_set(ERR_FORMAT, "it is no line of whsec_ and base64");
    bool good = secret.size >= SECRET_MIN && secret.size <= SECRET_MAX;
    if (good) {
        memcpy(w->secret, secret.data, secret.size);
        w->secret_len = secret.size;
    }
    explicit_bzero(secret.data, secret.size);
    gnutls_free(secret.data);
    return good ? ERR_OK
                : err_set(ERR_FORMAT, "a secret has %d to %d bytes", SECRET_MIN, SECRET_MAX);
}

static enum err read_secret(struct webhook_rules *w, const char *path)
{
    char text[SECRET_FILE_MAX];
    if (!path[0])
        return err_set(ERR_ARG, "webhook_hosts wants webhook_secret_file");
    FILE *f = fopen(path, "re");
    if (!f)
        return err_set(ERR_IO, "webhook_secret_file, %s: %m", path);
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    text[strcspn(text, "\r\n")] = 0;
    enum err e = take_secret(w, text);
    explicit_bzero(text, sizeof text);
    return e ? err_context(e, "webhook_secret_file, %s", path) : ERR_OK;
}

/* ---- opening ------------------------------------------------------------------------------------
 */

static const char host_letters[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_:[]";

/* "10.0.0.0/8" is a network; "hooks.example.org", "hooks.example.org:8443", "[::1]:80" are hosts.
 * One that is written as an address is a network of that address too. */
static enum err take_item(struct webhook_rules *w, const char *item)
{
    char name[WEBHOOK_HOST];
    if (strchr(item, '/'))
        return network_parse(item, &w->inner[w->inners++]);
    if (!item[0] || strlen(item) >= WEBHOOK_HOST || item[strspn(item, host_letters)])
        return err_set(ERR_ARG, "'%.60s' is no host", item);
    snprintf(w->host[w->hosts++], WEBHOOK_HOST, "%s", item);
    snprintf(name, sizeof name, "%s", item + (item[0] == '['));
    name[strcspn(name, item[0] == '[' ? "]" : ":")] = 0;
    if (network_parse(name, &w->inner[w->inners]) == ERR_OK)
        w->inners++;
    return ERR_OK;
}

static enum err read_settings(struct webhook_rules *w, const struct config *c)
{
    const struct config_list *list = &c->webhook_hosts;
    w->host = calloc((size_t)list->count + 1, sizeof *w->host);
    w->inner = calloc((size_t)list->count + 1, sizeof *w->inner);
    if (!w->host || !w->inner)
        return err_set(ERR_NOMEM, "no memory for webhooks");
    for (int i = 0; i < list->count; i++)
        if (take_item(w, list->item[i]))
            return err_context(ERR_ARG, "webhook_hosts");
    if (c->webhook_ca_file[0] && access(c->webhook_ca_file, R_OK) != 0)
        return err_set(ERR_IO, "webhook_ca_file, %s: %m", c->webhook_ca_file);
    return w->hosts ? read_secret(w, c->webhook_secret_file) : ERR_OK;
}

enum err webhook_rules_open(const struct config *c, struct webhook_rules **out)
{
    struct webhook_rules *w = *out = calloc(1, sizeof *w);
    return w ? read_settings(w, c) : err_set(ERR_NOMEM, "no memory for webhooks");
}

void webhook_rules_close(struct webhook_rules *w)
{
    if (!w)
        return;
    explicit_bzero(w->secret, sizeof w->secret);
    free(w->host);
    free(w->inner);
    free(w);
}
