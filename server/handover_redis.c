/* The connection to Redis, and what is asked of it: scripts, so that a lease is compared and the
 * record written in one step that no other replica can come between.
 *
 * KEYS are the lease, the record and the want of a stream; the want is there for a short time while
 * a replica waits for the lease: "1" if it wants it also from a connection. An error of one
 * stream's keys (somebody wrote a value of another type there) is that stream's. Every other answer
 * that is not of the expected form ends the connection: Redis is away until it answers as it
 * should.
 *
 * A Redis that is full (maxmemory) refuses a script's first write if that may take memory, and none
 * after a first that does not. So all but `keep`, whose state is what fills it, begin with a DEL or
 * PEXPIRE: a lease is some hundred bytes, and a stream without one could not move. */
#include "server/handover_parts.h"

#include "base/try.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TIMEOUT_SECONDS = 1, PAUSE_MIN = 100, PAUSE_MAX = 1000, WANT_MS = 2000, PASSWORD_MAX = 512 };
enum { ARGUMENTS = 8 }; /* ARGV */

/* ARGV: token, lease ms, record ms, takeover, stored, most bytes of a state and of what says what
 * it is, want ms */
static const char take[] =
    "local held = redis.call('GET', KEYS[1])\n"
    "if held and held ~= ARGV[1] then\n"
    "  redis.call('DEL', KEYS[3])\n"
    "  redis.call('SET', KEYS[3], ARGV[4], 'PX', ARGV[8])\n"
    "  return {0}\n"
    "end\n"
    "local long = redis.call('HSTRLEN', KEYS[2], 'meta') > tonumber(ARGV[7])\n"
    "local meta = long and 'long' or redis.call('HGET', KEYS[2], 'meta')\n"
    "if not meta and ARGV[5] == '1' then return {2} end\n"
    "redis.call('DEL', KEYS[3])\n"
    "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])\n"
    "redis.call('HSET', KEYS[2], 'token', ARGV[1])\n"
    "redis.call('PEXPIRE', KEYS[2], ARGV[3])\n"
    "if not meta then return {1} end\n"
    "if redis.call('HSTRLEN', KEYS[2], 'state') > tonumber(ARGV[6]) then "
    "return {1, meta, 'long'} end\n"
    "return {1, meta, redis.call('HGET', KEYS[2], 'state')}\n";

/* Our lease, or one that ran out and that nobody took since. ARGV: token, lease ms, record ms */
#define MINE                                                                                       \
    "local held, last = redis.call('GET', KEYS[1]), redis.call('HGET', KEYS[2], 'token')\n"        \
    "local mine = held == ARGV[1] or not held and (not last or last == ARGV[1])\n"

/* ARGV and: force */
static const char renew[] = MINE "if not mine and not held and ARGV[4] == '1' then\n"
                                 "  redis.call('DEL', KEYS[2])\n"
                                 "  mine, last = true, nil\n"
                                 "end\n"
                                 "if not mine then return 0 end\n"
                                 "redis.call('PEXPIRE', KEYS[2], ARGV[3])\n"
                                 "if held then redis.call('PEXPIRE', KEYS[1], ARGV[2])\n"
                                 "else redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end\n"
                                 "if last ~= ARGV[1] then\n"
                                 "  redis.call('HSET', KEYS[2], 'token', ARGV[1])\n"
                                 "  redis.call('PEXPIRE', KEYS[2], ARGV[3])\n"
                                 "end\n"
                                 "local want = redis.call('GET', KEYS[3])\n"
                                 "if want then return want == '1' and 4 or 3 end\n"
                                 "return redis.call('HEXISTS', KEYS[2], 'meta') == 1 and 1 or 2\n";

/* ARGV and: meta, state, leave */
static const char keep[] =
    MINE "if not mine then return 0 end\n"
         "redis.call('HSET', KEYS[2], 'token', ARGV[1], 'meta', ARGV[4], 'state', ARGV[5])\n"
         "redis.call('PEXPIRE', KEYS[2], ARGV[3])\n"
         "if ARGV[6] == '1' then redis.call('DEL', KEYS[1], KEYS[3])\n"
         "else redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end\n"
         "return 1\n";

