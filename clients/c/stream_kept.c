/* Frames that were answered, and that the server has not stored yet.
 *
 * A server that crashes leaves the state of an earlier frame to another one (proto/PROTOCOL.md,
 * "Several servers"). The frames since are sent again, with the flag that wants no mask, so the
 * state is again what it was, and their answers are nobody's. They are kept until the server says
 * that they are stored, up to KEPT_BYTES; the oldest go first. */
#include "clients/c/stream_parts.h"

#include <stdlib.h>
#include <string.h>

enum { FLAGS_AT = 7, FLAG_SILENT = 2 }; /* in the header of a frame message */

static void drop_first(struct tv3s_stream *s, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        s->kept_bytes -= s->kept[i].message.len;
        buf_free(&s->kept[i].message);
    }
    s->kept_count -= count;
    if (s->kept_count > 0)
        memmove(s->kept, s->kept + count, s->kept_count * sizeof *s->kept);
}

static bool make_room(struct tv3s_stream *s)
{
    if (s->kept_count < s->kept_room)
        return true;
    size_t room = s->kept_room ? 2 * s->kept_room : 64;
    struct flying *more = realloc(s->kept, room * sizeof *more);
    if (!more)
        return false;
    s->kept = more;
    s->kept_room = room;
    return true;
}

void stream_keep(struct tv3s_stream *s, struct flying *f)
{
    bool whole = s->stores && !s->o.rewinds && f->message.len > 0 && !f->packet && make_room(s);
    if (!whole) {
        buf_free(&f->message);
        s->forgot = f->seq > s->forgot ? f->seq : s->forgot;
        return;
    }
    f->message.data[FLAGS_AT] |= FLAG_SILENT;
    f->again = true;
    s->kept[s->kept_count++] = *f;
    s->kept_bytes += f->message.len;
    f->message = (struct buf){0};
    while (s->kept_bytes > KEPT_BYTES) {
        s->forgot = s->kept[0].seq;
        drop_first(s, 1);
    }
}

void stream_kept_forget(struct tv3s_stream *s, int64_t stored)
{
    size_t count = 0;
    while (count < s->kept_count && s->kept[count].seq <= stored)
        count++;
    if (count > 0)
        drop_first(s, count);
}

bool stream_kept_fly(struct tv3s_stream *s, int64_t last)
{
    size_t stay = 0;
    bool all = s->forgot <= last;
    while (stay < s->kept_count && s->kept[stay].seq <= last)
        stay++;
    size_t more = s->kept_count - stay;
    for (size_t i = 0; i < more; i++) {
        if (!stream_flying_add(s)) {
            s->failed = client_fail(s->c, TV3S_MEMORY, "no memory");
            return all;
        }
    }
    if (more > 0) {
        memmove(s->flying + more, s->flying, (s->count - more) * sizeof *s->flying);
        memcpy(s->flying, s->kept + stay, more * sizeof *s->flying);
        s->kept_count = stay;
    }
    for (size_t i = 0; i < more; i++)
        s->kept_bytes -= s->flying[i].message.len;
    s->forgot = all ? s->forgot : last;
    return all;
}

void stream_kept_free(struct tv3s_stream *s)
{
    drop_first(s, s->kept_count);
    free(s->kept);
}
