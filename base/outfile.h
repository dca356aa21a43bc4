/* Output that is whole or absent.
 *
 * A file is written under a temporary name beside its destination and renamed when it is complete;
 * a directory likewise, file by file. Whoever opened one ends it with exactly one of commit and
 * abort, and both free it. A destination that is no regular file (a device, a pipe) is written in
 * place: there is nothing to keep whole. All calls on one object come from one thread at a time. */
#ifndef TV3S_BASE_OUTFILE_H
#define TV3S_BASE_OUTFILE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct outfile;

/* ERR_IO with the path and the system's reason (a missing directory, no permission, ...). */
enum err outfile_open(const char *path, struct outfile **out);

/* Appends. ERR_FULL when the disk is full; the file is then only good for outfile_abort. */
enum err outfile_write(struct outfile *f, const void *data, size_t len);

/* Overwrites or appends at a byte position, for formats that go back to fill in sizes. */
enum err outfile_write_at(struct outfile *f, uint64_t offset, const void *data, size_t len);

/* Bytes written so far, which is the end of the file. */
uint64_t outfile_size(const struct outfile *f);

/* Whether it can be rewritten and read back: true for regular files. */
bool outfile_seekable(const struct outfile *f);

/* The name of the file while it is being written. Valid until commit or abort. */
const char *outfile_temporary(const struct outfile *f);

/* Flushes to the disk and gives the file its name. After an error the file is gone. */
enum err outfile_commit(struct outfile *f);
void outfile_abort(struct outfile *f); /* NULL is allowed */

struct outdir;

/* `path` may exist (files are moved into it on commit) or not (it appears on commit); its parent
 * exists. */
enum err outdir_open(const char *path, struct outdir **out);

/* Writes one whole file; `name` has no slash and was not written before. */
enum err outdir_write(struct outdir *d, const char *name, const void *data, size_t len);

enum err outdir_commit(struct outdir *d);
void outdir_abort(struct outdir *d); /* NULL is allowed */

#endif
