/* Zip, the part of it that an archive of PNGs needs (PKWARE's APPNOTE 4.3, 4.5.3).
 *
 *   [local header, name, data] for each entry, [central header, name, extra] for each entry,
 *   [ZIP64 end record, ZIP64 locator] if a field overflows, end record
 *
 * Method 0 (stored): PNGs do not compress again. Every header is right when it is written, so
 * nothing goes back and the archive can be a stream. An entry is smaller than 4 GiB; its offset may
 * not be, and then a ZIP64 extra field holds it. */
#include "base/zipfile.h"

#include "base/buf.h"

#include <stdlib.h>
#include <string.h>

enum { DOS_DATE = 0x21, UTF8_NAMES = 0x800 }; /* 1980-01-01 */

struct zipfile {
    struct outfile *file;
    uint64_t entries;
    struct buf directory; /* central headers so far */
    struct buf header;    /* of the entry being written */
    uint32_t crc[256];
};

static void put(struct buf *b, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        b->data[b->len++] = (uint8_t)(v >> 8 * i);
}

static void fill_crc_table(uint32_t *table)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int bit = 0; bit < 8; bit++)
            c = c >> 1 ^ (c & 1 ? 0xedb88320u : 0);
        table[i] = c;
    }
}

static uint32_t crc32_of(const struct zipfile *z, const uint8_t *p, size_t len)
{
    uint32_t c = 0xffffffffu;
    while (len--)
        c = c >> 8 ^ z->crc[(c ^ *p++) & 255];
    return ~c;
}

enum err zipfile_open(struct outfile *file, struct zipfile **out)
{
    struct zipfile *z = *out = calloc(1, sizeof *z);
    if (!z)
        return err_set(ERR_NOMEM, "no memory for an archive");
    z->file = file;
    fill_crc_table(z->crc);
    return ERR_OK;
}

void zipfile_close(struct zipfile *z)
{
    if (!z)
        return;
    buf_free(&z->directory);
    buf_free(&z->header);
    free(z);
}

/* What local and central headers share, from the version on. */
static void put_common(struct buf *b, int version, uint32_t crc, size_t len, size_t name)
{
    put(b, (uint64_t)version, 2);
    put(b, UTF8_NAMES, 2);
    put(b, 0, 2); /* stored */
    put(b, 0, 2); /* time */
    put(b, DOS_DATE, 2);
    put(b, crc, 4);
    put(b, len, 4);
    put(b, len, 4);
    put(b, name, 2);
}

static void put_central(struct buf *b, uint64_t offset, uint32_t crc, size_t len, const char *name)
{
    bool big = offset >= 0xffffffffu;
    put(b, 0x02014b50, 4);
    put(b, 3 << 8 | 45, 2); /* made by Unix */
    put_common(b, big ? 45 : 20, crc, len, strlen(name));
    put(b, big ? 12 : 0, 2);            /* extra field */
    put(b, 0, 2);                       /* comment */
    put(b, 0, 2);                       /* disk */
    put(b, 0, 2);                       /* internal attributes */
    put(b, (uint64_t)0100644 << 16, 4); /* a regular file, rw-r--r-- */
    put(b, big ? 0xffffffffu : offset, 4);
    buf_text(b, name); /* cannot fail: reserved */
    if (big) {
        put(b, 1, 2);
        put(b, 8, 2);
        put(b, offset, 8);
    }
}

enum err zipfile_add(struct zipfile *z, const char *name, const void *data, size_t len)
{
    size_t n = strlen(name);
    uint64_t offset = outfile_size(z->file);
    if (n > 255 || len >= 0xffffffffu)
        return err_set(ERR_LIMIT, "an archive entry of %zu bytes", len);
    uint32_t crc = crc32_of(z, data, len);
    z->header.len = 0;
    enum err e = buf_reserve(&z->header, 30 + n);
    if (!e)
        e = buf_reserve(&z->directory, 46 + n + 12);
    if (e)
        return e;
    put(&z->header, 0x04034b50, 4);
    put_common(&z->header, 20, crc, len, n);
    put(&z->header, 0, 2);
    buf_text(&z->header, name); /* cannot fail: reserved */
    e = outfile_write(z->file, z->header.data, z->header.len);
    if (!e)
        e = outfile_write(z->file, data, len);
    if (e)
        return e;
    put_central(&z->directory, offset, crc, len, name);
    z->entries++;
    return ERR_OK;
}

enum err zipfile_finish(struct zipfile *z)
{
    uint64_t offset = outfile_size(z->file), size = z->directory.len;
    bool big = z->entries >= 0xffff || offset >= 0xffffffffu || size >= 0xffffffffu;
    struct buf *d = &z->directory;
    enum err e = buf_reserve(d, 56 + 20 + 22);
    if (e)
        return e;
    if (big) {
        put(d, 0x06064b50, 4);
        put(d, 44, 8); /* bytes that follow */
        put(d, 3 << 8 | 45, 2);
        put(d, 45, 2);
        put(d, 0, 8); /* disks */
        put(d, z->entries, 8);
        put(d, z->entries, 8);
        put(d, size, 8);
        put(d, offset, 8);
        put(d, 0x07064b50, 4);
        put(d, 0, 4);
        put(d, offset + size, 8);
        put(d, 1, 4);
    }
    put(d, 0x06054b50, 4);
    put(d, 0, 4); /* disks */
    put(d, z->entries < 0xffff ? z->entries : 0xffff, 2);
    put(d, z->entries < 0xffff ? z->entries : 0xffff, 2);
    put(d, size < 0xffffffffu ? size : 0xffffffffu, 4);
    put(d, offset < 0xffffffffu ? offset : 0xffffffffu, 4);
    put(d, 0, 2);
    return outfile_write(z->file, d->data, d->len);
}
