/* Paths and parameters of strangers: an endpoint for every path, names that fit, values that are
 * what they say. The first byte chooses the method, the path ends at a '?'. */
#include "server/http.h"

#include "server/http_headers.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_path(const char *method, const char *path)
{
    struct request r = {.bad_target = target_fault(path)};
    const struct endpoint *e = route(&r, method, path);
    if (!e || !e->answer || strlen(r.name) >= sizeof r.name)
        abort();
    if (e->path && strchr(e->path, '{') && (r.name[0] == 0 || strchr(r.name, '/')))
        abort();
}

static void check_value(const char *value)
{
    struct resize_spec resize;
    enum mask_format format;
    uint64_t number;
    if (resize_parse(value, &resize) == ERR_OK && resize.width < 0)
        abort();
    if (mask_format_parse(value, &format) == ERR_OK && strcmp(mask_format_name(format), value) != 0)
        abort();
    if (number_parse(value, &number) && value[strspn(value, "0123456789")] != 0)
        abort();
    if (session_id_valid(value) && (!value[0] || strpbrk(value, "/%? \"\n")))
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const method[] = {"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "X"};
    if (size == 0)
        return 0;
    char *path = strndup((const char *)data + 1, size - 1);
    if (!path)
        return 0;
    char *query = path + strcspn(path, "?");
    check_value(*query ? query + 1 : path);
    *query = 0;
    check_path(method[data[0] % 7], path);
    free(path);
    return 0;
}
