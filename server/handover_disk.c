/* Deletions that Redis was not told of outlive the process: in the file "deletions" of the spool, a
 * line each, from the deletion until Redis has been told of all.
 *
 *     1790000000.000 0 TOKEN OWNER/ID
 *
 * The first number is when the record has ended by itself, in seconds since 1970; 1 behind it means
 * that the lease was never ours. The file is written at once, and not synced: what the system had
 * not written when the power failed ends by itself. It is written anew when most of its lines are
 * of no use. Only the daemon that has the spool locked reads and writes it. */
#include "server/handover_parts.h"

#include "server/log.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { LINES_MAX = 2 * FORGOTTEN_MAX };

static double wall_clock(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void path_of(const struct handover *h, const char *ending, char path[4096])
{
    snprintf(path, 4096, "%.4000s/deletions%s", h->config->spool, ending);
}

static bool write_line(int fd, const struct forgotten *f)
{
    uint64_t now = clock_ns();
    double left = f->until > now ? (double)(f->until - now) * 1e-9 : 0;
    return dprintf(fd, "%.3f %d %s %s/%s\n", wall_clock() + left, f->force, f->token, f->names,
                   f->id) > 0;
}

/* A new file with the whole list takes the place of the old one. */
static bool write_all(struct handover *h)
{
    char path[4096], new[4096];
    struct forgotten_list *l = &h->forgotten;
    path_of(h, "", path);
    path_of(h, ".new", new);
    int fd = open(new, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool good = fd >= 0;
    for (const struct forgotten *f = l->head; f && good; f = f->next)
        good = write_line(fd, f);
    if (!good || rename(new, path) != 0) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    if (l->fd >= 0)
        close(l->fd);
    l->fd = fd;
    l->lines = l->count;
    return true;
}

void forgotten_write(struct handover *h)
{
    struct forgotten_list *l = &h->forgotten;
    bool anew = l->fd < 0 || l->lines >= LINES_MAX;
    if (anew ? write_all(h) : write_line(l->fd, l->tail)) {
        l->lines += !anew;
        return;
    }
    log_event(LOG_WARNING, "deletion_not_kept", "stream=%s error=%s", l->tail->id,
              log_text(strerror(errno)));
    l->lines = LINES_MAX; /* anew next time: half a line may be there, and this one is not */
}

void forgotten_unlink(struct handover *h)
{
    char path[4096];
    struct forgotten_list *l = &h->forgotten;
    if (l->fd < 0)
        return;
    path_of(h, "", path);
    unlink(path);
    close(l->fd);
    l->fd = -1;
}

/* A line as it was written, its end included. */
static bool read_line(struct handover *h, char *line)
{
    struct forgotten f = {0};
    double until, longest = h->config->stream_lease + h->config->stream_linger;
    int force, at = 0;
    char *end = strchr(line, '\n');
    if (!end || sscanf(line, "%lf %d %47[0-9A-Za-z.-]%n", &until, &force, f.token, &at) != 3 ||
        !isfinite(until) || line[at] != ' ')
        return false;
    *end = '\0';
    char *owner = line + at + 1, *id = strchr(owner, '/');
    if (!id)
        return false;
    *id++ = '\0';
    if ((*owner && !key_name_valid(owner)) || !session_id_valid(id))
        return false;
    double left = until - wall_clock();
    left = left < longest ? left : longest; /* the clock may have been set */
    if (!(left > 0))
        return true;
    f.force = force;
    f.until = clock_ns() + (uint64_t)(left * 1e9);
    forgotten_recall(h, owner, id, &f);
    return true;
}

void forgotten_read(struct handover *h)
{
    char path[4096], line[512];
    size_t bad = 0, read = 0;
    path_of(h, "", path);
    FILE *f = fopen(path, "re");
    if (!f) {
        if (errno != ENOENT)
            log_event(LOG_ERROR, "deletions_unread", "error=%s", log_text(strerror(errno)));
        return;
    }
    for (; read < LINES_MAX && fgets(line, sizeof line, f); read++)
        bad += !read_line(h, line);
    fclose(f);
    log_event(bad ? LOG_WARNING : LOG_INFO, "deletions_recalled", "waiting=%zu unreadable=%zu",
              h->forgotten.count, bad);
    if (h->forgotten.count == 0)
        unlink(path);
    else if (!write_all(h))
        log_event(LOG_WARNING, "deletions_not_kept", "error=%s", log_text(strerror(errno)));
}
