/* LD_PRELOAD: a power cut at a chosen moment, and what the disk would hold after it.
 *
 * POWER_DIR gets what was made durable: for a file that is fsynced its bytes, as "file-INODE"; for
 * a folder its names, as "folder-INODE". tests/power.py builds from that the folder as the next
 * start would find it: nothing that was only written, no name whose folder was not fsynced. The
 * process kills itself right after it has sent an answer "202", or after the POWER_AFTER-th fsync
 * that follows it. POWER_FULL names a file: while it is there, the disk is full; then no power cut
 * comes, but that file. */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_int left = -1; /* fsyncs until the cut; -1: the answer was not sent yet */

static void *real(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

static void cut(void)
{
    if (getenv("POWER_FULL")) {
        close(creat(getenv("POWER_FULL"), 0600));
        return;
    }
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

/* ---- what is durable ----------------------------------------------------------------------------
 */

static void copy_file(int fd, FILE *to)
{
    char block[65536];
    ssize_t n;
    for (off_t at = 0; (n = pread(fd, block, sizeof block, at)) > 0; at += n)
        fwrite(block, 1, (size_t)n, to);
}

static void copy_names(int fd, FILE *to)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            fprintf(to, "%s %lu %s\n", e->d_type == DT_DIR ? "folder" : "file",
                    (unsigned long)e->d_ino, e->d_name);
    if (dir)
        closedir(dir);
}

static void keep(int fd)
{
    char path[4096], part[4160];
    struct stat st;
    if (!getenv("POWER_DIR") || fstat(fd, &st) != 0)
        return;
    snprintf(path, sizeof path, "%s/%s-%lu", getenv("POWER_DIR"),
             S_ISDIR(st.st_mode) ? "folder" : "file", (unsigned long)st.st_ino);
    snprintf(part, sizeof part, "%s.part", path);
    FILE *to = fopen(part, "w");
    if (!to)
        abort();
    if (S_ISDIR(st.st_mode))
        copy_names(fd, to);
    else
        copy_file(fd, to);
    fclose(to);
    rename(part, path);
}

static int sync_with(const char *name, int fd)
{
    int (*sync)(int) = (int (*)(int))real(name);
    pthread_mutex_lock(&lock);
    int r = sync(fd);
    if (r == 0)
        keep(fd);
    if (atomic_load(&left) > 0 && atomic_fetch_sub(&left, 1) == 1)
        cut();
    pthread_mutex_unlock(&lock);
    return r;
}

int fsync(int fd)
{
    return sync_with("fsync", fd);
}

int fdatasync(int fd)
{
    return sync_with("fdatasync", fd);
}

/* ---- the answer ---------------------------------------------------------------------------------
 */

static void sent(const void *data, size_t len, ssize_t result)
{
    static const char accepted[] = "HTTP/1.1 202";
    if (result <= 0 || len < sizeof accepted - 1 || !getenv("POWER_AFTER") ||
        memcmp(data, accepted, sizeof accepted - 1) != 0)
        return;
    int after = atoi(getenv("POWER_AFTER"));
    if (after == 0)
        cut();
    atomic_store(&left, after);
}

ssize_t send(int fd, const void *data, size_t len, int flags)
{
    ssize_t (*next)(int, const void *, size_t, int) =
        (ssize_t(*)(int, const void *, size_t, int))real("send");
    ssize_t n = next(fd, data, len, flags);
    sent(data, len, n);
    return n;
}

ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
    ssize_t (*next)(int, const struct msghdr *, int) =
        (ssize_t(*)(int, const struct msghdr *, int))real("sendmsg");
    ssize_t n = next(fd, m, flags);
    if (m->msg_iovlen > 0)
        sent(m->msg_iov[0].iov_base, m->msg_iov[0].iov_len, n);
    return n;
}

ssize_t writev(int fd, const struct iovec *v, int count)
{
    ssize_t (*next)(int, const struct iovec *, int) =
        (ssize_t(*)(int, const struct iovec *, int))real("writev");
    ssize_t n = next(fd, v, count);
    if (count > 0)
        sent(v[0].iov_base, v[0].iov_len, n);
    return n;
}

/* ---- a full disk --------------------------------------------------------------------------------
 */

static int full(int fd)
{
    struct stat st;
    const char *flag = getenv("POWER_FULL");
    return flag && access(flag, F_OK) == 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t offset)
{
    ssize_t (*next)(int, const void *, size_t, off_t) =
        (ssize_t(*)(int, const void *, size_t, off_t))real("pwrite");
    if (full(fd)) {
        errno = ENOSPC;
        return -1;
    }
    return next(fd, data, len, offset);
}

ssize_t pwrite64(int fd, const void *data, size_t len, off_t offset)
{
    return pwrite(fd, data, len, offset);
}

int fallocate(int fd, int mode, off_t offset, off_t len)
{
    int (*next)(int, int, off_t, off_t) = (int (*)(int, int, off_t, off_t))real("fallocate");
    if (full(fd)) {
        errno = ENOSPC;
        return -1;
    }
    return next(fd, mode, offset, len);
}

int fallocate64(int fd, int mode, off_t offset, off_t len)
{
    return fallocate(fd, mode, offset, len);
}
