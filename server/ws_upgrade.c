/* From the HTTP request to a connection.
 *
 * Everything that can be refused is refused here, with an HTTP status and a problem object, before
 * the protocol changes; a client that got 101 has its stream. */
#include "server/ws.h"

#include "base/whole.h"
#include "server/config.h"
#include "server/describe.h"
#include "server/handover.h"
#include "server/http_headers.h"
#include "server/log.h"

#include "base/try.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- the query ----------------------------------------------------------------------------------
 */

enum { QUERY_VALUE = 256, QUERY_MAX = 4096, HEADER_MAX = 256, FORWARDED_MAX = 1024 };
enum { BODY_SECONDS = 5 };

static const char *const names[] = {"model", "mode",   "format",  "resize",
                                    "drop",  "credit", "takeover"};
enum { NAMES = sizeof names / sizeof *names };

struct query {
    char value[NAMES][QUERY_VALUE];
    bool given[NAMES];
};

static const char *query_get(void *query, const char *name)
{
    struct query *q = query;
    for (int i = 0; i < NAMES; i++)
        if (strcmp(name, names[i]) == 0)
            return q->given[i] ? q->value[i] : NULL;
    return NULL;
}

static enum err query_take(struct query *q, const char *argument)
{
    size_t len = strcspn(argument, "=");
    const char *value = argument[len] ? argument + len + 1 : "";
    for (int i = 0; i < NAMES; i++) {
        if (strlen(names[i]) != len || strncmp(argument, names[i], len) != 0)
            continue;
        if (q->given[i])
            return err_set(ERR_ARG, "the parameter %s is there twice", names[i]);
        q->given[i] = true;
        if (strlen(value) >= QUERY_VALUE)
            return err_set(ERR_ARG, "the parameter %s is too long", names[i]);
        memcpy(q->value[i], value, strlen(value) + 1);
        return ERR_OK;
    }
    return err_set(ERR_ARG, "there is no parameter '%.*s'", (int)len, argument);
}

/* libwebsockets makes a slash of a query without a character. */
static enum err query_read(struct lws *wsi, struct query *q)
{
    char argument[QUERY_MAX];
    *q = (struct query){0};
    if (lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_URI_ARGS) >= QUERY_MAX)
        return err_set(ERR_ARG, "the query is too long");
    for (int i = 0;; i++) {
        int n = lws_hdr_copy_fragment(wsi, argument, sizeof argument, WSI_TOKEN_HTTP_URI_ARGS, i);
        if (n < 0)
            return ERR_OK;
        bool none = n == 0 || strcmp(argument, "/") == 0;
        enum err e = none ? ERR_OK : query_take(q, argument);
        if (e)
            return e;
    }
}

static enum err parse_drop(const char *text, enum drop_policy *out)
{
    static const char *const policy[] = {"none", "oldest", "newest"};
    for (int i = 0; i < 3; i++) {
        if (strcmp(text, policy[i]) != 0)
            continue;
        *out = (enum drop_policy)i;
        return ERR_OK;
    }
    return err_set(ERR_ARG, "drop is none, oldest or newest, not '%.40s'", text);
}

static enum err parse_credit(const char *text, int *out)
{
    char *end;
    long n = strtol(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || n < 1 || n > 64)
        return err_set(ERR_ARG, "credit is a number of 1 to 64, not '%.40s'", text);
    *out = (int)n;
    return ERR_OK;
}

static enum err parse_takeover(const char *text, bool *out)
{
    *out = strcmp(text, "1") == 0;
    return *out || strcmp(text, "0") == 0 ? ERR_OK : err_set(ERR_ARG, "takeover is 0 or 1");
}

/* ---- the stream ---------------------------------------------------------------------------------
 */

/* /v1/streams/ID/ws */
static enum err read_path(struct lws *wsi, char id[SESSION_ID])
{
    static const char before[] = "/v1/streams/", after[] = "/ws";
    char path[SESSION_ID + sizeof before + sizeof after];
    int n = lws_hdr_copy(wsi, path, sizeof path, WSI_TOKEN_GET_URI);
    int len = n - (int)(sizeof before - 1 + sizeof after - 1);
    if (n < 0 || len < 0 || strncmp(path, before, sizeof before - 1) != 0 ||
        strcmp(path + n - (sizeof after - 1), after) != 0)
        return err_set(ERR_NOT_FOUND, "WebSockets are at /v1/streams/ID/ws");
    if (len >= SESSION_ID)
        return err_set(ERR_ARG, "a stream ID has at most %d characters", SESSION_ID - 1);
    memcpy(id, path + sizeof before - 1, (size_t)len);
    id[len] = '\0';
    return session_id_valid(id) ? ERR_OK : err_set(ERR_ARG, "'%s' is no stream ID", id);
}

