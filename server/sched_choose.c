/* Who is next.
 *
 * Fairness is a clock that counts batches. `served` of a session is the clock at its last frame,
 * then its place in that batch, and the least goes first: a stream that floods is served once a
 * batch and then is the youngest, so one that sends now and then finds nobody before it but those
 * that waited longer. Single images, each a session of its own, share a clock as if they were one
 * stream: a thousand of them fill what room there is and delay nobody else.
 *
 * Live frames come first, one of each stream. A stream with a backlog that was served after all the
 * others of the batch is left out of it: they would wait for its frame to be labelled too. So it
 * has what they leave, and where they leave nothing as much as they have. Uploads share the room
 * that is left, in runs of consecutive frames of one size; a run takes at most half of an upload's
 * frames in flight, so that the other half is decoded and encoded meanwhile. Where live frames fill
 * the batches there is no room: then, after `upload_patience` batches, one upload's run of at most
 * a quarter of the batch goes before them. By the defaults uploads so have 4 of every 64 frames at
 * least, and live streams lose no more than those.
 *
 * What a stream with a backlog may take of an engine that the others leave idle is limited too
 * (sched_share.c): while it is held it is not ready.
 *
 * An idle engine starts at once. After a batch of several sessions that most likely send again, a
 * smaller one waits for them, batch_delay at most. Models take turns. */
#include "server/sched_parts.h"

#include <stdlib.h>

enum { SECOND = 1000000000 };

/* ---- lists --------------------------------------------------------------------------------------
 */

static void append(struct session_list *l, struct session *session)
{
    session->sched_next = NULL;
    if (l->tail)
        l->tail->sched_next = session;
    else
        l->head = session;
    l->tail = session;
    l->count++;
}

static void pend(struct session *session, struct item *item)
{
    item->next = NULL;
    if (session->pending_tail)
        session->pending_tail->next = item;
    else
        session->pending_head = item;
    session->pending_tail = item;
    session->pending++;
}

void sched_count(struct lane *l, const struct item *item, int n)
{
    if (item->kind == ITEM_COMMAND)
        return;
    metric_add(l->metrics, METRIC_QUEUE_ENGINE, n);
    if (item->session->kind != SESSION_UPLOAD)
        atomic_fetch_add(&l->sched->waiting, n);
}

struct item *sched_take(struct lane *l, struct session *session)
{
    struct item *item = session->pending_head;
    session->pending_head = item->next;
    if (!session->pending_head)
        session->pending_tail = NULL;
    session->pending--;
    item->next = NULL;
    sched_count(l, item, -1);
    return item;
}

/* ---- filing -------------------------------------------------------------------------------------
 */

static void fail_dead(struct lane *l, struct session *session)
{
    struct item *item = sched_take(l, session);
    item_fail(item, err_set(ERR_NOT_FOUND, "stream '%s' was deleted", session->id));
    item_deliver(item, l->metrics);
}

void sched_settle(struct lane *l, struct session *session)
{
    session_ref(session);
    while (session->pending_head) {
        if (session->pending_head->kind == ITEM_COMMAND)
            sched_run_command(l, command_of(sched_take(l, session)));
        else if (atomic_load(&session->dead))
            fail_dead(l, session);
        else
            break;
    }
    if (session->pending_head && !session->queued) {
        append(&l->ready, session_ref(session));
        session->queued = true;
    }
    session_unref(session);
}

void sched_file(struct lane *l, struct item *item)
{
    struct session *session = item->session;
    if (session->kind == SESSION_SINGLE && session->served == 0) {
        l->single_clock = (l->single_clock > l->clock ? l->single_clock : l->clock) + 1;
        session->served = l->single_clock * BATCH_MAX;
    }
    pend(session, item);
    if (!session->queued)
        sched_settle(l, session);
}

uint64_t sched_due(const struct lane *l)
{
    uint64_t delay = (uint64_t)(l->config->batch_delay * SECOND), now = clock_ns();
    int batch_max = l->config->batch_max;
    int want = l->last_runs < batch_max ? l->last_runs : batch_max, ready = 0;
    uint64_t wait = SECOND;
    for (const struct session *x = l->ready.head; x; x = x->sched_next) {
        uint64_t held = sched_held(l, x, now);
        ready += held == 0;
        wait = held && held < wait ? held : wait;
    }
    if (ready == 0)
        return wait;
    if (ready >= want || now >= l->free_since + delay)
        return 0;
    uint64_t rest = l->free_since + delay - now;
    return rest < wait ? rest : wait;
}

/* ---- choosing -----------------------------------------------------------------------------------
 */

/* The next model in turn that has frames; NULL: none. */
static struct served_model *next_model(struct lane *l, uint64_t now)
{
    int count = models_count(l->models);
    for (int i = 1; i <= count; i++) {
        int turn = (l->turn + i) % count;
        struct served_model *m = models_at(l->models, turn);
        for (const struct session *session = l->ready.head; session; session = session->sched_next)
            if (session->params.model == m && !sched_held(l, session, now)) {
                l->turn = turn;
                return m;
            }
    }
    return NULL;
}

/* Sessions by `served`, the least first, those that came first before their equals. */
struct ranking {
    struct session *session[BATCH_MAX];
    int count;
};

