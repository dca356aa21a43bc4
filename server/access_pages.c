/* Pages of other sites, which a browser runs beside the daemon.
 *
 * Such a page may send requests to this machine, though it cannot read the answers, and may open a
 * WebSocket, in whose way no CORS stands: the Origin that the browser adds must be of the host that
 * was called (whatever the port: the page that the daemon serves has another than its WebSocket),
 * or on the list of cors_origins. And a page may have its own name resolve to this machine once it
 * is loaded (DNS rebinding): then the Origin is of the host that was called, and reads are open to
 * it as well. Where there are no keys that keep it out, the name that was called must be one of
 * this machine itself. */
#include "server/access_parts.h"

#include "server/config.h"

#include <arpa/inet.h>
#include <string.h>
#include <strings.h>

/* The host of "scheme://host:port" or "host:port"; of "[::1]:80" it is "[::1". */
static const char *host_of(const char *text, size_t *len)
{
    const char *scheme = strstr(text, "://");
    const char *host = scheme ? scheme + 3 : text;
    *len = *host == '[' ? strcspn(host, "]") : strcspn(host, ":/");
    return host;
}

static bool is_this_machine(const char *called)
{
    struct in_addr v4;
    char name[INET_ADDRSTRLEN] = "";
    size_t len;
    const char *host = host_of(called, &len);
    if ((len == 9 && strncasecmp(host, "localhost", len) == 0) ||
        (len == 4 && strncmp(host, "[::1", len) == 0))
        return true;
    if (len >= sizeof name)
        return false;
    memcpy(name, host, len);
    return inet_pton(AF_INET, name, &v4) == 1 && ntohl(v4.s_addr) >> 24 == 127;
}

/* As browsers write them: "https://example.org:8443", in small letters, nothing behind the port; or
 * "null". */
static bool is_origin(const char *text)
{
    size_t scheme = strspn(text, "abcdefghijklmnopqrstuvwxyz");
    if (strcmp(text, "null") == 0)
        return true;
    if (scheme == 0 || strncmp(text + scheme, "://", 3) != 0)
        return false;
    const char *host = text + scheme + 3;
    size_t n = strspn(host, "abcdefghijklmnopqrstuvwxyz0123456789.-_[]:");
    return n > 0 && host[n] == '\0' && host[n - 1] != ':';
}

enum err access_check_origins(const struct config *c)
{
    for (int i = 0; i < c->cors_origins.count; i++) {
        const char *item = c->cors_origins.item[i];
        if (strcmp(item, "*") != 0 && !is_origin(item))
            return err_set(ERR_ARG,
                           "cors_origins: '%.100s' is no origin as browsers send it, such as "
                           "https://example.org or http://localhost:3000",
                           item);
    }
    return ERR_OK;
}

static bool origin_allowed(const struct config *c, const char *called, const char *origin)
{
    size_t a, b;
    const char *x = host_of(origin, &a), *y = host_of(called, &b);
    if (a == b && strncasecmp(x, y, a) == 0)
        return true;
    for (int i = 0; i < c->cors_origins.count; i++) {
        const char *allowed = c->cors_origins.item[i];
        if (strcmp(allowed, "*") == 0 || strcmp(allowed, origin) == 0)
            return true;
    }
    return false;
}

enum err access_check_page(const struct access *a, const struct config *c, const char *called,
                           const char *origin)
{
    if (a->this_machine && called && !is_this_machine(called))
        return err_set(ERR_ORIGIN,
                       "without keys this daemon is called localhost, and not %s; behind a proxy "
                       "set keys_file or open_access",
                       called);
    if (origin && !origin_allowed(c, called ? called : "", origin))
        return err_set(ERR_ORIGIN, "%s is neither the host that was called nor in cors_origins",
                       origin);
    return ERR_OK;
}
