/* The web page and what it must know before it can ask for anything else.
 *
 * The page is held to a Content-Security-Policy without exceptions: scripts and styles are files of
 * this server, nothing inline. It may connect to this server and to the WebSocket port, which is
 * another origin and must be named: by ws_url, or else by the host that the client called. */
#include "server/http.h"

#include "base/version.h"
#include "server/assets.h"
#include "server/config.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- where the WebSocket is ---------------------------------------------------------------------
 */

enum { HOST_MAX = 256, SOURCES = 700 };

/* The name in the Host header, without its port. "" where there is none, or none that can stand in
 * a policy: those know no IPv6 addresses. */
static void called_host(struct request *r, char host[HOST_MAX])
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-";
    const char *header = request_header(r, "Host");
    size_t n = header ? strspn(header, allowed) : 0;
    bool good = n > 0 && n < HOST_MAX && (header[n] == 0 || header[n] == ':');
    snprintf(host, HOST_MAX, "%.*s", good ? (int)n : 0, good ? header : "");
}

/* scheme://host:port of ws_url, or what the page's own address makes of it. */
static void ws_sources(struct request *r, char text[SOURCES])
{
    const char *url = r->server->config->ws_url;
    char host[HOST_MAX];
    called_host(r, host);
    const char *scheme = strstr(url, "://");
    if (scheme)
        snprintf(text, SOURCES, "%.*s", (int)(scheme + 3 - url + (long)strcspn(scheme + 3, "/")),
                 url);
    else if (*host)
        snprintf(text, SOURCES, "ws://%s:%d wss://%s:%d", host, ws_port(r->server->ws), host,
                 ws_port(r->server->ws));
    else
        snprintf(text, SOURCES, "ws: wss:");
}

enum err server_get(struct request *r)
{
    const struct config *c = r->server->config;
    reply_json(r, 200,
               json_pack("{s:s, s:{s:s?, s:i, s:s}, s:{s:I, s:I, s:I, s:i}}", "version",
                         TV3S_VERSION, "websocket", "url", *c->ws_url ? c->ws_url : NULL, "port",
                         ws_port(r->server->ws), "protocol", "tv3s.v1", "limits", "upload",
                         (json_int_t)c->max_upload, "image", (json_int_t)c->max_image, "pixels",
                         (json_int_t)c->max_pixels, "credit", 64));
    return ERR_OK;
}

/* ---- files --------------------------------------------------------------------------------------
 */

static void add_policy(struct request *r, struct MHD_Response **answer)
{
    char sources[SOURCES];
    ws_sources(r, sources);
    reply_header(answer, "Content-Security-Policy",
                 "default-src 'self'; connect-src 'self' %s; img-src 'self' blob:; "
                 "media-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; "
                 "frame-ancestors 'none'",
                 sources);
    reply_header(answer, "Referrer-Policy", "no-referrer");
    reply_header(answer, "Cross-Origin-Opener-Policy", "same-origin");
}

/* Of the content, by 64-bit FNV-1a; weak, because gzip or not makes no difference to it. */
static void make_etag(const struct asset *a, char etag[24])
{
    uint64_t h = 14695981039346656037ull;
    for (const char *p = a->data; p < a->end; p++)
        h = (h ^ (unsigned char)*p) * 1099511628211ull;
    snprintf(etag, 24, "W/\"%016" PRIx64 "\"", h);
}

/* If-None-Match is a list of tags, each perhaps W/"...", or *. */
static bool has_it(struct request *r, const char *etag)
{
    const char *list = request_header(r, "If-None-Match");
    return list && (strcmp(list, "*") == 0 || strstr(list, strchr(etag, '"')));
}

enum err page_get(struct request *r)
{
    char etag[24];
    const struct asset *a = asset_find(r->endpoint->path);
    if (!a)
        return err_set(ERR_INTERNAL, "%s is not in this build", r->endpoint->path);
    make_etag(a, etag);
    bool known = has_it(r, etag);
    struct MHD_Response *answer =
        known ? reply_static(NULL, "", 0)
              : reply_text_static(r, a->mime, a->data, (size_t)(a->end - a->data));
    if (!answer)
        return err_set(ERR_NOMEM, "no memory for an answer");
    reply_header(&answer, "ETag", "%s", etag);
    reply_header(&answer, "Cache-Control", "no-cache"); /* may be kept, is asked for by its ETag */
    add_policy(r, &answer);
    reply_send(r, known ? 304 : 200, answer);
    return ERR_OK;
}
