/* Answers that are compressed, for clients that take it.
 *
 * JSON, text and masks that are text or raw labels shrink to a fraction; PNG, video and zip do not,
 * and go as they are. Level 1: the network thread does this work, but for the masks of single
 * images, which a worker compresses. A file is compressed in pieces as the socket takes them, each
 * a bounded amount of work, with a window that keeps zlib's state at 64 KiB. */
#include "server/http.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

enum { LEVEL = 1, FORMAT_GZIP = 16 };
enum { WINDOW = 15, MEMORY = 8 }; /* zlib's own: 256 KiB, for a moment */
enum { FILE_WINDOW = 13, FILE_MEMORY = 6, PIECE = 64 << 10 }; /* PIECE: bytes read at once */

bool gzip_pays(enum mask_format format)
{
    return format == MASK_RAW || format == MASK_RLE || format == MASK_COCO_RLE;
}

void gzip_headers(struct MHD_Response **answer, bool zipped)
{
    if (zipped)
        reply_header(answer, "Content-Encoding", "gzip");
    reply_header(answer, "Vary", "Accept-Encoding");
}

/* ---- bytes --------------------------------------------------------------------------------------
 */

/* malloc'd, or NULL where it does not pay. */
static void *compress_bytes(const void *data, size_t len, size_t *out_len)
{
    z_stream z = {0};
    if (len < GZIP_MIN || len > UINT32_MAX / 2 ||
        deflateInit2(&z, LEVEL, Z_DEFLATED, WINDOW + FORMAT_GZIP, MEMORY, Z_DEFAULT_STRATEGY) !=
            Z_OK)
        return NULL;
    size_t room = len - len / 16; /* less saved is not worth it */
    uint8_t *out = malloc(room);
    z.next_in = (Bytef *)(uintptr_t)data;
    z.avail_in = (uInt)len;
    z.next_out = out;
    z.avail_out = (uInt)room;
    bool smaller = out && deflate(&z, Z_FINISH) == Z_STREAM_END;
    *out_len = z.total_out;
    deflateEnd(&z);
    if (smaller)
        return out;
    free(out);
    return NULL;
}

bool gzip_in_place(void **data, size_t *len)
{
    size_t zipped_len;
    void *zipped = compress_bytes(*data, *len, &zipped_len);
    if (!zipped)
        return false;
    free(*data);
    *data = zipped;
    *len = zipped_len;
    return true;
}

struct MHD_Response *reply_text(struct request *r, const char *mime, void *data, size_t len)
{
    bool zipped = r->gzip && gzip_in_place(&data, &len);
    struct MHD_Response *answer = reply_bytes(mime, data, len);
    gzip_headers(&answer, zipped);
    return answer;
}

struct MHD_Response *reply_text_static(struct request *r, const char *mime, const void *data,
                                       size_t len)
{
    size_t zipped_len;
    void *zipped = r->gzip ? compress_bytes(data, len, &zipped_len) : NULL;
    struct MHD_Response *answer =
        zipped ? reply_bytes(mime, zipped, zipped_len) : reply_static(mime, data, len);
    gzip_headers(&answer, zipped);
    return answer;
}

/* ---- a file -------------------------------------------------------------------------------------
 */

struct zipper {
    int fd;
    bool end; /* of the file */
    z_stream z;
    uint8_t piece[PIECE];
};

/* The next bytes of the file into the empty input. */
static bool read_piece(struct zipper *p)
{
    ssize_t n;
    do
        n = read(p->fd, p->piece, sizeof p->piece);
    while (n < 0 && errno == EINTR);
    p->end = n == 0;
    p->z.next_in = p->piece;
    p->z.avail_in = n > 0 ? (uInt)n : 0;
    return n >= 0;
}

/* Every piece is flushed, so no call works through more than one without a byte to show. */
static ssize_t on_read(void *zipper, uint64_t offset, char *to, size_t room)
{
    struct zipper *p = zipper;
    (void)offset;
    p->z.next_out = (Bytef *)to;
    p->z.avail_out = (uInt)room;
    if (p->z.avail_in == 0 && !p->end && !read_piece(p))
        return MHD_CONTENT_READER_END_WITH_ERROR;
    int r = deflate(&p->z, p->end ? Z_FINISH : Z_SYNC_FLUSH);
    size_t n = room - p->z.avail_out;
    if (n > 0)
        return (ssize_t)n;
    return r == Z_STREAM_END ? MHD_CONTENT_READER_END_OF_STREAM : MHD_CONTENT_READER_END_WITH_ERROR;
}

static void on_end(void *zipper)
{
    struct zipper *p = zipper;
    deflateEnd(&p->z);
    close(p->fd);
    free(p);
}

struct MHD_Response *gzip_file(int fd)
{
    struct zipper *p = calloc(1, sizeof *p);
    struct MHD_Response *answer = NULL;
    if (p && deflateInit2(&p->z, LEVEL, Z_DEFLATED, FILE_WINDOW + FORMAT_GZIP, FILE_MEMORY,
                          Z_DEFAULT_STRATEGY) == Z_OK) {
        p->fd = fd;
        answer = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, PIECE / 2, on_read, p, on_end);
        if (answer)
            return answer;
        deflateEnd(&p->z);
    }
    free(p);
    close(fd);
    return NULL;
}
