/* A stream is taken up: the lease first, then what the record holds, then it is ready.
 *
 * The engine takes a state as it takes one that a client imports, in its own time; meanwhile the
 * session is not ready and nobody sends it a frame, and the thread does other things.
 *
 * Where another replica has the lease it is asked again every PAUSE, for the time of a lease and a
 * second: so long takes a lease that nobody renews, and a replica that drains or is asked to leave
 * needs less. */
#include "server/handover_parts.h"

#include "server/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t pause = 50000000u, second = 1000000000u;

/* ---- the ends -----------------------------------------------------------------------------------
 */

static void refuse(struct handover *h, struct session *s, const struct take_up *want, enum err e)
{
    snprintf(s->refused_text, sizeof s->refused_text, "%s", err_text());
    s->refused = e;
    log_event(LOG_INFO, "stream_refused", "stream=%s key=%s error=%s", s->id,
              owner_label(s->params.owner), log_text(s->refused_text));
    session_drop(h->server->sessions, s);
    atomic_store(&s->phase, SESSION_LEAVING);
    if (want->done)
        want->done(want->owner, e, s->refused_text);
}

void take_refuse(struct operation *o, enum err e)
{
    refuse(o->handover, o->session, &o->want, e);
    operation_free(o);
}

/* With what the session has now. Takes the operation. */
static void be_ready(struct operation *o, bool leased)
{
    struct session *s = o->session;
    atomic_store(&s->lease.kept, atomic_load(&s->frames));
    lease_hold(o->handover, s, leased);
    atomic_store(&s->touched, clock_ns());
    atomic_store(&s->phase, SESSION_READY);
    if (o->want.done)
        o->want.done(o->want.owner, ERR_OK, "");
    operation_free(o);
}

static void give_back(struct operation *o)
{
    struct handover *h = o->handover;
    struct place place;
    if (!h->redis.context)
        return;
    lease_place(h, o->session, &place);
    redis_give_back(&h->redis, &place, o->session->lease.token);
    handover_tell(h);
}

/* It begins anew, leased, and err_text() says why. */
static void begin_anew(struct operation *o)
{
    struct session *s = o->session;
    log_event(LOG_WARNING, "stream_anew", "stream=%s key=%s error=%s", s->id,
              owner_label(s->params.owner), log_text(err_text()));
    metric_add(o->handover->metrics, METRIC_HANDOVER_ANEW, 1);
    be_ready(o, true);
}

/* As the record says, its state is in place. */
static void go_on(struct operation *o)
{
    struct session *s = o->session;
    const struct record *r = &o->record;
    bool no_state = s->params.stream.mode == MODE_CLIP && r->frames > 0;
    s->resumed = true;
    s->created = r->created;
    s->began_anew = no_state;
    s->lease.written = r->frames;
    atomic_store(&s->last_seq, r->seq);
    atomic_store(&s->frames, r->frames);
    atomic_store(&s->frame_width, r->width);
    atomic_store(&s->frame_height, r->height);
    atomic_store(&s->lease.stored, r->seq);
    session_renumber(s);
    log_event(LOG_INFO, "stream_taken_up", "stream=%s key=%s seq=%lld frames=%llu", s->id,
              owner_label(s->params.owner), (long long)r->seq, (unsigned long long)r->frames);
    metric_add(o->handover->metrics, METRIC_HANDOVER_IN, 1);
    be_ready(o, true);
}

/* ---- the record ---------------------------------------------------------------------------------
 */

/* What was asked for and what is there do not fit. */
static bool conflict(const struct operation *o)
{
    const struct session_params *asked = &o->session->params, *there = &o->record.params;
    return (o->want.model && asked->model != there->model) ||
           (o->want.mode && asked->stream.mode != there->stream.mode) ||
           (o->want.resize && !session_same_resize(&asked->stream, &there->stream));
}

/* The engine thread, or whoever ends the command. */
static void on_imported(struct command *c)
{
    struct operation *o = c->owner;
    o->error = c->error;
    snprintf(o->error_text, sizeof o->error_text, "%s", c->error_text);
    free(c->data);
    c->data = NULL;
    o->kind = OPERATION_TAKEN;
    handover_post(o);
}

static void import(struct operation *o, const struct stored *stored)
{
    void *copy = malloc(stored->state_len);
    if (!copy) {
        give_back(o);
        take_refuse(o, err_set(ERR_NOMEM, "no memory for a state"));
        return;
    }
    memcpy(copy, stored->state, stored->state_len);
    o->command = (struct command){.kind = COMMAND_IMPORT,
                                  .session = session_ref(o->session),
                                  .data = copy,
                                  .len = stored->state_len,
                                  .done = on_imported,
                                  .owner = o};
    sched_command(o->handover->server->sched, &o->command);
}