static const char give_back[] = MINE "if mine then redis.call('DEL', KEYS[1]) end\n"
                                     "return 1\n";

/* The token stays for a while: who was stopped meanwhile finds that it is not its own. ARGV and:
 * force */
static const char forget[] = MINE "if mine or not held and ARGV[4] == '1' then\n"
                                  "  redis.call('DEL', KEYS[1], KEYS[2])\n"
                                  "  redis.call('HSET', KEYS[2], 'token', 'gone')\n"
                                  "  redis.call('PEXPIRE', KEYS[2], ARGV[3])\n"
                                  "end\n"
                                  "return 1\n";

/* ---- the connection -----------------------------------------------------------------------------
 */

static void away(struct redis *r, const char *why)
{
    snprintf(r->why, sizeof r->why, "%s", why);
    r->pause = r->pause < PAUSE_MIN ? PAUSE_MIN : r->pause * 2;
    r->pause = r->pause < PAUSE_MAX ? r->pause : PAUSE_MAX;
    r->broken = false;
    r->retry = clock_ns() + r->pause * 1000000ull;
    if (r->context)
        redisFree(r->context);
    r->context = NULL;
}

static void away_by_itself(struct redis *r)
{
    bool late = r->context->err == REDIS_ERR_IO && (errno == EAGAIN || errno == EWOULDBLOCK);
    away(r, late ? "no answer in time" : r->context->errstr[0] ? r->context->errstr : "no memory");
    r->broken = !late;
}

/* Takes the reply. False: it is none, or an error, and Redis is away. */
static bool good(struct redis *r, redisReply *reply)
{
    if (!reply)
        away_by_itself(r);
    else if (reply->type == REDIS_REPLY_ERROR)
        away(r, reply->str);
    freeReplyObject(reply);
    return r->context != NULL;
}

/* Whether an error is no matter of the keys. Before Redis 7 a script's errors have it inside. */
static bool is_general(const char *error)
{
    static const char *const code[] = {
        "NOAUTH", "NOPERM",     "LOADING", "BUSY",        "UNKILLABLE", "READONLY",
        "OOM",    "MASTERDOWN", "MISCONF", "CLUSTERDOWN", "NOREPLICAS", "unknown command"};
    for (size_t i = 0; i < sizeof code / sizeof code[0]; i++)
        if (strstr(error, code[i]))
            return true;
    return false;
}

/* Takes a reply that is none of a script's answers: LEASE_BROKEN, or Redis is away. */
static enum lease no_answer(struct redis *r, redisReply *reply)
{
    if (reply && reply->type == REDIS_REPLY_ERROR && !is_general(reply->str)) {
        err_set(ERR_IO, "%s", reply->str);
        freeReplyObject(reply);
        return LEASE_BROKEN;
    }
    if (good(r, reply))
        away(r, "an answer that is none of the script's");
    return LEASE_AWAY;
}

static redisContext *open_context(const char *address, const struct timeval *patience)
{
    char host[256];
    if (strncmp(address, "unix:", 5) == 0)
        return redisConnectUnixWithTimeout(address + 5, *patience);
    const char *colon = strrchr(address, ':');
    size_t len = colon ? (size_t)(colon - address) : strlen(address);
    if (address[0] == '[') /* [::1]:6379 */
        snprintf(host, sizeof host, "%.*s", (int)(len > 2 ? len - 2 : 0), address + 1);
    else
        snprintf(host, sizeof host, "%.*s", (int)len, address);
    return redisConnectWithTimeout(host, atoi(colon ? colon + 1 : "6379"), *patience);
}

static bool connect_once(struct redis *r)
{
    const struct timeval patience = {.tv_sec = TIMEOUT_SECONDS};
    r->context = open_context(r->config->redis, &patience);
    if (!r->context) {
        away(r, "no memory for a connection");
        return false;
    }
    if (r->context->err || redisSetTimeout(r->context, patience) != REDIS_OK) {
        away_by_itself(r);
        return false;
    }
    if (r->context->connection_type == REDIS_CONN_TCP)
        redisEnableKeepAlive(r->context);
    if (r->password && !good(r, redisCommand(r->context, "AUTH %s", r->password)))
        return false;
    if (!redis_ping(r))
        return false;
    r->pause = 0;
    r->why[0] = '\0';
    return true;
}