static void rank(struct ranking *r, struct session *session, int most)
{
    int i = r->count;
    if (i == most && (i == 0 || r->session[i - 1]->served <= session->served))
        return;
    if (i == most)
        i--;
    else
        r->count++;
    for (; i > 0 && r->session[i - 1]->served > session->served; i--)
        r->session[i] = r->session[i - 1];
    r->session[i] = session;
}

/* Whether the batch, if it has any, has room for this frame's work too. */
static bool has_room(const struct lane *l, const struct item *item)
{
    const struct batch *b = &l->batch;
    return b->frames == 0 || b->gflop + item->gflop <= (double)l->config->max_gflop;
}

/* A run of at most `most` of the session's next frames, all of one size. */
static void add_run(struct lane *l, struct session *session, int most)
{
    struct batch *b = &l->batch;
    int first = b->frames;
    while (b->frames - first < most) {
        const struct item *next = session->pending_head;
        const struct item *head = b->frames > first ? b->item[first] : next;
        if (!next || next->kind == ITEM_COMMAND || next->width != head->width ||
            next->height != head->height || !has_room(l, next))
            break;
        b->gflop += next->gflop;
        b->item[b->frames++] = sched_take(l, session);
    }
    if (b->frames == first)
        return;
    session->served = l->clock * BATCH_MAX + (unsigned)b->runs;
    b->run[b->runs].session = session;
    b->run[b->runs].first = first;
    b->run[b->runs++].count = b->frames - first;
}

/* Sorts the ready sessions of the model; the dead and the empty leave the list. */
static void survey(struct lane *l, uint64_t now, struct ranking *live, struct ranking *uploads)
{
    int most = l->config->batch_max;
    struct session *session = l->ready.head;
    l->ready = (struct session_list){0};
    for (struct session *next; session; session = next) {
        next = session->sched_next;
        session->queued = false;
        sched_settle(l, session); /* back into the list, unless that was all */
        session_unref(session);   /* the old list's */
    }
    for (session = l->ready.head; session; session = session->sched_next)
        if (session->params.model == l->batch.model && !sched_held(l, session, now))
            rank(session->kind == SESSION_UPLOAD ? uploads : live, session, most);
}

/* A session that gave its last frame away leaves the list. */
static void drop_empty(struct lane *l)
{
    struct session *session = l->ready.head;
    l->ready = (struct session_list){0};
    for (struct session *next; session; session = next) {
        next = session->sched_next;
        session->queued = session->pending_head != NULL;
        if (session->queued)
            append(&l->ready, session);
        else
            session_unref(session);
    }
}

/* The batch in which a session that keeps up, its one frame pending, was last served; of all such
 * the latest. A session that is new was served in none, and lets all others go with it. False:
 * there is none that keeps up. */
static bool latest_service(const struct ranking *live, uint64_t *clock)
{
    bool any = false;
    *clock = 0;
    for (int i = 0; i < live->count; i++) {
        const struct session *session = live->session[i];
        uint64_t at = session->served ? session->served / BATCH_MAX : UINT64_MAX;
        if (session->pending > 1)
            continue;
        any = true;
        *clock = at > *clock ? at : *clock;
    }
    return any;
}

static void add_live(struct lane *l, const struct ranking *live)
{
    uint64_t clock;
    bool any = latest_service(live, &clock);
    for (int i = 0; i < live->count && l->batch.frames < l->config->batch_max; i++) {
        struct session *session = live->session[i];
        bool ahead = session->pending > 1 && any && session->served / BATCH_MAX > clock;
        if (!ahead)
            add_run(l, session, 1);
    }
}

/* Runs of the uploads from `first` on, in the room that is left. */
static void add_uploads(struct lane *l, const struct ranking *uploads, int first)
{
    int most = l->config->batch_max, run = (l->config->job_window + 1) / 2;
    for (int i = first; i < uploads->count && l->batch.frames < most; i++) {
        int room = most - l->batch.frames;
        add_run(l, uploads->session[i], room < run ? room : run);
    }
}

/* The run of an upload that has waited long enough. */
static void add_overdue(struct lane *l, struct session *upload)
{
    int run = (l->config->job_window + 1) / 2, quarter = (l->config->batch_max + 3) / 4;
    add_run(l, upload, run < quarter ? run : quarter);
}

bool sched_choose(struct lane *l)
{
    struct ranking live = {.count = 0}, uploads = {.count = 0};
    uint64_t now = clock_ns();
    l->batch = (struct batch){.model = next_model(l, now)};
    if (!l->batch.model)
        return false;
    struct model_state *state = &l->model[l->turn];
    survey(l, now, &live, &uploads);
    l->clock++;
    bool overdue =
        uploads.count > 0 && live.count > 0 && state->passed >= l->config->upload_patience;
    if (overdue)
        add_overdue(l, uploads.session[0]);
    add_live(l, &live);
    int before = l->batch.runs;
    add_uploads(l, &uploads, overdue);
    bool left_out = uploads.count > 0 && !overdue && l->batch.runs == before;
    state->passed = left_out ? state->passed + 1 : 0;
    drop_empty(l);
    return l->batch.runs > 0;
}
