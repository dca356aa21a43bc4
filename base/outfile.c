#include "base/outfile.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct outfile {
    int fd;
    bool in_place; /* no rename: `temp` is the destination */
    uint64_t size;
    char *path, *temp;
};

struct outdir {
    bool existed;
    int fd; /* of the temporary directory */
    char *path, *temp;
};

static enum err io_error(const char *what, const char *path)
{
    int cause = errno;
    enum err e = cause == ENOMEM                      ? ERR_NOMEM
                 : cause == ENOSPC || cause == EDQUOT ? ERR_FULL
                                                      : ERR_IO;
    return err_set(e, "cannot %s %s: %s", what, path, strerror(cause));
}

/* "DIR/.NAME.1a2b3c.part" beside `path`; malloc'd. `attempt` makes another name. */
static char *temporary_name(const char *path, int attempt)
{
    static atomic_uint serial;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    unsigned tag = (unsigned)now.tv_nsec ^ (unsigned)getpid() << 12 ^
                   (atomic_fetch_add(&serial, 1) + (unsigned)attempt) * 2654435761u;
    const char *slash = strrchr(path, '/');
    int dir = slash ? (int)(slash + 1 - path) : 0;
    char *name = NULL;
    if (asprintf(&name, "%.*s.%.200s.%08x.part", dir, path, path + dir, tag) < 0)
        return NULL;
    return name;
}

/* ---- one file ----------------------------------------------------------------------------------
 */

static void outfile_free(struct outfile *f)
{
    if (f->fd >= 0)
        close(f->fd);
    free(f->path);
    free(f->temp);
    free(f);
}

static enum err open_in_place(struct outfile *f)
{
    f->in_place = true;
    f->temp = strdup(f->path);
    if (!f->temp)
        return err_set(ERR_NOMEM, "no memory for a file name");
    f->fd = open(f->path, O_WRONLY | O_CLOEXEC);
    return f->fd < 0 ? io_error("write", f->path) : ERR_OK;
}

