/* A zip archive written as it comes: entries are stored, sizes are known up front, ZIP64 where it
 * is needed. Memory is the directory alone, about 64 bytes an entry. Bytes depend on the entries
 * alone (no dates). */
#ifndef TV3S_BASE_ZIPFILE_H
#define TV3S_BASE_ZIPFILE_H

#include "base/outfile.h"

struct zipfile;

/* Starts an archive at the end of `file`, which stays the caller's: commit it after
 * zipfile_finish, abort it otherwise. */
enum err zipfile_open(struct outfile *file, struct zipfile **out);

/* One entry; `name` is at most 255 bytes of UTF-8 and not checked for repetition. */
enum err zipfile_add(struct zipfile *z, const char *name, const void *data, size_t len);

/* Writes the directory. */
enum err zipfile_finish(struct zipfile *z);
void zipfile_close(struct zipfile *z); /* NULL is allowed */

#endif
