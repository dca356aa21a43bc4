#include "server/proxy_header.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_MAX_LEN = 107, FIXED = 16 };

static void set_v4(struct proxy_header *h, const void *address, unsigned port)
{
    struct sockaddr_in *to = (struct sockaddr_in *)(void *)&h->from;
    h->named = true;
    to->sin_family = AF_INET;
    to->sin_port = htons((uint16_t)port);
    memcpy(&to->sin_addr, address, sizeof to->sin_addr);
}

static void set_v6(struct proxy_header *h, const void *address, unsigned port)
{
    struct sockaddr_in6 *to = (struct sockaddr_in6 *)(void *)&h->from;
    h->named = true;
    to->sin6_family = AF_INET6;
    to->sin6_port = htons((uint16_t)port);
    memcpy(&to->sin6_addr, address, sizeof to->sin6_addr);
}

/* ---- version 1 ----------------------------------------------------------------------------------
 */

/* Cuts a word off that ends at one space, or with the text. NULL: there is none. */
static char *word(char **text)
{
    char *w = strsep(text, " ");
    return w && *w ? w : NULL;
}

static bool read_port(const char *text, unsigned *out)
{
    size_t len = strlen(text);
    if (len > 5 || strspn(text, "0123456789") != len || (len > 1 && *text == '0'))
        return false;
    *out = (unsigned)strtoul(text, NULL, 10);
    return *out <= UINT16_MAX;
}

/* What stands behind "PROXY TCP4 " or "PROXY TCP6 ". */
static bool read_addresses(char *text, int family, struct proxy_header *out)
{
    struct in6_addr from, to;
    unsigned from_port, to_port;
    const char *a = word(&text), *b = word(&text), *p = word(&text), *q = word(&text);
    if (!a || !b || !p || !q || text || inet_pton(family, a, &from) != 1 ||
        inet_pton(family, b, &to) != 1 || !read_port(p, &from_port) || !read_port(q, &to_port))
        return false;
    (family == AF_INET ? set_v4 : set_v6)(out, &from, from_port);
    return true;
}

static enum proxy_found read_line(const char *data, size_t len, struct proxy_header *out)
{
    static const char unknown[] = "PROXY UNKNOWN", v4[] = "PROXY TCP4 ", v6[] = "PROXY TCP6 ";
    char line[LINE_MAX_LEN + 1];
    size_t most = len < LINE_MAX_LEN ? len : LINE_MAX_LEN;
    const char *end = memchr(data, '\n', most);
    if (!end)
        return len < LINE_MAX_LEN ? PROXY_MORE : PROXY_WRONG;
    size_t n = (size_t)(end - data);
    out->len = n + 1;
    if (data[n - 1] != '\r' || memchr(data, '\r', n - 1) || memchr(data, 0, n))
        return PROXY_WRONG;
    memcpy(line, data, n - 1);
    line[n - 1] = '\0';
    size_t name = sizeof unknown - 1, family = sizeof v4 - 1;
    bool good = strncmp(line, unknown, name) == 0 && (!line[name] || line[name] == ' ');
    if (strncmp(line, v4, family) == 0)
        good = read_addresses(line + family, AF_INET, out);
    else if (strncmp(line, v6, family) == 0)
        good = read_addresses(line + family, AF_INET6, out);
    return good ? PROXY_WHOLE : PROXY_WRONG;
}

/* ---- version 2 ----------------------------------------------------------------------------------
 */

/* Byte 12 is the version and the command, 13 the family and the protocol, 14 and 15 the length of
 * what follows: from, to, and their ports. */
static enum proxy_found read_binary(const uint8_t *data, size_t len, struct proxy_header *out)
{
    enum { LOCAL = 0x20, PROXY = 0x21, UNIX = 3, DATAGRAM = 2, TCP4 = 0x11, TCP6 = 0x21 };
    enum { V4_BYTES = 2 * 4 + 4, V6_BYTES = 2 * 16 + 4, UNIX_BYTES = 2 * 108 };
    static const size_t least[] = {0, V4_BYTES, V6_BYTES, UNIX_BYTES};
    if (len < FIXED)
        return PROXY_MORE;
    unsigned command = data[12], family = data[13] >> 4, protocol = data[13] & 15;
    size_t rest = (size_t)data[14] << 8 | data[15];
    bool good = command == LOCAL || (command == PROXY && family <= UNIX && protocol <= DATAGRAM &&
                                     rest >= least[family]);
    if (!good || FIXED + rest > PROXY_HEADER_MAX)
        return PROXY_WRONG;
    if (len < FIXED + rest)
        return PROXY_MORE;
    const uint8_t *at = data + FIXED;
    out->len = FIXED + rest;
    if (command == PROXY && data[13] == TCP4)
        set_v4(out, at, (unsigned)at[8] << 8 | at[9]);
    else if (command == PROXY && data[13] == TCP6)
        set_v6(out, at, (unsigned)at[32] << 8 | at[33]);
    return PROXY_WHOLE;
}

/* ---- either -------------------------------------------------------------------------------------
 */

static bool begins(const void *data, size_t len, const void *with, size_t size)
{
    return memcmp(data, with, len < size ? len : size) == 0;
}

enum proxy_found proxy_header_read(const void *data, size_t len, struct proxy_header *out)
{
    static const char line[] = {'P', 'R', 'O', 'X', 'Y', ' '};
    static const char signature[] = "\r\n\r\n\0\r\nQUIT\n";
    *out = (struct proxy_header){0};
    if (begins(data, len, line, sizeof line))
        return read_line(data, len, out);
    if (begins(data, len, signature, sizeof signature - 1))
        return read_binary(data, len, out);
    return PROXY_WRONG;
}