/* What the query leaves open is as the stream that is there has it. */
static enum err find_or_make(struct ws *w, struct owner *owner, const char *id, struct query *q,
                             bool *created, struct session **out)
{
    struct session_params p;
    struct session *there = NULL;
    enum err e = params_parse(w->server, query_get, q, &p);
    if (e)
        return e;
    p.owner = owner;
    if (session_find(w->server->sessions, owner, id, &there) == ERR_OK) {
        if (!query_get(q, "model"))
            p.model = there->params.model;
        if (!query_get(q, "resize")) {
            p.stream.resize = there->params.stream.resize;
            p.stream.resize_override = there->params.stream.resize_override;
        }
        if (!query_get(q, "mode"))
            p.stream.mode = there->params.stream.mode;
    }
    session_unref(there);
    return session_make(w->server->sessions, id, &p, created, out);
}

/* What was made just now comes from elsewhere, if it is there. The connection waits for it. */
static void take_up(struct ws *w, struct session *session, struct query *q, bool takeover)
{
    const struct take_up want = {.model = query_get(q, "model"),
                                 .mode = query_get(q, "mode"),
                                 .resize = query_get(q, "resize"),
                                 .format = query_get(q, "format"),
                                 .takeover = takeover};
    if (w->server->handover)
        handover_take_up(w->server->handover, session, &want);
}

/* Takes the stream for `c`; the connection that had it is told. */
static enum err claim(struct connection *c, bool takeover)
{
    void *previous;
    enum err e = session_attach(c->session, c, takeover, &previous);
    if (!e && previous)
        connection_close(previous, CLOSE_TAKEOVER, "takeover", true);
    return e;
}

/* What of the query is the connection's alone. */
struct wishes {
    enum drop_policy drop;
    int credit;
    bool takeover;
};

static enum err parse_wishes(const struct query *q, struct wishes *out)
{
    if (q->given[4])
        TRY(parse_drop(q->value[4], &out->drop));
    if (q->given[5])
        TRY(parse_credit(q->value[5], &out->credit));
    if (q->given[6])
        TRY(parse_takeover(q->value[6], &out->takeover));
    return ERR_OK;
}

/* A connection that has the session. */
static enum err connect_to(struct ws *w, struct lws *wsi, const struct address *client,
                           struct session *session, struct query *q, const struct wishes *wishes,
                           bool created)
{
    struct connection *c;
    TRY(connection_open(w, wsi, client, session_ref(session), &c));
    c->created = created;
    c->drop = wishes->drop;
    c->credit = wishes->credit;
    c->format_given = q->given[2];
    if (q->given[2]) /* parsed once already */
        mask_format_parse(q->value[2], &c->format);
    enum err e = claim(c, wishes->takeover);
    if (e)
        connection_lost(c);
    else
        ((struct visitor *)lws_get_opaque_user_data(wsi))->connection = c;
    return e;
}

static enum err make_connection(struct ws *w, struct lws *wsi, struct owner *owner,
                                const struct address *client, const char *id, struct query *q)
{
    struct wishes wishes = {.drop = DROP_NONE, .credit = w->server->config->stream_credit};
    struct session *session;
    bool created;
    TRY(parse_wishes(q, &wishes));
    TRY(find_or_make(w, owner, id, q, &created, &session));
    enum err e = connect_to(w, wsi, client, session, q, &wishes, created);
    if (created)
        take_up(w, session, q, wishes.takeover); /* after the claim, which needs it in the table */
    session_unref(session);
    return e;
}

/* ---- who may ------------------------------------------------------------------------------------
 */

/* Of browsers alone; what is too long to be read is no page of ours. */
static enum err check_page(struct ws *w, struct lws *wsi)
{
    char origin[HEADER_MAX], host[HEADER_MAX];
    const struct access *a = w->server->access;
    bool page = lws_hdr_total_length(wsi, WSI_TOKEN_ORIGIN) > 0;
    bool called = lws_hdr_total_length(wsi, WSI_TOKEN_HOST) > 0;
    if ((page && lws_hdr_copy(wsi, origin, sizeof origin, WSI_TOKEN_ORIGIN) < 0) ||
        (called && lws_hdr_copy(wsi, host, sizeof host, WSI_TOKEN_HOST) < 0))
        return err_set(ERR_ORIGIN, "the header Host or Origin is too long");
    return access_check_page(a, w->server->config, called ? host : NULL, page ? origin : NULL);
}