/* With err_text(): another time, or elsewhere. */
static void refuse_record(struct operation *o, enum err e)
{
    char text[sizeof o->error_text];
    snprintf(text, sizeof text, "%s", err_text());
    give_back(o);
    take_refuse(o, err_set(e, "%s", text));
}

static void on_imported_here(struct operation *o)
{
    enum err e = o->error ? err_set(o->error, "%s", o->error_text) : ERR_OK;
    if (!e) {
        go_on(o);
    } else if (e == ERR_FORMAT || e == ERR_UNSUPPORTED || e == ERR_ARG) {
        begin_anew(o);
    } else {
        refuse_record(o, e);
    }
}

static void use_record(struct operation *o, const struct stored *stored)
{
    struct session *s = o->session;
    struct record *r = &o->record;
    enum err e = record_read(o->handover->server, s, stored->meta, stored->meta_len, r);
    if (e == ERR_NOMEM || (e && o->want.stored)) { /* who did not open it cannot say what it is */
        refuse_record(o, e);
        return;
    }
    if (e) {
        begin_anew(o);
        return;
    }
    if (conflict(o)) {
        give_back(o);
        take_refuse(o, err_set(ERR_EXISTS,
                               "stream '%s' is there with another model, mode or resize", s->id));
        return;
    }
    s->params.model = r->params.model; /* the owner stays, whom others compare at any time */
    s->params.stream = r->params.stream;
    if (!o->want.format)
        s->params.format = r->params.format;
    if (!r->same_weights && r->params.stream.mode != MODE_FRAME && r->frames > 0) {
        err_set(ERR_FORMAT, "the state is of other weights");
        begin_anew(o);
    } else if (stored->state_len > 0) {
        import(o, stored);
    } else {
        go_on(o);
    }
}

/* ---- the lease ----------------------------------------------------------------------------------
 */

static void wait_for_lease(struct operation *o)
{
    struct handover *h = o->handover;
    uint64_t now = clock_ns();
    if (now >= o->until) {
        metric_add(h->metrics, METRIC_HANDOVER_CONFLICTS, 1);
        take_refuse(o, err_set(ERR_ELSEWHERE, "another replica has stream '%s'", o->session->id));
        return;
    }
    o->again = now + pause;
    handover_wait(h, o);
}

/* The stream begins, and gets a lease when Redis is back. */
static void go_without(struct operation *o)
{
    handover_tell(o->handover);
    if (o->want.stored)
        take_refuse(o, err_set(ERR_NOT_FOUND, "there is no stream '%.128s'", o->session->id));
    else
        be_ready(o, false);
}

/* The same for this stream alone. */
static void go_with_broken_keys(struct operation *o)
{
    if (!o->want.stored)
        lease_broken(o->handover, o->session, true);
    go_without(o);
}

static enum lease ask(const struct operation *o, const struct place *p, struct stored *out)
{
    return redis_take(&o->handover->redis, p, o->session->lease.token, o->want.takeover,
                      o->want.stored, out);
}

static void take(struct operation *o)
{
    struct handover *h = o->handover;
    struct session *s = o->session;
    struct stored stored = {0};
    struct place place;
    enum lease lease = LEASE_AWAY;
    if (!o->until) {
        o->until = clock_ns() + (uint64_t)(h->config->stream_lease * 1e9) + second;
        snprintf(s->lease.token, sizeof s->lease.token, "%s-%llu", h->process, ++h->serial);
    }
    lease_place(h, s, &place);
    if (h->redis.context)
        lease = ask(o, &place, &stored);
    if (lease == LEASE_AWAY && redis_is_back(&h->redis))
        lease = ask(o, &place, &stored);
    switch (lease) {
    case LEASE_AWAY:
        go_without(o);
        break;
    case LEASE_LOST:
        wait_for_lease(o);
        break;
    case LEASE_BROKEN:
        go_with_broken_keys(o);
        break;
    case LEASE_NONE:
        take_refuse(o, err_set(ERR_NOT_FOUND, "there is no stream '%.128s'", s->id));
        break;
    case LEASE_OURS:
        use_record(o, &stored);
        break;
    default:
        be_ready(o, true);
        break;
    }
    stored_free(&stored);
}

void take_run(struct operation *o)
{
    if (o->kind == OPERATION_TAKEN) {
        on_imported_here(o);
        return;
    }
    enum err e = server_takes_work(o->handover->server);
    if (e)
        take_refuse(o, e);
    else
        take(o);
}

void handover_take_up(struct handover *h, struct session *s, const struct take_up *want)
{
    struct operation *o = operation_new(h, OPERATION_TAKE, s);
    if (o) {
        o->want = *want;
        handover_post(o);
        return;
    }
    refuse(h, s, want, err_set(ERR_NOMEM, "no memory to open a stream"));
}
