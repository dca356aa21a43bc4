#include "proto/key.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdio.h>
#include <string.h>

enum { KEY_BYTES = 32, KEY_LETTERS = 43 };

static const char prefix[] = "tv3s_", hash_prefix[] = "sha256:";

static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

enum err key_make(char text[KEY_TEXT])
{
    uint8_t bytes[KEY_BYTES];
    unsigned char base64[KEY_LETTERS + 2]; /* a '=' and a zero byte */
    if (RAND_bytes(bytes, sizeof bytes) != 1)
        return err_set(ERR_IO, "no random numbers for a key");
    EVP_EncodeBlock(base64, bytes, sizeof bytes);
    OPENSSL_cleanse(bytes, sizeof bytes);
    for (int i = 0; i < KEY_LETTERS; i++)
        base64[i] = base64[i] == '+' ? '-' : base64[i] == '/' ? '_' : base64[i];
    snprintf(text, KEY_TEXT, "%s%.43s", prefix, (const char *)base64);
    OPENSSL_cleanse(base64, sizeof base64);
    return ERR_OK;
}

bool key_hash(const char *text, size_t len, uint8_t hash[KEY_HASH])
{
    size_t n = sizeof prefix - 1;
    if (len != KEY_TEXT - 1 || strncmp(text, prefix, n) != 0 || strspn(text + n, letters) < len - n)
        return false;
    return EVP_Digest(text, len, hash, NULL, EVP_sha256(), NULL) == 1;
}

void key_hash_print(const uint8_t hash[KEY_HASH], char text[KEY_HASH_TEXT])
{
    int n = snprintf(text, KEY_HASH_TEXT, "%s", hash_prefix);
    for (int i = 0; i < KEY_HASH; i++)
        n += snprintf(text + n, KEY_HASH_TEXT - (size_t)n, "%02x", hash[i]);
}

bool key_hash_parse(const char *text, uint8_t hash[KEY_HASH])
{
    static const char digits[] = "0123456789abcdef";
    size_t n = sizeof hash_prefix - 1;
    if (strlen(text) != KEY_HASH_TEXT - 1 || strncmp(text, hash_prefix, n) != 0 ||
        strspn(text + n, digits) != 2 * KEY_HASH)
        return false;
    text += n;
    for (int i = 0; i < KEY_HASH; i++)
        hash[i] = (uint8_t)((strchr(digits, text[2 * i]) - digits) * 16 +
                            (strchr(digits, text[2 * i + 1]) - digits));
    return true;
}

bool key_hash_equal(const uint8_t a[KEY_HASH], const uint8_t b[KEY_HASH])
{
    return CRYPTO_memcmp(a, b, KEY_HASH) == 0;
}

bool key_name_valid(const char *name)
{
    size_t n = strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");
    return n > 0 && n < KEY_NAME && name[n] == '\0';
}

unsigned key_role_parse(const char *name)
{
#define KEY_ROLE_PARSE(id, bit, text)                                                              \
    if (strcmp(name, text) == 0)                                                                   \
        return id;
    KEY_ROLES(KEY_ROLE_PARSE)
#undef KEY_ROLE_PARSE
    return 0;
}
