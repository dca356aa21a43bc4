#include "server/job.h"

#include "base/try.h"
#include "server/config.h"
#include "server/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OUR_ID = 22 };

static enum err io_error(const char *what)
{
    int cause = errno;
    return err_set(cause == ENOMEM ? ERR_NOMEM : ERR_IO, "the spool: cannot %s: %s", what,
                   strerror(cause));
}

/* ---- the spool ----------------------------------------------------------------------------------
 */

static void remove_folder(const char *folder)
{
    DIR *dir = opendir(folder);
    if (!dir)
        return;
    for (struct dirent *entry; (entry = readdir(dir));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            unlinkat(dirfd(dir), entry->d_name, 0);
    closedir(dir);
    rmdir(folder);
}

/* Jobs do not outlive the process: what another left behind goes. Only folders named as ours are.
 */
static void remove_leftovers(const char *spool)
{
    DIR *dir = opendir(spool);
    if (!dir)
        return;
    for (struct dirent *entry; (entry = readdir(dir));) {
        char path[4096];
        if (strlen(entry->d_name) != OUR_ID || !session_id_valid(entry->d_name))
            continue;
        if (snprintf(path, sizeof path, "%s/%s", spool, entry->d_name) < (int)sizeof path)
            remove_folder(path);
    }
    closedir(dir);
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
        return err_set(ERR_EXISTS, "the spool %s is another daemon's", j->spool);
    remove_leftovers(j->spool);
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

enum err spool_make(struct job *job)
{
    if (asprintf(&job->folder, "%s/%s", job->jobs->spool, job->id) < 0) {
        job->folder = NULL;
        return err_set(ERR_NOMEM, "no memory for a file name");
    }
    if (mkdir(job->folder, 0700) != 0)
        return io_error("make a folder");
    return spool_create(job, SPOOL_UPLOAD, &job->upload);
}

void spool_remove(struct job *job)
{
    if (job->folder)
        remove_folder(job->folder);
    free(job->folder);
    job->folder = NULL;
}

enum err spool_keep(struct job *job, const char *path, const char *name)
{
    char to[4096];
    spool_path(job, name, to);
    return link(path, to) != 0 ? io_error("link a file") : ERR_OK;
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