/* A browser can send no header of its own with a WebSocket, but subprotocols: a key may be one. It
 * is not on the list of what we speak, so libwebsockets never sends it back. */
static const char key_protocol[] = "tv3s.key.";

/* No subprotocol is fine; others than ours are not. `key`: what follows key_protocol, or "". */
static enum err read_protocols(struct lws *wsi, char key[HEADER_MAX])
{
    char list[HEADER_MAX], *rest = list;
    bool ours = false;
    key[0] = '\0';
    if (lws_hdr_total_length(wsi, WSI_TOKEN_PROTOCOL) <= 0)
        return ERR_OK;
    if (lws_hdr_copy(wsi, list, sizeof list, WSI_TOKEN_PROTOCOL) <= 0)
        return err_set(ERR_ARG, "the list of subprotocols is too long");
    for (char *name; (name = strsep(&rest, ", "));) {
        ours = ours || strcmp(name, "tv3s.v1") == 0;
        if (strncmp(name, key_protocol, sizeof key_protocol - 1) == 0)
            snprintf(key, HEADER_MAX, "%s", name + sizeof key_protocol - 1);
    }
    return ours ? ERR_OK : err_set(ERR_ARG, "the subprotocol is tv3s.v1");
}

/* Who asks, by the header that programs send or the subprotocol that pages do. */
static enum err check_access(struct ws *w, struct lws *wsi, const char *key, struct owner **out)
{
    char header[HEADER_MAX];
    if (*key)
        return access_check_key(w->server->access, key, ROLE_STREAM, out);
    bool given = lws_hdr_copy(wsi, header, sizeof header, WSI_TOKEN_HTTP_AUTHORIZATION) > 0;
    return access_check(w->server->access, given ? header : NULL, ROLE_STREAM, out);
}

/* libwebsockets gives the lines of X-Forwarded-For as one list, and of a header that it does not
 * know the first alone: who sets Forwarded must take away what came before. */
static enum err find_client(struct ws *w, struct lws *wsi, struct address *out)
{
    static const char forwarded[] = "forwarded:";
    char text[FORWARDED_MAX] = "";
    const struct visitor *v = lws_get_opaque_user_data(wsi);
    struct address peer = v->peer;
    *out = peer;
    if (!address_trusted(w->addresses, &peer))
        return ERR_OK;
    bool rfc7239 = strcasecmp(w->server->config->forwarded_header, "Forwarded") == 0;
    int n = rfc7239 ? lws_hdr_custom_length(wsi, forwarded, sizeof forwarded - 1)
                    : lws_hdr_total_length(wsi, WSI_TOKEN_X_FORWARDED_FOR);
    if (n <= 0)
        return ERR_OK;
    n = rfc7239 ? lws_hdr_custom_copy(wsi, text, sizeof text, forwarded, sizeof forwarded - 1)
                : lws_hdr_copy(wsi, text, sizeof text, WSI_TOKEN_X_FORWARDED_FOR);
    return n > 0 ? address_client(w->addresses, &peer, text, out)
                 : err_set(ERR_ARG, "the header of the proxy is too long");
}

/* ---- the answer ---------------------------------------------------------------------------------
 */

/* libwebsockets writes into the room before a message. */
static bool answer_without_memory(struct lws *wsi)
{
    struct {
        uint8_t room[LWS_PRE];
        char text[256];
    } m;
    static const char body[] =
        "{\"type\":\"/problems/out-of-memory\",\"title\":\"memory ran out\",\"status\":503}";
    int n = snprintf(m.text, sizeof m.text,
                     "HTTP/1.1 503 memory ran out\r\nContent-Type: application/problem+json\r\n"
                     "Content-Length: %zu\r\nRetry-After: 1\r\nConnection: close\r\n\r\n%s",
                     sizeof body - 1, body);
    return lws_write(wsi, (uint8_t *)m.text, (size_t)n, LWS_WRITE_HTTP_FINAL) >= 0;
}

/* The client's, if it sent a good one, else one of ours. */
static void request_id(struct lws *wsi, char id[SESSION_ID])
{
    static const char name[] = "x-request-id:";
    if (lws_hdr_custom_copy(wsi, id, SESSION_ID, name, sizeof name - 1) > 0 && request_id_valid(id))
        return;
    if (session_id_random(id))
        snprintf(id, SESSION_ID, "none");
}

/* An answer with a problem object as its body: by hand, since libwebsockets would call it HTTP/1.0,
 * which some clients do not read. It has a request ID, as all answers of HTTP's port. 0, or -1 when
 * it could not be sent. */
