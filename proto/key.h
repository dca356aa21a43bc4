/* API keys as text: "tv3s_" and 43 letters of base64url, which are 32 bytes of the system's random
 * numbers. What is kept of a key is "sha256:" and 64 hexadecimal digits.
 *
 * A plain hash, neither salted nor slow, is enough: those protect secrets that people choose. 256
 * random bits can be guessed by nobody, and no two keys are the same. */
#ifndef TV3S_PROTO_KEY_H
#define TV3S_PROTO_KEY_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { KEY_TEXT = 49, KEY_HASH = 32, KEY_HASH_TEXT = 72 }; /* texts with their zero byte */

/* A new key. ERR_IO: no random numbers. */
enum err key_make(char text[KEY_TEXT]);

/* False for what does not look like a key, and when there is no memory. */
bool key_hash(const char *text, size_t len, uint8_t hash[KEY_HASH]);

void key_hash_print(const uint8_t hash[KEY_HASH], char text[KEY_HASH_TEXT]);
bool key_hash_parse(const char *text, uint8_t hash[KEY_HASH]);

/* Whether the two are the same, in a time that does not tell where they differ. */
bool key_hash_equal(const uint8_t a[KEY_HASH], const uint8_t b[KEY_HASH]);

/* Names of keys: 1 to 64 of A-Z a-z 0-9 . _ - */
enum { KEY_NAME = 65 };
bool key_name_valid(const char *name);

/* What a key may do. */
#define KEY_ROLES(X)                                                                               \
    X(ROLE_SUBMIT, 1, "submit")                                                                    \
    X(ROLE_STREAM, 2, "stream")                                                                    \
    X(ROLE_READ, 4, "read")                                                                        \
    X(ROLE_ADMIN, 8, "admin")
enum role {
#define KEY_ROLE_ENUM(id, bit, name) id = (bit),
    KEY_ROLES(KEY_ROLE_ENUM)
#undef KEY_ROLE_ENUM
};
unsigned key_role_parse(const char *name); /* a bit, or 0 */

#endif
