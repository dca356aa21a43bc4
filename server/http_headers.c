#include "server/http_headers.h"

#include <string.h>
#include <strings.h>

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static const char *skip_spaces(const char *p)
{
    while (*p == ' ' || *p == '\t')
        p++;
    return p;
}

/* Digits at *p, which moves behind them. False without any, or beyond 64 bits. */
static bool digits(const char **p, uint64_t *out)
{
    const char *c = *p;
    uint64_t n = 0;
    if (!is_digit(*c))
        return false;
    for (; is_digit(*c); c++) {
        uint64_t d = (uint64_t)(*c - '0');
        if (n > (UINT64_MAX - d) / 10)
            return false;
        n = n * 10 + d;
    }
    *p = c;
    *out = n;
    return true;
}

bool number_parse(const char *text, uint64_t *out)
{
    return digits(&text, out) && *text == 0;
}

const char *target_fault(const char *target)
{
    size_t path = strcspn(target, "?");
    if (strstr(target, "%00"))
        return "the target holds a zero byte";
    for (const char *p = target; (p = strchr(p, '%')) && p < target + path; p++)
        if (strncasecmp(p, "%2f", 3) == 0)
            return "a name in the path holds a slash";
    return NULL;
}

/* RFC 9110, 14.1.2: "bytes=FIRST-", "bytes=FIRST-LAST", "bytes=-SUFFIX". */
enum range_kind range_parse(const char *text, uint64_t size, uint64_t *first, uint64_t *length)
{
    uint64_t a = 0, b = UINT64_MAX;
    *first = 0;
    *length = size;
    if (!text || strncasecmp(text, "bytes=", 6) != 0)
        return RANGE_WHOLE;
    const char *p = skip_spaces(text + 6);
    bool suffix = *p == '-';
    if (!suffix && !digits(&p, &a))
        return RANGE_WHOLE;
    if (*p++ != '-' || (is_digit(*p) ? !digits(&p, &b) : suffix))
        return RANGE_WHOLE;
    if (*skip_spaces(p) || (!suffix && b < a))
        return RANGE_WHOLE;
    if (suffix) {
        a = b < size ? size - b : 0;
        if (b == 0)
            return RANGE_OUTSIDE;
        b = UINT64_MAX;
    }
    if (a >= size)
        return RANGE_OUTSIDE;
    *first = a;
    *length = (b < size ? b + 1 : size) - a;
    return RANGE_PART;
}

/* ---- Accept-Encoding: RFC 9110, 12.5.3 ----------------------------------------------------------
 */

/* A weight in thousandths: "1", "0.5", "0.123"; -1 for anything else. Moves behind it. */
static int weight(const char **p)
{
    const char *c = *p;
    if (*c != '0' && *c != '1')
        return -1;
    int q = (*c++ - '0') * 1000;
    if (*c == '.') {
        c++;
        for (int unit = 100; unit && is_digit(*c); unit /= 10)
            q += unit * (*c++ - '0');
    }
    *p = c;
    return q <= 1000 ? q : -1;
}

/* The weight behind a coding, up to the next comma: 1000 without one, 0 if it is malformed, since
 * what we do not understand is better not relied on. */
static int weight_of(const char *p)
{
    p = skip_spaces(p);
    if (*p == 0 || *p == ',')
        return 1000;
    if (*p++ != ';')
        return 0;
    p = skip_spaces(p);
    if ((*p != 'q' && *p != 'Q') || p[1] != '=')
        return 0;
    p += 2;
    int q = weight(&p);
    p = skip_spaces(p);
    return q >= 0 && (*p == 0 || *p == ',') ? q : 0;
}

static bool is_coding(const char *p, size_t n, const char *name)
{
    return n == strlen(name) && strncasecmp(p, name, n) == 0;
}

bool accepts_gzip(const char *text)
{
    int gzip = -1, any = -1, identity = 0; /* as it came, without being named: the last resort */
    for (const char *p = text; p && *p; p += strcspn(p, ","), p += *p == ',') {
        p = skip_spaces(p);
        size_t n = strcspn(p, ",; \t");
        int q = weight_of(p + n);
        if (is_coding(p, n, "gzip") || is_coding(p, n, "x-gzip"))
            gzip = gzip > q ? gzip : q;
        else if (is_coding(p, n, "*"))
            any = q;
        else if (is_coding(p, n, "identity"))
            identity = q;
    }
    gzip = gzip >= 0 ? gzip : any;
    return gzip > 0 && gzip >= identity;
}

/* -------------------------------------------------------------------------------------------------
 */

bool key_valid(const char *text)
{
    size_t n = 0;
    while (text[n] > ' ' && text[n] < 127)
        n++;
    return n >= 1 && n <= 255 && text[n] == 0;
}

bool request_id_valid(const char *text)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t n = strspn(text, allowed);
    return n >= 1 && n <= 64 && text[n] == 0;
}

static bool has_type(const char *text, const char *type)
{
    size_t n = strlen(type);
    return strncasecmp(text, type, n) == 0 && strchr("; \t", text[n]);
}

enum content_kind content_kind(const char *text)
{
    if (!text)
        return CONTENT_RAW;
    text = skip_spaces(text);
    if (has_type(text, "multipart/form-data"))
        return CONTENT_FORM;
    if (strncasecmp(text, "multipart/", 10) == 0 ||
        has_type(text, "application/x-www-form-urlencoded"))
        return CONTENT_REFUSED;
    return CONTENT_RAW;
}
