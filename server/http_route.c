/* The table of endpoints, in the order of PROTOCOL.md. */
#include "server/http.h"

#include "server/http_headers.h"

#include <stdio.h>
#include <string.h>

#define PARAMS "model mode format resize"

static const struct endpoint endpoints[] = {
    {"POST", "/v1/videos", ROLE_SUBMIT, PARAMS " webhook", video_begin, video_take, true,
     video_answer},
    {"GET", "/v1/videos", ROLE_READ, "", NULL, NULL, false, videos_list},
    {"GET", "/v1/videos/{}", ROLE_READ, "", NULL, NULL, false, video_get},
    {"DELETE", "/v1/videos/{}", ROLE_SUBMIT, "", NULL, NULL, false, video_delete},
    {"GET", "/v1/videos/{}/events", ROLE_READ, "", NULL, NULL, false, video_events},
    {"GET", "/v1/videos/{}/masks", ROLE_READ, "", NULL, NULL, false, video_masks},
    {"GET", "/v1/videos/{}/masks/#", ROLE_READ, "", NULL, NULL, false, video_mask},

    {"POST", "/v1/segment", ROLE_SUBMIT, "model format resize", segment_begin, body_to_memory, true,
     segment_answer},

    {"GET", "/v1/streams", ROLE_READ, "", NULL, NULL, false, streams_list},
    {"POST", "/v1/streams", ROLE_STREAM, PARAMS, NULL, NULL, false, stream_create},
    {"PUT", "/v1/streams/{}", ROLE_STREAM, PARAMS, NULL, NULL, false, stream_put},
    {"GET", "/v1/streams/{}", ROLE_READ, "", NULL, NULL, false, stream_get},
    {"DELETE", "/v1/streams/{}", ROLE_STREAM, "", NULL, NULL, false, stream_delete},
    {"POST", "/v1/streams/{}/frames", ROLE_STREAM, "", stream_frame_begin, body_to_memory, true,
     stream_frame},
    {"POST", "/v1/streams/{}/reset", ROLE_STREAM, "", NULL, NULL, false, stream_reset_state},
    {"GET", "/v1/streams/{}/state", ROLE_STREAM, "", NULL, NULL, false, stream_state_get},
    {"PUT", "/v1/streams/{}/state", ROLE_STREAM, "", stream_state_begin, body_to_memory, false,
     stream_state_put},

    {"GET", "/v1/models", ROLE_ANY, "", NULL, NULL, false, models_list},
    {"GET", "/v1/models/{}", ROLE_ANY, "", NULL, NULL, false, model_get},
    {"GET", "/v1/server", ROLE_ANY, "", NULL, NULL, false, server_get},
    {"GET", "/livez", ROLE_OPEN, "", NULL, NULL, false, live},
    {"GET", "/readyz", ROLE_OPEN, "", NULL, NULL, false, ready},
    {"GET", "/metrics", ROLE_ADMIN, "", NULL, NULL, false, metrics_get},

#define ASSET(name, path, mime, file) {"GET", path, ROLE_OPEN, "", NULL, NULL, false, page_get},
#include "server/assets.def"
#undef ASSET
};
enum { ENDPOINTS = sizeof endpoints / sizeof *endpoints };

/* Whether `path` has the form of `pattern`; fills r->name and r->number. A name that is too long
 * for any is a fault of the target. */
static bool matches(struct request *r, const char *pattern, const char *path)
{
    bool too_long = false;
    while (*pattern) {
        size_t n = strcspn(path, "/");
        char text[SESSION_ID];
        if (*pattern != '{' && *pattern != '#') {
            if (*pattern++ != *path++)
                return false;
            continue;
        }
        if (n == 0)
            return false;
        too_long = too_long || n >= sizeof text;
        snprintf(text, sizeof text, "%.*s", (int)(n < sizeof text ? n : sizeof text - 1), path);
        if (*pattern == '{')
            memcpy(r->name, text, strlen(text) + 1);
        else if (!number_parse(text, &r->number))
            return false;
        pattern += *pattern == '{' ? 2 : 1;
        path += n;
    }
    if (*path == 0 && too_long)
        r->bad_target = "a name in the path is too long";
    return *path == 0;
}

/* ---- paths and methods that are not in the table ------------------------------------------------
 */

/* Who takes a stream's WebSocket for a path of this port is told. */
static enum err no_such_path(struct request *r)
{
    size_t n = strcspn(r->target, "?");
    if (n > 3 && strncmp(r->target, "/v1/streams/", 12) == 0 &&
        strncmp(r->target + n - 3, "/ws", 3) == 0)
        return err_set(ERR_NOT_FOUND, "WebSockets are not on this port: /v1/server says where");
    return err_set(ERR_NOT_FOUND, "no such path: /openapi.json has those that there are");
}

/* "GET, HEAD, OPTIONS" of the path whose pattern is `path`. */
static void allowed_methods(const char *path, char text[64])
{
    text[0] = 0;
    for (int i = 0; i < ENDPOINTS; i++) {
        if (strcmp(endpoints[i].path, path) != 0)
            continue;
        strcat(strcat(text, endpoints[i].method), ", ");
        if (strcmp(endpoints[i].method, "GET") == 0)
            strcat(text, "HEAD, ");
    }
    strcat(text, "OPTIONS");
}

static enum err other_method(struct request *r)
{
    char allow[64], known[96];
    bool options = strcmp(r->method, "OPTIONS") == 0;
    allowed_methods(r->allow, allow);
    snprintf(known, sizeof known, "this path knows %s", allow);
    struct MHD_Response *answer =
        options ? reply_static(NULL, "", 0)
                : reply_problem_of(r, 405, "method", "the method is not known here", known);
    reply_header(&answer, "Allow", "%s", allow);
    if (options)
        reply_header(&answer, "Access-Control-Allow-Methods", "%s", allow);
    reply_send(r, options ? 204 : 405, answer);
    return ERR_OK;
}

static const struct endpoint not_found = {.roles = ROLE_OPEN, .answer = no_such_path};
static const struct endpoint not_allowed = {.roles = ROLE_OPEN, .answer = other_method};

const struct endpoint *route(struct request *r, const char *method, const char *path)
{
    r->allow = NULL;
    if (strcmp(method, "HEAD") == 0)
        method = "GET";
    for (int i = 0; i < ENDPOINTS; i++) {
        if (!matches(r, endpoints[i].path, path))
            continue;
        if (strcmp(endpoints[i].method, method) == 0)
            return &endpoints[i];
        if (!r->allow)
            r->allow = endpoints[i].path;
    }
    return r->allow ? &not_allowed : &not_found;
}
