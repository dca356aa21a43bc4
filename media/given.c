/* A file that FFmpeg does not open itself: its descriptor was given, or it is still being written.
 *
 * Of a growing file FFmpeg is told that it cannot seek: a demuxer that could would go to the end
 * for an index first, and wait there until the last byte has come. Containers that have what they
 * need in front then give their frames as they arrive, the same frames as from the whole file;
 * decode_streamable says which they are. */
#include "media/given.h"

#include <errno.h>
#include <fcntl.h>
#include <libavutil/error.h>
#include <libavutil/intreadwrite.h>
#include <libavutil/mem.h>
#include <string.h>
#include <unistd.h>

enum { BUFFER = 32 << 10 };

struct given {
    const struct decode_options *o;
    int fd;
    bool ours; /* to close */
    int64_t position;
};

static int read_some(void *given, uint8_t *to, int size)
{
    struct given *g = given;
    int64_t end = g->o->growing ? g->o->growing(g->o->ctx, g->position) : INT64_MAX;
    if (g->o->cancelled && g->o->cancelled(g->o->ctx))
        return AVERROR_EXIT;
    if (end <= g->position)
        return AVERROR_EOF;
    if (size > end - g->position)
        size = (int)(end - g->position);
    ssize_t n = pread(g->fd, to, (size_t)size, g->position);
    if (n <= 0)
        return n < 0 ? AVERROR(errno) : AVERROR_EOF;
    g->position += n;
    return (int)n;
}

/* Of a whole file. */
static int64_t seek_to(void *given, int64_t offset, int whence)
{
    struct given *g = given;
    whence &= ~AVSEEK_FORCE;
    if (whence == AVSEEK_SIZE || whence == SEEK_END) {
        int64_t size = lseek(g->fd, 0, SEEK_END); /* reading is by pread: nobody minds */
        if (size < 0 || whence == AVSEEK_SIZE)
            return size < 0 ? AVERROR(errno) : size;
        offset += size;
    } else if (whence == SEEK_CUR) {
        offset += g->position;
    } else if (whence != SEEK_SET) {
        return AVERROR(EINVAL);
    }
    return offset < 0 ? AVERROR(EINVAL) : (g->position = offset);
}

enum err given_open(const char *path, const struct decode_options *o, AVIOContext **out)
{
    struct given *g = av_mallocz(sizeof *g);
    uint8_t *buffer = av_malloc(BUFFER);
    enum err e = ERR_OK;
    *out = NULL;
    if (!g || !buffer) {
        e = err_set(ERR_NOMEM, "no memory for a decoder");
        goto done;
    }
    g->o = o;
    g->ours = o->fd <= 0;
    g->fd = g->ours ? open(path, O_RDONLY | O_CLOEXEC) : o->fd;
    if (g->fd < 0) {
        e = err_set(ERR_IO, "%s: %s", path, strerror(errno));
        goto done;
    }
    *out = avio_alloc_context(buffer, BUFFER, 0, g, read_some, NULL, o->growing ? NULL : seek_to);
    if (*out)
        return ERR_OK;
    e = err_set(ERR_NOMEM, "no memory for a decoder");
    if (g->ours)
        close(g->fd);
done:
    av_free(buffer);
    av_free(g);
    return e;
}

int given_head(AVIOContext *c, uint8_t *head, size_t room, int64_t *size)
{
    const struct given *g = c->opaque;
    *size = lseek(g->fd, 0, SEEK_END);
    return (int)pread(g->fd, head, room, 0);
}

void given_close(AVIOContext *c)
{
    if (!c)
        return;
    struct given *g = c->opaque;
    if (g->ours)
        close(g->fd);
    av_free(g);
    av_freep(&c->buffer);
    avio_context_free(&c);
}

/* ISO files are boxes: a size, a name, and what is in them. The index is in `moov`. */
static bool index_in_front(const uint8_t *head, size_t len)
{
    for (size_t at = 0; at + 8 <= len;) {
        uint64_t size = AV_RB32(head + at);
        if (memcmp(head + at + 4, "moov", 4) == 0)
            return true;
        if (memcmp(head + at + 4, "mdat", 4) == 0 || size < 8 || size > len - at)
            return false;
        at += size;
    }
    return false;
}

bool decode_streamable(const uint8_t *head, size_t len)
{
    static const char *const magic[] = {"\x1a\x45\xdf\xa3", "OggS", "FLV\x01", "DKIF", "YUV4MPEG2"};
    if (len >= 12 && memcmp(head + 4, "ftyp", 4) == 0)
        return index_in_front(head, len);
    if (len >= 12 && memcmp(head, "RIFF", 4) == 0 && memcmp(head + 8, "AVI ", 4) == 0)
        return true;
    if (len > 2 * 188 && head[0] == 0x47 && head[188] == 0x47 && head[376] == 0x47) /* MPEG-TS */
        return true;
    for (size_t i = 0; i < sizeof magic / sizeof *magic; i++)
        if (len >= strlen(magic[i]) && memcmp(head, magic[i], strlen(magic[i])) == 0)
            return true;
    return false;
}
