/* multipart/form-data of anybody's, through a real connection of libmicrohttpd's: the first line is
 * what follows the media type, the rest the body, which comes in pieces of the first byte's size.
 * A body that is accepted held exactly one file, none of it beyond the limit. */
#include "server/config.h"
#include "server/http.h"
#include "server/log.h"

#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { LIMIT = 2048 };

static const uint8_t *body;
static size_t body_size, piece;

static const struct endpoint endpoint = {.take = body_to_memory, .form = true};

static enum err take_all(struct request *r)
{
    enum err e = body_open(r);
    for (size_t at = 0; !e && at < body_size; at += piece)
        e = body_take(r, body + at, at + piece < body_size ? piece : body_size - at);
    return e ? e : body_finish(r);
}

static enum MHD_Result on_request(void *response, struct MHD_Connection *connection,
                                  const char *path, const char *method, const char *version,
                                  const char *data, size_t *len, void **context)
{
    struct request r = {.connection = connection, .endpoint = &endpoint, .limit = LIMIT};
    (void)path, (void)method, (void)version, (void)data, (void)len, (void)context;
    enum err e = take_all(&r);
    if (!e && (r.input.len > LIMIT || (r.form && r.files != 1)))
        abort();
    if (e && !err_text()[0])
        abort();
    body_close(&r);
    buf_free(&r.input);
    return MHD_queue_response(connection, 200, response);
}

static void send_head(int fd, const char *type, size_t n)
{
    char head[1024];
    int len = snprintf(head, sizeof head,
                       "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/form-data%.*s\r\n"
                       "Content-Length: %zu\r\n\r\n",
                       (int)n, type, body_size ? body_size : 1);
    if (send(fd, head, (size_t)len, MSG_NOSIGNAL) != len)
        abort();
}

static void converse(struct MHD_Daemon *daemon, const char *type, size_t n)
{
    int pair[2];
    struct sockaddr_in nobody = {.sin_family = AF_INET};
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) != 0)
        abort();
    send_head(pair[0], type, n);
    if (MHD_add_connection(daemon, pair[1], (struct sockaddr *)&nobody, sizeof nobody) != MHD_YES)
        abort();
    MHD_run(daemon);
    close(pair[0]);
    MHD_run(daemon);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct MHD_Daemon *daemon;
    static struct MHD_Response *response;
    if (!daemon) {
        response = MHD_create_response_from_buffer(0, "", MHD_RESPMEM_PERSISTENT);
        daemon = MHD_start_daemon(MHD_USE_NO_LISTEN_SOCKET, 0, NULL, NULL, on_request, response,
                                  MHD_OPTION_END);
    }
    if (size < 2)
        return 0;
    piece = data[0] ? data[0] : size;
    const uint8_t *end = memchr(data + 1, '\n', size - 1);
    size_t n = end ? (size_t)(end - data - 1) : size - 1;
    if (n > 400 || memchr(data + 1, 0, n) || memchr(data + 1, '\r', n))
        return 0;
    body = end ? end + 1 : data + size;
    body_size = (size_t)(data + size - body);
    converse(daemon, (const char *)data + 1, n);
    return 0;
}
