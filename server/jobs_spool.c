#include "server/job.h"

#include "base/try.h"
#include "server/config.h"
#include "server/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { OUR_ID = 22 };
#define TELL_FULL_NS 60000000000ull

static enum err io_error(const char *what)
{
    int cause = errno;
    enum err e = cause == ENOMEM                      ? ERR_NOMEM
                 : cause == ENOSPC || cause == EDQUOT ? ERR_FULL
                                                      : ERR_IO;
    return err_set(e, "the spool: cannot %s: %s", what, strerror(cause));
}

/* ---- the spool ----------------------------------------------------------------------------------
 */

static bool among(const char *const *names, const char *name)
{
    while (*names && strcmp(*names, name) != 0)
        names++;
    return *names;
}

/* It takes memory, which may be short for a moment. */
static DIR *open_folder(const char *folder)
{
    enum { TRIES = 3 };
    DIR *dir = NULL;
    for (int i = 0; !dir && i < TRIES && (i == 0 || errno == ENOMEM); i++)
        dir = opendir(folder);
    return dir;
}

/* All files in it but those called like one of `keep`. What stays for want of memory or
 * descriptors goes at the next start. */
static void empty_folder(const char *folder, const char *const *keep)
{
    DIR *dir = open_folder(folder);
    if (!dir)
        return;
    for (struct dirent *entry; (entry = readdir(dir));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
            !among(keep, entry->d_name))
            unlinkat(dirfd(dir), entry->d_name, 0);
    closedir(dir);
}

static void remove_folder(const char *folder)
{
    const char *const none[] = {NULL};
    empty_folder(folder, none);
    rmdir(folder);
}

/* Whosever it is. */
static bool is_job(struct jobs *j, const char *name)
{
    pthread_mutex_lock(&j->lock);
    const struct job *job = j->first;
    while (job && strcmp(job->id, name) != 0)
        job = job->next;
    pthread_mutex_unlock(&j->lock);
    return job;
}

void spool_sweep(struct jobs *j)
{
    DIR *dir = opendir(j->spool);
    if (!dir)
        return;
    for (struct dirent *entry; (entry = readdir(dir));) {
        char path[4096];
        if (!spool_id(entry->d_name) || is_job(j, entry->d_name))
            continue;
        if (snprintf(path, sizeof path, "%s/%s", j->spool, entry->d_name) < (int)sizeof path)
            remove_folder(path);
    }
    closedir(dir);
}

bool spool_id(const char *name)
{
    return strlen(name) == OUR_ID && session_id_valid(name);
}

/* On a file system in memory, or in the folder that systems empty when they start. */
static bool is_temporary(const char *path)
{
    struct statfs s;
    return strncmp(path, "/tmp/", 5) == 0 || strcmp(path, "/tmp") == 0 ||
           (statfs(path, &s) == 0 && s.f_type == TMPFS_MAGIC);
}

/* By errno, which is of the folder above where the spool is not there. */
static enum err wrong_spool(const char *spool, bool there, const char *what)
{
    const char *cause = strerror(errno);
    enum err e = io_error(what);
    return there ? err_context(e, "%s", spool)
                 : err_set(e, "the spool: cannot make %s: %s", spool, cause);
}

enum err jobs_check_spool(const char *spool)
{
    struct stat st;
    struct statfs fs;
    char parent[PATH_MAX];
    if (snprintf(parent, sizeof parent, "%s", spool) >= (int)sizeof parent)
        return err_set(ERR_ARG, "the spool's path is too long");
    bool there = stat(spool, &st) == 0 || errno != ENOENT;
    const char *folder = there ? spool : dirname(parent);
    if (stat(folder, &st) != 0 || statfs(folder, &fs) != 0)
        return wrong_spool(spool, there, "open it");
    bool files = fs.f_type != PROC_SUPER_MAGIC && fs.f_type != SYSFS_MAGIC;
    errno = !S_ISDIR(st.st_mode) ? ENOTDIR : EPERM;
    if (S_ISDIR(st.st_mode) && files &&
        faccessat(AT_FDCWD, folder, R_OK | W_OK | X_OK, AT_EACCESS) == 0)
        return ERR_OK;
    return wrong_spool(spool, there, "write there");
}

/* Of the whole disk, or what of it is free for us; 0: not known. */
static uint64_t disk_bytes(const struct jobs *j, bool free)
{
    struct statvfs s;
    if (statvfs(j->spool, &s) != 0)
        return 0;
    return (uint64_t)(free ? s.f_bavail : s.f_blocks) * s.f_frsize;
}

uint64_t spool_free(const struct jobs *j)
{
    return disk_bytes(j, true);
}