bool redis_connect(struct redis *r)
{
    bool there = connect_once(r);
    r->broken = false;
    return there;
}

bool redis_ping(struct redis *r)
{
    return good(r, redisCommand(r->context, "PING"));
}

bool redis_is_back(struct redis *r)
{
    return r->broken && redis_connect(r);
}

static enum err read_password(const char *path, char **out)
{
    char text[PASSWORD_MAX];
    FILE *f = fopen(path, "re");
    if (!f)
        return err_set(ERR_IO, "redis_password_file: %s: %s", path, strerror(errno));
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = '\0';
    text[strcspn(text, "\r\n")] = '\0';
    *out = strdup(text);
    explicit_bzero(text, sizeof text);
    return *out ? ERR_OK : err_set(ERR_NOMEM, "no memory for a password");
}

enum err redis_open(const struct config *c, struct redis *r)
{
    *r = (struct redis){.config = c};
    const char *colon = strrchr(c->redis, ':');
    bool unix_socket = strncmp(c->redis, "unix:/", 6) == 0;
    int port = colon ? atoi(colon + 1) : 6379;
    if (!unix_socket && (!c->redis[0] || c->redis == colon || port < 1 || port > 65535))
        return err_set(ERR_ARG, "redis is HOST:PORT or unix:/PATH, not '%.200s'", c->redis);
    if (strlen(c->redis_prefix) > PREFIX_MAX || strpbrk(c->redis_prefix, "{}"))
        return err_set(ERR_ARG, "redis_prefix has at most %d characters, and no braces",
                       PREFIX_MAX);
    return c->redis_password_file[0] ? read_password(c->redis_password_file, &r->password) : ERR_OK;
}

void redis_close(struct redis *r)
{
    if (r->context)
        redisFree(r->context);
    if (r->password)
        explicit_bzero(r->password, strlen(r->password));
    free(r->password);
    *r = (struct redis){0};
}

/* ---- scripts ------------------------------------------------------------------------------------
 */

/* Neither names of keys nor stream IDs have a slash or a brace. */
void place_of(const struct config *c, const char *owner, const char *id, struct place *out)
{
    snprintf(out->lease, PLACE_MAX, "%s:{%s/%s}:lease", c->redis_prefix, owner, id);
    snprintf(out->record, PLACE_MAX, "%s:{%s/%s}:record", c->redis_prefix, owner, id);
    snprintf(out->want, PLACE_MAX, "%s:{%s/%s}:want", c->redis_prefix, owner, id);
}

/* EVAL in the making. */
struct call {
    const char *argument[6 + ARGUMENTS];
    size_t length[6 + ARGUMENTS];
    int count;
    char lease_ms[24], record_ms[24];
};

static void add(struct call *c, const void *data, size_t len)
{
    c->argument[c->count] = data;
    c->length[c->count++] = len;
}

static void add_text(struct call *c, const char *text)
{
    add(c, text, strlen(text));
}

/* A record outlives its lease by as long as a stream without connection is kept. */
static void begin(struct call *c, const struct redis *r, const char *script, const struct place *p,
                  const char *token)
{
    double lease = r->config->stream_lease, linger = r->config->stream_linger;
    c->count = 0;
    snprintf(c->lease_ms, sizeof c->lease_ms, "%.0f", lease * 1000);
    snprintf(c->record_ms, sizeof c->record_ms, "%.0f", (lease + linger) * 1000);
    add_text(c, "EVAL");
    add_text(c, script);
    add_text(c, "3");
    add_text(c, p->lease);
    add_text(c, p->record);
    add_text(c, p->want);
    add_text(c, token);
    add_text(c, c->lease_ms);
    add_text(c, c->record_ms);
}

static redisReply *call(struct redis *r, const struct call *c)
{
    return redisCommandArgv(r->context, c->count, (const char **)c->argument, c->length);
}

static void append(struct redis *r, const struct call *c)
{
    redisAppendCommandArgv(r->context, c->count, (const char **)c->argument, c->length);
}

/* Of what was appended; NULL: none came. */
static redisReply *read_reply(struct redis *r)
{
    void *reply = NULL;
    return redisGetReply(r->context, &reply) == REDIS_OK ? reply : NULL;
}

