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

/* "q=0", "q=0.0", ... at `p`, up to the next comma. */
static bool refused(const char *p)
{
    const char *end = p + strcspn(p, ","), *q = p;
    while (q < end && (q = strchr(q, ';')) && q < end) {
        q = skip_spaces(q + 1);
        if ((*q == 'q' || *q == 'Q') && q[1] == '=')
            return q[2] == '0' && strspn(q + 2, "0.") == strcspn(q + 2, ",; \t");
    }
    return false;
}

bool accepts_gzip(const char *text)
{
    for (const char *p = text; p && *p; p += strcspn(p, ","), p += *p == ',') {
        p = skip_spaces(p);
        size_t n = strcspn(p, ",; \t");
        if ((n == 4 && strncasecmp(p, "gzip", 4) == 0) ||
            (n == 6 && strncasecmp(p, "x-gzip", 6) == 0) || (n == 1 && *p == '*'))
            return !refused(p + n);
    }
    return false;
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
