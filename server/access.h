/* Who may do what: API keys, what each may use, and whose a stream or an upload is.
 *
 * An owner is the name of a key. Streams and uploads belong to the owner that made them and are
 * there for no other: they are looked up by owner and name, so that one key's "cam-7" and another's
 * are two streams. Without a key file there is one owner, whose name is "" and who may do all.
 *
 * An owner lives from its first mention to access_close, so whoever points to one needs no
 * reference. One lock guards the keys; limits and counters are atomic. All functions from any
 * thread, and NULL is an owner without limits that may do nothing. */
#ifndef TV3S_SERVER_ACCESS_H
#define TV3S_SERVER_ACCESS_H

#include "base/err.h"
#include "proto/key.h"

struct access;
struct config;
struct owner;

/* What an endpoint wants: roles of which a key needs one, or these. 0 lets nobody in. */
enum { ROLE_ANY = ROLE_SUBMIT | ROLE_STREAM | ROLE_READ | ROLE_ADMIN, ROLE_OPEN = 1 << 8 };

/* ERR_IO, ERR_FORMAT: the key file, and where in it. ERR_ARG: no key file, the address is not of
 * the loopback, and `open_access` is not set. */
enum err access_open(const struct config *c, struct access **out);
void access_close(struct access *a); /* NULL is allowed */

/* Reads the key file again; on an error the keys stay as they are. Who is not in it any more may do
 * nothing from now on. */
enum err access_reload(struct access *a);

bool access_keyed(const struct access *a);

/* Whom a request comes from. `authorization` is the header's value, or NULL. ERR_KEY: no key, or
 * none that we know; ERR_ROLE: one that may not. *out may be set with ERR_ROLE too. Without a key
 * file: the one owner, whatever the request says. ROLE_OPEN: *out is NULL where no key is sent. */
enum err access_check(struct access *a, const char *authorization, unsigned roles,
                      struct owner **out);
/* The same with the key alone; NULL: none. */
enum err access_check_key(struct access *a, const char *key, unsigned roles, struct owner **out);

/* ERR_ARG: an item of cors_origins that no browser sends, so that it would let nobody in. */
enum err access_check_origins(const struct config *c);

/* Whether a browser that asks may be doing so for a page of another site: by the headers Host and
 * Origin, each NULL where there is none. ERR_ORIGIN. */
enum err access_check_page(const struct access *a, const struct config *c, const char *called,
                           const char *origin);

/* The owner of that name, also one that no key has: what was stored on disk has an owner. "" is the
 * one without keys. NULL: no memory. */
struct owner *access_owner(struct access *a, const char *name);

const char *owner_name(const struct owner *o);
const char *owner_label(const struct owner *o); /* for the log: the name, or "-" */
/* Whether it still may: keys are taken back while connections last. */
bool owner_may(const struct owner *o, unsigned roles);

/* ---- limits: ERR_QUOTA when one is reached; what was taken is given back by the same number ----
 */
enum err owner_take_stream(struct owner *o);
void owner_give_stream(struct owner *o);
enum err owner_take_job(struct owner *o); /* an upload that is not done */
void owner_give_job(struct owner *o);
enum err owner_take_bytes(struct owner *o, uint64_t bytes); /* of uploads that are here */
/* A job of the process before: counted, whatever the limits are now. */
void owner_has_job(struct owner *o, bool unfinished, uint64_t bytes);
void owner_give_bytes(struct owner *o, uint64_t bytes);
/* What its uploads take in the spool, results included: not limited, but who has most gives first.
 */
void owner_count_spool(struct owner *o, int64_t more);
uint64_t owner_spool(const struct owner *o);
enum err owner_take_frame(struct owner *o); /* of streams and images; not given back */

#endif
