/* Whether a request says once, and in one way, where it ends and whom it is for.
 *
 * A proxy before us and libmicrohttpd must see the same requests on a connection: of what can be
 * read in two ways, somebody else's request may be made (RFC 9112, 3.2, 5.1, 6.1 and 6.3). It is
 * refused, and the connection is closed, since nobody knows where the next request begins. */
#include "server/http.h"

#include "server/http_headers.h"

#include <string.h>
#include <strings.h>

struct framing {
    int hosts, lengths, encodings;
    const char *fault;
};

static enum MHD_Result look_at(void *framing, enum MHD_ValueKind kind, const char *key,
                               const char *value)
{
    struct framing *f = framing;
    uint64_t length;
    (void)kind;
    if (key[strcspn(key, " \t")])
        f->fault = "the name of a header holds a blank";
    if (strcasecmp(key, "Host") == 0)
        f->hosts++;
    if (strcasecmp(key, "Content-Length") == 0) {
        f->lengths++;
        if (!value || !number_parse(value, &length) || length == UINT64_MAX)
            f->fault = "the Content-Length is no number, or too large for any";
    }
    if (strcasecmp(key, "Transfer-Encoding") == 0) {
        f->encodings++;
        if (!value || strcasecmp(value, "chunked") != 0)
            f->fault = "the only Transfer-Encoding here is chunked";
    }
    return MHD_YES;
}

enum err framing_check(struct request *r, const char *version)
{
    struct framing f = {0};
    bool old = strcmp(version, MHD_HTTP_VERSION_1_0) == 0;
    MHD_get_connection_values(r->connection, MHD_HEADER_KIND, look_at, &f);
    if (f.hosts > 1 || (f.hosts == 0 && !old))
        f.fault = "a request has one header Host";
    if (f.lengths + f.encodings > 1)
        f.fault = "a request has one Content-Length or one Transfer-Encoding";
    if (f.encodings && old)
        f.fault = "HTTP/1.0 has no Transfer-Encoding";
    return f.fault ? err_set(ERR_ARG, "%s", f.fault) : ERR_OK;
}