static int answer(struct lws *wsi, int status, const char *more, json_t *problem)
{
    static const char room[LWS_PRE];
    char id[SESSION_ID];
    request_id(wsi, id);
    whole_put(&problem, "request_id", json_string(id));
    const char *detail = json_string_value(json_object_get(problem, "detail"));
    log_event(LOG_INFO, "ws_refused", "request=%s status=%d error=%s", id, status,
              log_text(detail ? detail : ""));
    char *body = problem ? json_dumps(problem, JSON_COMPACT) : NULL;
    struct buf b = {0};
    bool good = body && !buf_append(&b, room, LWS_PRE) &&
                !buf_printf(&b,
                            "HTTP/1.1 %d %s\r\nContent-Type: application/problem+json\r\n"
                            "X-Request-Id: %s\r\nContent-Length: %zu\r\n%sConnection: close\r\n\r\n"
                            "%s",
                            status, json_string_value(json_object_get(problem, "title")), id,
                            strlen(body), more, body) &&
                lws_write(wsi, b.data + LWS_PRE, b.len - LWS_PRE, LWS_WRITE_HTTP_FINAL) >= 0;
    buf_free(&b);
    free(body);
    json_decref(problem);
    return good || answer_without_memory(wsi) ? 0 : -1;
}

static int refuse(struct lws *wsi, enum err e)
{
    const char *more = err_http(e) == 503 || err_http(e) == 429 ? "Retry-After: 1\r\n"
                       : e == ERR_KEY ? "WWW-Authenticate: Bearer realm=\"tv3sd\"\r\n"
                                      : "";
    return answer(wsi, err_http(e), more, describe_problem(e, err_text(), NULL)) ? -1 : 1;
}

/* `more`: the header that says what would do. */
static int answer_upgrade(struct lws *wsi, const char *more)
{
    json_t *problem = json_pack("{s:s, s:s, s:i}", "type", "/problems/upgrade", "title",
                                "this port speaks WebSocket alone", "status", 426);
    return answer(wsi, 426, more, problem);
}

/* A socket that is closed with bytes unread takes back what the client has not read: a body is
 * thrown away first. */
int upgrade_refuse_http(struct lws *wsi)
{
    int sent = answer_upgrade(wsi, "Upgrade: websocket\r\n");
    if (sent < 0 || lws_hdr_total_length(wsi, WSI_TOKEN_HTTP_CONTENT_LENGTH) <= 0)
        return -1;
    struct visitor *v = lws_get_opaque_user_data(wsi);
    v->until = clock_ns() + BODY_SECONDS * UINT64_C(1000000000);
    lws_set_timeout(wsi, PENDING_TIMEOUT_USER_REASON_BASE, BODY_SECONDS);
    return 0;
}

/* libwebsockets' own time limit begins anew with every piece. */
int upgrade_discard(struct lws *wsi)
{
    const struct visitor *v = lws_get_opaque_user_data(wsi);
    return clock_ns() < v->until ? 0 : -1;
}

/* RFC 6455's; libwebsockets takes drafts of it too. */
static bool has_version(struct lws *wsi)
{
    char version[4];
    return lws_hdr_copy(wsi, version, sizeof version, WSI_TOKEN_VERSION) > 0 &&
           strcmp(version, "13") == 0;
}

/* libwebsockets asks whatever the upgrade is to, and would go on to HTTP/2. */
int upgrade_confirm(struct ws *w, struct lws *wsi, const char *to)
{
    if (strcasecmp(to, "websocket") != 0)
        return answer_upgrade(wsi, "Upgrade: websocket\r\n") ? -1 : 1;
    if (!has_version(wsi))
        return answer_upgrade(wsi, "Sec-WebSocket-Version: 13\r\n") ? -1 : 1;
    char id[SESSION_ID], key[HEADER_MAX];
    struct query q;
    struct owner *owner;
    struct address client;
    const struct config *config = w->server->config;
    enum err e = check_page(w, wsi);
    if (!e)
        e = read_protocols(wsi, key);
    if (!e)
        e = check_access(w, wsi, key, &owner);
    if (!e)
        e = find_client(w, wsi, &client);
    if (!e)
        e = read_path(wsi, id);
    if (!e)
        e = server_takes_work(w->server);
    if (!e && w->count >= config->ws_connections)
        e = err_set(ERR_BUSY, "as many WebSockets are open as there may be");
    if (!e)
        e = query_read(wsi, &q);
    if (!e)
        e = make_connection(w, wsi, owner, &client, id, &q);
    return e ? refuse(wsi, e) : 0;
}
