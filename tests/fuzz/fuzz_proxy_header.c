/* What comes at the begin of a proxy's connection, in one piece and byte by byte. */
#include "server/proxy_header.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct proxy_header whole, part;
    size_t most = size < PROXY_HEADER_MAX ? size : PROXY_HEADER_MAX;
    enum proxy_found found = proxy_header_read(data, most, &whole);
    if (found == PROXY_WHOLE && (whole.len == 0 || whole.len > most))
        abort();
    if (found == PROXY_MORE && most == PROXY_HEADER_MAX)
        abort();
    if (found == PROXY_WHOLE && whole.named && whole.from.ss_family != AF_INET &&
        whole.from.ss_family != AF_INET6)
        abort();
    /* More is never taken for whole, and what is behind a header changes nothing. */
    size_t end = found == PROXY_WHOLE ? whole.len : most;
    for (size_t n = 0; n < end && n < 256; n++) {
        char *copy = malloc(n ? n : 1); /* its end is the end of what may be read */
        if (!copy)
            return 0;
        memcpy(copy, data, n);
        enum proxy_found early = proxy_header_read(copy, n, &part);
        free(copy);
        if (early == PROXY_WHOLE || (early == PROXY_WRONG && found != PROXY_WRONG))
            abort();
        if (early == PROXY_WRONG)
            break;
    }
    if (found == PROXY_WHOLE && (proxy_header_read(data, whole.len, &part) != PROXY_WHOLE ||
                                 memcmp(&part, &whole, sizeof part) != 0))
        abort();
    return 0;
}