static enum err open_temporary(struct outfile *f)
{
    for (int attempt = 0; attempt < 100; attempt++) {
        free(f->temp);
        f->temp = temporary_name(f->path, attempt);
        if (!f->temp)
            return err_set(ERR_NOMEM, "no memory for a file name");
        f->fd = open(f->temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (f->fd >= 0 || errno != EEXIST)
            break;
    }
    return f->fd < 0 ? io_error("create", f->path) : ERR_OK;
}

enum err outfile_open(const char *path, struct outfile **out)
{
    struct stat st;
    *out = NULL;
    bool there = stat(path, &st) == 0;
    if (there && S_ISDIR(st.st_mode))
        return err_set(ERR_IO, "cannot write %s: it is a directory", path);
    struct outfile *f = calloc(1, sizeof *f);
    if (!f)
        return err_set(ERR_NOMEM, "no memory for an output file");
    f->fd = -1;
    f->path = there ? realpath(path, NULL) : strdup(path); /* a link stays a link */
    enum err e = f->path ? ERR_OK : io_error("write", path);
    if (!e)
        e = there && !S_ISREG(st.st_mode) ? open_in_place(f) : open_temporary(f);
    if (e) {
        outfile_free(f);
        return e;
    }
    *out = f;
    return ERR_OK;
}

enum err outfile_write_at(struct outfile *f, uint64_t offset, const void *data, size_t len)
{
    const char *p = data;
    if (f->in_place && offset != f->size)
        return err_set(ERR_UNSUPPORTED, "%s cannot be rewritten", f->path);
    while (len > 0) {
        ssize_t n = f->in_place ? write(f->fd, p, len) : pwrite(f->fd, p, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return io_error("write", f->path);
        p += n;
        len -= (size_t)n;
        offset += (uint64_t)n;
        if (offset > f->size)
            f->size = offset;
    }
    return ERR_OK;
}

enum err outfile_write(struct outfile *f, const void *data, size_t len)
{
    return outfile_write_at(f, f->size, data, len);
}

uint64_t outfile_size(const struct outfile *f)
{
    return f->size;
}

bool outfile_seekable(const struct outfile *f)
{
    return !f->in_place;
}

const char *outfile_temporary(const struct outfile *f)
{
    return f->temp;
}

enum err outfile_commit(struct outfile *f)
{
    enum err e = ERR_OK;
    if (!f->in_place && fsync(f->fd) != 0)
        e = io_error("write", f->path);
    if (close(f->fd) != 0 && !e)
        e = io_error("write", f->path);
    f->fd = -1;
    if (!e && !f->in_place && rename(f->temp, f->path) != 0)
        e = io_error("write", f->path);
    if (e && !f->in_place)
        unlink(f->temp);
    outfile_free(f);
    return e;
}

void outfile_abort(struct outfile *f)
{
    if (!f)
        return;
    if (!f->in_place)
        unlink(f->temp);
    outfile_free(f);
}

/* ---- a directory --------------------------------------------------------------------------------
 */

/* Calls unlinkat or renameat for every file in the temporary directory, then removes it. */
static enum err empty(struct outdir *d, int to_fd)
{
    enum err e = ERR_OK;
    int fd = dup(d->fd);
    DIR *list = fd < 0 ? NULL : fdopendir(fd);
    if (!list) {
        if (fd >= 0)
            close(fd);
        return io_error("list", d->temp);
    }
    for (struct dirent *file; (file = readdir(list));) {
        if (strcmp(file->d_name, ".") == 0 || strcmp(file->d_name, "..") == 0)
            continue;
        if (to_fd >= 0 && !e && renameat(d->fd, file->d_name, to_fd, file->d_name) != 0)
            e = io_error("write into", d->path);
        if (to_fd < 0)
            unlinkat(d->fd, file->d_name, 0);
    }
    closedir(list);
    return e;
}

static void outdir_free(struct outdir *d)
{
    if (d->fd >= 0)
        close(d->fd);
    free(d->path);
    free(d->temp);
    free(d);
}

static enum err make_directory(struct outdir *d)
{
    struct stat st;
    d->existed = stat(d->path, &st) == 0;
    if (d->existed && !S_ISDIR(st.st_mode))
        return err_set(ERR_IO, "cannot write %s: it is not a directory", d->path);
    char *inside = NULL; /* a name whose parent is the place for the temporary directory */
    if (asprintf(&inside, "%s%s", d->path, d->existed ? "/masks" : "") < 0)
        return err_set(ERR_NOMEM, "no memory for a directory name");
    d->temp = temporary_name(inside, 0);
    free(inside);
    if (!d->temp)
        return err_set(ERR_NOMEM, "no memory for a directory name");
    if (mkdir(d->temp, 0777) != 0) {
        enum err e = io_error("create", d->path);
        free(d->temp);
        d->temp = NULL; /* nothing to remove */
        return e;
    }
    d->fd = open(d->temp, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return d->fd < 0 ? io_error("open", d->temp) : ERR_OK;
}

enum err outdir_open(const char *path, struct outdir **out)
{
    *out = NULL;
    struct outdir *d = calloc(1, sizeof *d);
    if (!d)
        return err_set(ERR_NOMEM, "no memory for an output directory");
    d->fd = -1;
    d->path = strdup(path);
    if (!d->path) {
        outdir_free(d);
        return err_set(ERR_NOMEM, "no memory for a directory name");
    }
    for (size_t n = strlen(d->path); n > 1 && d->path[n - 1] == '/'; n--)
        d->path[n - 1] = 0;
    enum err e = make_directory(d);
    if (e) {
        outdir_abort(d);
        return e;
    }
    *out = d;
    return ERR_OK;
}

enum err outdir_write(struct outdir *d, const char *name, const void *data, size_t len)
{
    enum err e = ERR_OK;
    const char *p = data;
    int fd = openat(d->fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return io_error("create a file in", d->path);
    while (len > 0) {
        ssize_t n = write(fd, p, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            e = io_error("write into", d->path);
            break;
        }
        p += n;
        len -= (size_t)n;
    }
    if (close(fd) != 0 && !e)
        e = io_error("write into", d->path);
    return e;
}

enum err outdir_commit(struct outdir *d)
{
    enum err e = ERR_OK;
    if (d->existed) {
        int to = open(d->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        e = to < 0 ? io_error("open", d->path) : empty(d, to);
        if (to >= 0)
            close(to);
    } else if (rename(d->temp, d->path) != 0) {
        e = io_error("create", d->path);
    }
    if (e) {
        outdir_abort(d);
        return e;
    }
    if (d->existed)
        rmdir(d->temp);
    outdir_free(d);
    return ERR_OK;
}

void outdir_abort(struct outdir *d)
{
    if (!d)
        return;
    if (d->fd >= 0)
        empty(d, -1);
    if (d->temp)
        rmdir(d->temp);
    outdir_free(d);
}