/* Where the file system knows no such files, or cannot promise bytes, its figures have to do. */
bool spool_probe(const struct jobs *j, uint64_t bytes)
{
    int fd = open(j->spool, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    int cause = fd < 0 || fallocate(fd, 0, 0, (off_t)bytes) != 0 ? errno : 0;
    if (fd >= 0)
        close(fd);
    return cause != ENOSPC && cause != EDQUOT;
}

void spool_tell_full(struct jobs *j)
{
    unsigned long long now = clock_ns(), last = atomic_load(&j->full_logged);
    if ((last == 0 || now - last >= TELL_FULL_NS) &&
        atomic_compare_exchange_strong(&j->full_logged, &last, now))
        log_event(LOG_ERROR, "spool_disk_full", "spool=%s free=%llu", log_text(j->spool),
                  (unsigned long long)spool_free(j));
}

/* What is there to be noticed before it hurts. */
static void warn(const struct jobs *j)
{
    uint64_t disk = disk_bytes(j, false), most = j->server->config->spool_max;
    if (is_temporary(j->spool))
        log_event(LOG_WARNING, "spool_is_temporary",
                  "spool=%s lost=\"uploads and results, when the machine restarts\"",
                  log_text(j->spool));
    if (disk > 0 && most > disk)
        log_event(LOG_WARNING, "spool_max_beyond_disk", "spool=%s spool_max=%llu disk=%llu",
                  log_text(j->spool), (unsigned long long)most, (unsigned long long)disk);
}

enum err spool_open(struct jobs *j)
{
    char path[4096];
    j->spool = realpath(j->server->config->spool, NULL);
    if (!j->spool && mkdir(j->server->config->spool, 0700) == 0)
        j->spool = realpath(j->server->config->spool, NULL);
    if (!j->spool)
        return err_context(io_error("open it"), "%s", j->server->config->spool);
    if (snprintf(path, sizeof path, "%s/lock", j->spool) > 3072)
        return err_set(ERR_ARG, "the spool's path is too long");
    j->spool_lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (j->spool_lock < 0)
        return err_context(io_error("lock it"), "%s", j->spool);
    if (flock(j->spool_lock, LOCK_EX | LOCK_NB) != 0)
        return err_set(ERR_EXISTS,
                       "the spool %s is another daemon's: stop that one, or give this one another "
                       "folder with --spool",
                       j->spool);
    warn(j);
    return ERR_OK;
}

void spool_close(struct jobs *j)
{
    if (j->spool_lock >= 0)
        close(j->spool_lock);
    free(j->spool);
}

/* ---- a job's folder -----------------------------------------------------------------------------
 */

void spool_path(const struct job *job, const char *name, char path[4096])
{
    snprintf(path, 4096, "%s/%s", job->folder, name);
}

enum err spool_create(struct job *job, const char *name, int *fd)
{
    char path[4096];
    spool_path(job, name, path);
    *fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return *fd < 0 ? io_error("create a file") : ERR_OK;
}

enum err spool_append(struct job *job, const char *name, int *fd)
{
    char path[4096];
    spool_path(job, name, path);
    *fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    return *fd < 0 ? io_error("open a file") : ERR_OK;
}

enum err spool_cut(int fd, uint64_t size)
{
    struct stat st;
    if (fstat(fd, &st) != 0)
        return io_error("read a file");
    if ((uint64_t)st.st_size < size)
        return err_set(ERR_FORMAT, "the spool: a file is too short");
    return ftruncate(fd, (off_t)size) == 0 ? ERR_OK : io_error("write");
}

enum err spool_flush(int fd)
{
    return fdatasync(fd) == 0 ? ERR_OK : io_error("write");
}

enum err spool_name(struct job *job)
{
    if (asprintf(&job->folder, "%s/%s", job->jobs->spool, job->id) >= 0)
        return ERR_OK;
    job->folder = NULL;
    return err_set(ERR_NOMEM, "no memory for a file name");
}

enum err spool_make(struct job *job)
{
    TRY(spool_name(job));
    if (mkdir(job->folder, 0700) != 0)
        return io_error("make a folder");
    return spool_create(job, SPOOL_UPLOAD, &job->upload);
}

void spool_remove(struct job *job)
{
    if (job->folder)
        remove_folder(job->folder);
}

void spool_clear(struct job *job, const char *const *keep)
{
    empty_folder(job->folder, keep);
}

bool spool_has(const struct job *job, const char *name)
{
    char path[4096];
    struct stat st;
    spool_path(job, name, path);
    return lstat(path, &st) == 0 && S_ISREG(st.st_mode);
}

void spool_unlink(const struct job *job, const char *name)
{
    char path[4096];
    spool_path(job, name, path);
    unlink(path);
}

uint64_t spool_size(const struct job *job)
{
    uint64_t sum = 0;
    struct stat st;
    DIR *dir = opendir(job->folder);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISREG(st.st_mode))
            sum += (uint64_t)st.st_size;
    if (dir)
        closedir(dir);
    return sum;
}

static enum err sync_folder(const char *folder)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return io_error("open a folder");
    enum err e = fsync(fd) == 0 ? ERR_OK : io_error("write a folder");
    close(fd);
    return e;
}

enum err spool_sync(const struct job *job)
{
    return sync_folder(job->folder);
}

enum err spool_sync_root(const struct jobs *j)
{
    return sync_folder(j->spool);
}

enum err spool_read(struct job *job, const char *name, int *fd, uint64_t *size)
{
    char path[4096];
    struct stat st;
    spool_path(job, name, path);
    *fd = open(path, O_RDONLY | O_CLOEXEC);
    if (*fd < 0)
        return io_error("read a file");
    if (fstat(*fd, &st) != 0) {
        close(*fd);
        return io_error("read a file");
    }
    *size = (uint64_t)st.st_size;
    return ERR_OK;
}

enum err spool_write_at(int fd, uint64_t offset, const void *data, size_t len)
{
    for (const char *p = data; len > 0;) {
        ssize_t n = pwrite(fd, p, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return io_error("write");
        p += n;
        len -= (size_t)n;
        offset += (uint64_t)n;
    }
    return ERR_OK;
}

enum err spool_read_at(int fd, uint64_t offset, void *data, size_t len)
{
    for (char *p = data; len > 0;) {
        ssize_t n = pread(fd, p, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return io_error("read");
        if (n == 0)
            return err_set(ERR_IO, "the spool: a file is too short");
        p += n;
        len -= (size_t)n;
        offset += (uint64_t)n;
    }
    return ERR_OK;
}
