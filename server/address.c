#include "server/address.h"

#include "base/try.h"
#include "server/config.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { BUCKETS = 1 << 12, PART_MAX = 128 };

struct counted {
    struct counted *next;
    struct address who;
    int connections;
};

struct addresses {
    const struct config *config;
    struct network *trusted;
    int trusted_count;
    bool trust_unix, rfc7239; /* the header is Forwarded */
    pthread_mutex_t lock;
    struct counted *bucket[BUCKETS];
};

/* ---- addresses ----------------------------------------------------------------------------------
 */

static const uint8_t v4_prefix[12] = {[10] = 0xff, [11] = 0xff};

static bool is_v4(const struct address *a)
{
    return memcmp(a->bytes, v4_prefix, sizeof v4_prefix) == 0;
}

static bool parse(const char *text, struct address *out)
{
    *out = (struct address){.known = true};
    if (inet_pton(AF_INET6, text, out->bytes) == 1)
        return true;
    memcpy(out->bytes, v4_prefix, sizeof v4_prefix);
    return inet_pton(AF_INET, text, out->bytes + 12) == 1;
}

struct address address_of(const struct sockaddr *peer)
{
    struct address a = {0};
    if (peer && peer->sa_family == AF_INET6) {
        a.known = true;
        memcpy(a.bytes, &((const struct sockaddr_in6 *)(const void *)peer)->sin6_addr, 16);
    } else if (peer && peer->sa_family == AF_INET) {
        a.known = true;
        memcpy(a.bytes, v4_prefix, sizeof v4_prefix);
        memcpy(a.bytes + 12, &((const struct sockaddr_in *)(const void *)peer)->sin_addr, 4);
    }
    return a;
}

void address_print(const struct address *a, char text[ADDRESS_TEXT])
{
    snprintf(text, ADDRESS_TEXT, "-");
    if (a->known && is_v4(a))
        inet_ntop(AF_INET, a->bytes + 12, text, ADDRESS_TEXT);
    else if (a->known)
        inet_ntop(AF_INET6, a->bytes, text, ADDRESS_TEXT);
}

/* ---- networks -----------------------------------------------------------------------------------
 */

bool network_holds(const struct network *n, const struct address *a)
{
    int whole = n->bits / 8, rest = n->bits % 8;
    uint8_t mask = (uint8_t)(0xff00 >> rest);
    return memcmp(n->first.bytes, a->bytes, (size_t)whole) == 0 &&
           (rest == 0 || ((n->first.bytes[whole] ^ a->bytes[whole]) & mask) == 0);
}

enum err network_parse(const char *text, struct network *out)
{
    char address[PART_MAX], *end = NULL;
    size_t n = strcspn(text, "/");
    snprintf(address, sizeof address, "%.*s", n < sizeof address ? (int)n : 0, text);
    bool good = parse(address, &out->first);
    long most = good && is_v4(&out->first) ? 32 : 128, bits = most;
    if (good && text[n]) {
        bits = strtol(text + n + 1, &end, 10);
        good = text[n + 1] >= '0' && text[n + 1] <= '9' && !*end && bits <= most;
    }
    if (!good)
        return err_set(ERR_ARG, "'%.60s' is no network", text);
    out->bits = (int)(bits + 128 - most);
    return ERR_OK;
}

/* ---- proxies ------------------------------------------------------------------------------------
 */

bool address_trusted(const struct addresses *a, const struct address *peer)
{
    if (!peer->known)
        return a->trust_unix;
    for (int i = 0; i < a->trusted_count; i++)
        if (network_holds(&a->trusted[i], peer))
            return true;
    return false;
}

bool address_announces(const struct addresses *a, const struct address *peer)
{
    return a->config->proxy_protocol && address_trusted(a, peer);
}

/* The address of one part of the header: "for=192.0.2.60;proto=https", "for=\"[2001:db8::1]:47\"",
 * or of the plain list: "192.0.2.60", "[2001:db8::1]:47". */
static bool parse_part(const struct addresses *a, const char *text, size_t len, struct address *out)
{
    char part[PART_MAX], *p = part;
    if (len >= sizeof part)
        return false;
    snprintf(part, sizeof part, "%.*s", (int)len, text);
    if (a->rfc7239) {
        char *rest = part, *pair;
        while ((pair = strsep(&rest, ";"))) {
            pair += strspn(pair, " \t");
            if (strncasecmp(pair, "for=", 4) == 0)
                break;
        }
        if (!pair)
            return false;
        p = pair + 4;
    }
    p += strspn(p, " \t\"[");
    p[strcspn(p, "\"] \t")] = '\0';
    char *colon = strchr(p, ':');
    if (colon && strchr(p, '.') && !strchr(colon + 1, ':'))
        *colon = '\0'; /* the port behind an IPv4 address */
    return parse(p, out);
}

