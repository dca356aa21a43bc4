#include "server/http.h"

#include "server/http_headers.h"

#include <string.h>
#include <strings.h>

enum { FORM_BUFFER = 32 << 10, FORM_OVERHEAD = 64 << 10 };

bool body_expected(struct request *r)
{
    const char *expect = request_header(r, "Expect");
    return expect && strcasecmp(expect, "100-continue") == 0;
}

uint64_t body_length(struct request *r)
{
    uint64_t n = 0;
    const char *length = request_header(r, "Content-Length");
    if (length)
        return number_parse(length, &n) ? n : UINT64_MAX;
    return request_header(r, "Transfer-Encoding") ? UINT64_MAX : 0;
}

/* ---- multipart/form-data: one file --------------------------------------------------------------
 */

/* Printable ASCII, in lines, and what UTF-8 makes of other letters: no picture or video is that. */
static bool plain_text(const char *data, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)data[i];
        if ((c < ' ' && c != '\t' && c != '\n' && c != '\r') || c == 0x7f)
            return false;
    }
    return true;
}

/* The post processor's iterator: pieces of parts, in order. */
static enum MHD_Result on_part(void *request, enum MHD_ValueKind kind, const char *key,
                               const char *filename, const char *type, const char *encoding,
                               const char *data, uint64_t offset, size_t len)
{
    struct request *r = request;
    (void)kind, (void)encoding;
    if (r->error)
        return MHD_NO;
    if (offset == 0) {
        r->in_file = filename || (key && strcmp(key, "file") == 0);
        r->text = !filename && (!type || strncasecmp(type, "text/plain", 10) == 0);
        if (r->in_file && r->files++ > 0)
            request_fail(r, err_set(ERR_ARG, "the form holds more than one file"));
        else if (!r->in_file)
            request_fail(r, err_set(ERR_ARG,
                                    "the form has a field '%.40s': parameters belong in the query, "
                                    "and a file is sent with its name (curl -F file=@PATH)",
                                    key ? key : ""));
    }
    if (!r->error && len > 0) {
        r->text = r->text && plain_text(data, len);
        enum err e = r->endpoint->take(r, data, len);
        if (e)
            request_fail(r, e);
    }
    return r->error ? MHD_NO : MHD_YES;
}

/* ---- all bodies ---------------------------------------------------------------------------------
 */

enum err body_open(struct request *r)
{
    const char *type = request_header(r, "Content-Type");
    const char *encoding = request_header(r, "Content-Encoding");
    enum content_kind kind = content_kind(type);
    uint64_t length = body_length(r), slack = kind == CONTENT_FORM ? FORM_OVERHEAD : 0;
    if (encoding && strcasecmp(encoding, "identity") != 0)
        return err_set(ERR_UNSUPPORTED, "a body of Content-Encoding %.40s", encoding);
    if (kind == CONTENT_REFUSED || (kind == CONTENT_FORM && !r->endpoint->form))
        return err_set(ERR_UNSUPPORTED,
                       "a body of %.60s; send the bytes as they are, for example as "
                       "application/octet-stream",
                       type);
    if (length == 0)
        return err_set(ERR_ARG, "the body is empty");
    if (length != UINT64_MAX && length > r->limit + slack)
        return err_set(ERR_LIMIT, "a body of %llu bytes; the limit is %llu",
                       (unsigned long long)length, (unsigned long long)r->limit);
    if (kind != CONTENT_FORM)
        return ERR_OK;
    r->form = MHD_create_post_processor(r->connection, FORM_BUFFER, on_part, r);
    return r->form ? ERR_OK : err_set(ERR_ARG, "the Content-Type names no boundary");
}

enum err body_take(struct request *r, const void *data, size_t len)
{
    if (!r->form)
        return r->endpoint->take(r, data, len);
    if (MHD_post_process(r->form, data, len) == MHD_NO && !r->error)
        return err_set(ERR_FORMAT, "the form is malformed");
    return r->error;
}

enum err body_finish(struct request *r)
{
    if (!r->form)
        return ERR_OK;
    enum MHD_Result whole = MHD_destroy_post_processor(r->form);
    r->form = NULL;
    if (r->error)
        return r->error;
    if (whole == MHD_NO)
        return err_set(ERR_FORMAT, "the form is malformed or cut off");
    if (r->text)
        return err_set(ERR_ARG,
                       "the form's part 'file' is a line of text and no file: curl sends one "
                       "by -F file=@PATH, with the @");
    return r->files ? ERR_OK : err_set(ERR_ARG, "the form holds no file");
}

void body_close(struct request *r)
{
    if (r->form)
        MHD_destroy_post_processor(r->form);
    r->form = NULL;
}

enum err body_to_memory(struct request *r, const void *data, size_t len)
{
    if (r->input.len + len > r->limit)
        return err_set(ERR_LIMIT, "a body of more than %llu bytes", (unsigned long long)r->limit);
    return buf_append(&r->input, data, len);
}
