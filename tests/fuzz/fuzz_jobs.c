/* A jobs.sqlite that is damaged, or was made by somebody. What is read of it is whole texts; what
 * is written into it then fails at worst. An input is a file as it stands, or, after a first byte
 * below 128, patches to a real one: offset (2 bytes, from the front), value. */
#include "server/jobs_store.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ROWS_MAX = 16 };

static char path[64];
static uint8_t *real;
static size_t real_len;

static const struct store_delivery waits = {.id = "delivery", .body = "{}", .host = "localhost"};

struct seen {
    struct job_row row[ROWS_MAX];
    int rows;
};

static void clear(void)
{
    static const char *const tail[] = {"", "-wal", "-shm", "-journal"};
    char name[80];
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "%s%s", path, tail[i]);
        unlink(name);
    }
}

static void put(const uint8_t *data, size_t size)
{
    clear();
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    close(fd);
}

/* An upload that runs and one that has ended, whose webhook waits. */
static void start(void)
{
    struct store *s;
    struct job_row r = {.id = "running",
                        .model = "street",
                        .mode = "stream",
                        .format = "png",
                        .state = "running",
                        .key = "k",
                        .digest = "d",
                        .done = 3,
                        .total = 9};
    snprintf(path, sizeof path, "/dev/shm/fuzz-jobs-%d.sqlite", (int)getpid());
    atexit(clear);
    if (store_open(path, &s) || store_add(s, &r, NULL))
        abort();
    snprintf(r.id, sizeof r.id, "ended");
    snprintf(r.webhook, sizeof r.webhook, "http://localhost/");
    if (store_add(s, &r, NULL) || store_update(s, &r, &waits))
        abort();
    store_close(s);
    FILE *f = fopen(path, "rb");
    real = malloc(1 << 20);
    real_len = f && real ? fread(real, 1, 1 << 20, f) : 0;
    if (real_len == 0)
        abort();
    fclose(f);
}

#define WHOLE(text)                                                                                \
    if (!memchr(text, 0, sizeof(text)))                                                            \
    abort()

static void visit(void *seen, const struct job_row *r)
{
    struct seen *s = seen;
    WHOLE(r->id);
    WHOLE(r->owner);
    WHOLE(r->model);
    WHOLE(r->state);
    WHOLE(r->problem);
    WHOLE(r->key);
    WHOLE(r->webhook);
    if (s->rows < ROWS_MAX)
        s->row[s->rows++] = *r;
}

static void visit_delivery(void *ctx, const struct delivery_row *r)
{
    (void)ctx;
    WHOLE(r->id);
    WHOLE(r->job);
    WHOLE(r->url);
}

static void use(struct store *s)
{
    static struct seen seen;
    struct delivery_host host = {.host = ""};
    seen.rows = 0;
    enum err e = store_each(s, visit, &seen);
    if (e && !err_text()[0])
        abort();
    for (int i = 0; i < ROWS_MAX && store_next_host(s, host.host, &host) == ERR_OK; i++) {
        WHOLE(host.host);
        store_due(s, host.host, -1e300, 1e300, ROWS_MAX, visit_delivery, NULL);
    }
    store_deliveries(s);
    for (int i = 0; i < seen.rows; i++) {
        store_update(s, &seen.row[i], NULL);
        store_update(s, &seen.row[i], &waits);
        store_remove(s, seen.row[i].id);
    }
    store_tried(s, 1, 2, 3);
    store_delivered(s, 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct store *s;
    if (!real)
        start();
    if (size > 0 && data[0] < 128) {
        uint8_t *copy = malloc(real_len);
        if (!copy)
            return 0;
        memcpy(copy, real, real_len);
        for (data++, size--; size >= 3; data += 3, size -= 3)
            copy[(size_t)(data[0] << 8 | data[1]) % real_len] = data[2];
        put(copy, real_len);
        free(copy);
    } else {
        put(data, size);
    }
    if (store_open(path, &s)) {
        if (s || !err_text()[0])
            abort();
        return 0;
    }
    use(s);
    store_close(s);
    return 0;
}