enum err address_client(const struct addresses *a, const struct address *peer, const char *header,
                        struct address *out)
{
    *out = *peer;
    size_t end = header ? strlen(header) : 0;
    while (end > 0 && address_trusted(a, out)) {
        size_t begin = end;
        while (begin > 0 && header[begin - 1] != ',')
            begin--;
        if (!parse_part(a, header + begin, end - begin, out))
            return err_set(ERR_ARG, "the header %s is malformed", a->config->forwarded_header);
        end = begin > 0 ? begin - 1 : 0;
    }
    return ERR_OK;
}

/* ---- counting -----------------------------------------------------------------------------------
 */

static struct address whole(const struct address *who)
{
    struct address a = *who;
    if (!is_v4(&a))
        memset(a.bytes + 8, 0, 8);
    return a;
}

/* With the lock held: the link to it, or to where it would be. */
static struct counted **find(struct addresses *a, const struct address *who)
{
    uint32_t h = 2166136261u;
    for (int i = 0; i < 16; i++)
        h = (h ^ who->bytes[i]) * 16777619u;
    struct counted **at = &a->bucket[h % BUCKETS];
    while (*at && memcmp((*at)->who.bytes, who->bytes, 16) != 0)
        at = &(*at)->next;
    return at;
}

static bool counts(const struct addresses *a, const struct address *who)
{
    return who->known && !address_trusted(a, who);
}

bool address_full(struct addresses *a, const struct address *who)
{
    int most = a->config->address_connections;
    if (!most || !counts(a, who))
        return false;
    struct address all = whole(who);
    pthread_mutex_lock(&a->lock);
    const struct counted *c = *find(a, &all);
    bool full = c && c->connections >= most;
    pthread_mutex_unlock(&a->lock);
    return full;
}

enum err address_enter(struct addresses *a, const struct address *who)
{
    if (!counts(a, who))
        return ERR_OK;
    if (address_full(a, who))
        return err_set(ERR_ADDRESS, "this address has %d connections",
                       atomic_load(&a->config->address_connections));
    struct address all = whole(who);
    enum err e = ERR_OK;
    pthread_mutex_lock(&a->lock);
    struct counted **at = find(a, &all);
    if (!*at && (*at = calloc(1, sizeof **at)))
        (*at)->who = all;
    if (*at)
        (*at)->connections++;
    else
        e = err_set(ERR_NOMEM, "no memory for an address");
    pthread_mutex_unlock(&a->lock);
    return e;
}

void address_leave(struct addresses *a, const struct address *who)
{
    if (!counts(a, who))
        return;
    struct address all = whole(who);
    pthread_mutex_lock(&a->lock);
    struct counted **at = find(a, &all), *c = *at;
    if (c && --c->connections == 0) {
        *at = c->next;
        free(c);
    }
    pthread_mutex_unlock(&a->lock);
}

/* ---- opening and closing ------------------------------------------------------------------------
 */

static enum err read_settings(struct addresses *a, const struct config *c)
{
    const struct config_list *list = &c->trusted_proxies;
    a->rfc7239 = strcasecmp(c->forwarded_header, "Forwarded") == 0;
    if (!a->rfc7239 && strcasecmp(c->forwarded_header, "X-Forwarded-For") != 0)
        return err_set(ERR_ARG, "forwarded_header is X-Forwarded-For or Forwarded");
    if (c->proxy_protocol && list->count == 0)
        return err_set(ERR_ARG, "proxy_protocol wants trusted_proxies: from them alone it is read");
    a->trusted = calloc((size_t)list->count + 1, sizeof *a->trusted);
    if (!a->trusted)
        return err_set(ERR_NOMEM, "no memory for addresses");
    for (int i = 0; i < list->count; i++) {
        if (strcmp(list->item[i], "unix") == 0)
            a->trust_unix = true;
        else if (network_parse(list->item[i], &a->trusted[a->trusted_count++]))
            return err_context(ERR_ARG, "trusted_proxies");
    }
    return ERR_OK;
}

enum err addresses_open(const struct config *c, struct addresses **out)
{
    struct addresses *a = *out = calloc(1, sizeof *a);
    if (!a)
        return err_set(ERR_NOMEM, "no memory for addresses");
    a->config = c;
    pthread_mutex_init(&a->lock, NULL);
    return read_settings(a, c);
}

void addresses_close(struct addresses *a)
{
    if (!a)
        return;
    for (int i = 0; i < BUCKETS; i++) {
        while (a->bucket[i]) {
            struct counted *next = a->bucket[i]->next;
            free(a->bucket[i]);
            a->bucket[i] = next;
        }
    }
    pthread_mutex_destroy(&a->lock);
    free(a->trusted);
    free(a);
}