enum lease redis_take(struct redis *r, const struct place *p, const char *token, bool takeover,
                      bool stored, struct stored *out)
{
    struct call c;
    char most[24], most_meta[24], want_ms[24];
    *out = (struct stored){0};
    snprintf(most, sizeof most, "%llu", (unsigned long long)r->config->max_state_import);
    snprintf(most_meta, sizeof most_meta, "%d", RECORD_MAX);
    snprintf(want_ms, sizeof want_ms, "%d", WANT_MS);
    begin(&c, r, take, p, token);
    add_text(&c, takeover ? "1" : "0");
    add_text(&c, stored ? "1" : "0");
    add_text(&c, most);
    add_text(&c, most_meta);
    add_text(&c, want_ms);
    redisReply *reply = out->reply = call(r, &c);
    bool whole = reply && reply->type == REDIS_REPLY_ARRAY && reply->elements > 0 &&
                 reply->element[0]->type == REDIS_REPLY_INTEGER;
    if (whole && reply->element[0]->integer != 1)
        return reply->element[0]->integer == 0 ? LEASE_LOST : LEASE_NONE;
    if (whole && reply->elements == 1)
        return LEASE_BARE;
    whole = whole && reply->element[1]->type == REDIS_REPLY_STRING;
    if (!whole) {
        out->reply = NULL;
        return no_answer(r, reply);
    }
    out->meta = reply->element[1]->str;
    out->meta_len = reply->element[1]->len;
    if (reply->elements > 2 && reply->element[2]->type == REDIS_REPLY_STRING) {
        out->state = reply->element[2]->str;
        out->state_len = reply->element[2]->len;
    }
    return LEASE_OURS;
}

void stored_free(struct stored *s)
{
    freeReplyObject(s->reply);
    *s = (struct stored){0};
}

void redis_ask_renewal(struct redis *r, const struct place *p, const char *token, bool force)
{
    struct call c;
    begin(&c, r, renew, p, token);
    add_text(&c, force ? "1" : "0");
    append(r, &c);
}

enum lease redis_read_renewal(struct redis *r)
{
    static const enum lease is[] = {LEASE_LOST, LEASE_OURS, LEASE_BARE, LEASE_WANTED,
                                    LEASE_WANTED_NOW};
    redisReply *reply = read_reply(r);
    if (reply && reply->type == REDIS_REPLY_INTEGER && reply->integer >= 0 && reply->integer < 5) {
        enum lease lease = is[reply->integer];
        freeReplyObject(reply);
        return lease;
    }
    return no_answer(r, reply);
}

enum lease redis_write(struct redis *r, const struct place *p, const struct operation *o,
                       bool leave, enum err *refused)
{
    struct call c;
    *refused = ERR_OK;
    begin(&c, r, keep, p, o->session->lease.token);
    add_text(&c, o->meta);
    add(&c, o->state ? o->state : "", o->len);
    add_text(&c, leave ? "1" : "0");
    redisReply *reply = call(r, &c);
    enum lease lease = LEASE_OURS;
    bool error = reply && reply->type == REDIS_REPLY_ERROR;
    if (reply && reply->type == REDIS_REPLY_INTEGER)
        lease = reply->integer ? LEASE_OURS : LEASE_LOST;
    else if (error && is_general(reply->str)) /* it is full, most likely: what is there stays */
        *refused = err_set(ERR_IO, "%s", reply->str);
    else
        return no_answer(r, reply);
    freeReplyObject(reply);
    return lease;
}

void redis_give_back(struct redis *r, const struct place *p, const char *token)
{
    struct call c;
    begin(&c, r, give_back, p, token);
    append(r, &c);
    redis_read_done(r);
}

void redis_ask_forget(struct redis *r, const struct place *p, const char *token, bool force)
{
    struct call c;
    begin(&c, r, forget, p, token);
    add_text(&c, force ? "1" : "0");
    append(r, &c);
}

bool redis_read_done(struct redis *r)
{
    redisReply *reply = read_reply(r);
    if (!reply || reply->type != REDIS_REPLY_INTEGER)
        return no_answer(r, reply) == LEASE_BROKEN;
    freeReplyObject(reply);
    return true;
}
