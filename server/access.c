#include "server/access_parts.h"

#include "base/try.h"
#include "server/config.h"
#include "server/listen.h"
#include "server/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

bool access_keyed(const struct access *a)
{
    return a->file[0] != '\0';
}

/* ---- owners -------------------------------------------------------------------------------------
 */

/* With the lock held. */
static struct owner *find_or_make(struct access *a, const char *name)
{
    struct owner *o = a->owners;
    while (o && strcmp(o->name, name) != 0)
        o = o->next;
    if (o || strlen(name) >= KEY_NAME || !(o = calloc(1, sizeof *o)))
        return o;
    memcpy(o->name, name, strlen(name) + 1);
    pthread_mutex_init(&o->lock, NULL);
    o->next = a->owners;
    a->owners = o;
    return o;
}

struct owner *access_owner(struct access *a, const char *name)
{
    pthread_mutex_lock(&a->lock);
    struct owner *o = find_or_make(a, name);
    pthread_mutex_unlock(&a->lock);
    return o;
}

/* ---- the key file -------------------------------------------------------------------------------
 */

/* With the lock held. */
static void apply(struct owner *o, const struct grant *g)
{
    memcpy(o->hash, g->hash, sizeof o->hash);
    o->hashes = g->hashes;
    o->roles = g->roles;
    o->frames_per_second = g->frames_per_second;
    o->max_streams = g->streams;
    o->max_jobs = g->jobs;
    o->max_upload_bytes = g->upload_bytes;
}

static bool named(const struct grant *all, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(all[i].name, name) == 0)
            return true;
    return false;
}

enum err access_reload(struct access *a)
{
    static const struct grant nothing;
    struct grant *all;
    size_t count;
    enum err e = ERR_OK;
    if (!access_keyed(a))
        return ERR_OK;
    TRY(keys_read(a->file, &all, &count));
    pthread_mutex_lock(&a->lock);
    for (size_t i = 0; i < count && !e; i++)
        if (!find_or_make(a, all[i].name))
            e = err_set(ERR_NOMEM, "no memory for keys");
    for (struct owner *o = a->owners; o && !e; o = o->next)
        if (!named(all, count, o->name))
            apply(o, &nothing);
    for (size_t i = 0; i < count && !e; i++)
        apply(find_or_make(a, all[i].name), &all[i]);
    pthread_mutex_unlock(&a->lock);
    free(all);
    if (!e)
        log_event(LOG_INFO, "keys", "file=%s keys=%zu", log_text(a->file), count);
    return e;
}

/* ---- who is asking ------------------------------------------------------------------------------
 */

/* Every hash is compared, whichever is found: the time tells nothing about the keys. */
static struct owner *holder(struct access *a, const char *key)
{
    uint8_t hash[KEY_HASH];
    struct owner *found = NULL;
    if (!key_hash(key, strlen(key), hash))
        return NULL;
    pthread_mutex_lock(&a->lock);
    for (struct owner *o = a->owners; o; o = o->next)
        for (int i = 0; i < o->hashes; i++)
            found = key_hash_equal(hash, o->hash[i]) ? o : found;
    pthread_mutex_unlock(&a->lock);
    return found;
}

/* "submit", or "read or stream": those of `roles`. */
static void role_names(unsigned roles, char *text, size_t size)
{
    static const struct {
        unsigned bit;
        const char *name;
    } all[] = {
#define ROLE_NAME(id, bit, name) {id, name},
        KEY_ROLES(ROLE_NAME)
#undef ROLE_NAME
    };
    *text = '\0';
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        size_t n = strlen(text);
        if (roles & all[i].bit)
            snprintf(text + n, size - n, "%s%s", n ? " or " : "", all[i].name);
    }
}

enum err access_check_key(struct access *a, const char *key, unsigned roles, struct owner **out)
{
    *out = a->nobody;
    if (a->nobody)
        return roles ? ERR_OK : err_set(ERR_ROLE, "nobody may do that");
    *out = key ? holder(a, key) : NULL;
    if (roles & ROLE_OPEN)
        return ERR_OK;
    if (!*out)
        return key ? err_set(ERR_KEY, "the key is not known")
                   : err_set(ERR_KEY, "a key is wanted: Authorization: Bearer KEY");
    if (owner_may(*out, roles))
        return ERR_OK;
    char wanted[64];
    role_names(roles, wanted, sizeof wanted);
    return err_set(ERR_ROLE, "the key has not the role %s", wanted);
}

enum err access_check(struct access *a, const char *authorization, unsigned roles,
                      struct owner **out)
{
    const char *key = NULL;
    if (authorization && strncasecmp(authorization, "Bearer ", 7) == 0)
        key = authorization + 7 + strspn(authorization + 7, " ");
    return access_check_key(a, key, roles, out);
}

/* ---- opening and closing ------------------------------------------------------------------------
 */

/* Without keys, whoever reaches the ports may do all. */
static enum err open_to_all(struct access *a, const struct config *c)
{
    bool http = listen_is_local("http", c->listen),
         local = http && listen_is_local("ws", c->listen);
    const char *wide = http ? "ws" : "http"; /* unless local */
    if (!local && !c->open_access)
        return err_set(ERR_ARG,
                       "without keys (keys_file) the daemon listens on the loopback address alone, "
                       "not on %s%s; open_access allows it",
                       listen_passed(wide) ? "that of the socket that systemd passed as " : "",
                       listen_passed(wide) ? wide : c->listen);
    a->nobody = access_owner(a, "");
    if (!a->nobody)
        return err_set(ERR_NOMEM, "no memory for keys");
    a->nobody->roles = ROLE_ANY;
    a->this_machine = !c->open_access;
    log_event(local ? LOG_INFO : LOG_WARNING, "no_keys", "open_to=%s",
              local ? "this_machine" : "everybody");
    return ERR_OK;
}

enum err access_open(const struct config *c, struct access **out)
{
    struct access *a = *out = calloc(1, sizeof *a);
    if (!a)
        return err_set(ERR_NOMEM, "no memory for keys");
    a->file = c->keys_file;
    pthread_mutex_init(&a->lock, NULL);
    return access_keyed(a) ? access_reload(a) : open_to_all(a, c);
}

void access_close(struct access *a)
{
    if (!a)
        return;
    while (a->owners) {
        struct owner *o = a->owners;
        a->owners = o->next;
        pthread_mutex_destroy(&o->lock);
        free(o);
    }
    pthread_mutex_destroy(&a->lock);
    free(a);
}
