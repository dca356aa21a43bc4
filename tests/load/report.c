#include "tests/load/stream.h"

#include <stdlib.h>
#include <sys/resource.h>

static json_t *parts(struct load *l)
{
    json_t *list = json_array();
    size_t from = 0;
    for (int i = 0; i < l->parts; i++) {
        size_t to = l->part[i] > from ? l->part[i] : from;
        json_array_append_new(list, json_pack("{s:f, s:I, s:o}", "from_s", i * l->o.every,
                                              "answered", (json_int_t)(to - from), "latency_ms",
                                              samples_report(&l->latency, from, to)));
        from = to;
    }
    return list;
}

static double cpu_seconds(void)
{
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (double)(r.ru_utime.tv_sec + r.ru_stime.tv_sec) +
           1e-6 * (double)(r.ru_utime.tv_usec + r.ru_stime.tv_usec);
}

void load_report(struct load *l)
{
    static const char *const name[STAGES] = {"decode", "queue", "compute", "encode"};
    json_t *stages = json_object(), *in_parts = parts(l);
    int64_t sent = 0, answered = 0, dropped = 0, failed = 0, least = INT64_MAX, most = 0;
    int unanswered = 0, resets = 0;
    for (int i = 0; i < l->o.streams; i++) {
        const struct stream *s = &l->stream[i];
        sent += s->sent;
        answered += s->answered;
        dropped += s->dropped;
        failed += s->failed;
        unanswered += s->in_flight;
        resets += s->resets;
        least = s->answered < least ? s->answered : least;
        most = s->answered > most ? s->answered : most;
    }
    for (int i = 0; i < STAGES; i++)
        json_object_set_new(stages, name[i], samples_report(&l->stage[i], 0, l->stage[i].count));
    json_t *j = json_pack(
        "{s:i, s:I, s:I, s:I, s:I, s:i, s:i, s:I, s:O, s:[II], s:f, s:f, s:o, s:o, s:o}", "streams",
        l->o.streams, "sent", (json_int_t)sent, "answered", (json_int_t)answered, "dropped",
        (json_int_t)dropped, "failed", (json_int_t)failed, "unanswered", unanswered,
        "resets_unanswered", resets, "masks_right", (json_int_t)l->masks_right, "errors", l->errors,
        "per_stream", (json_int_t)least, (json_int_t)most, "frames_per_second",
        l->o.frames ? 0.0 : (double)answered / l->o.seconds, "cpu_seconds", cpu_seconds(),
        "stage_ms", stages, "parts", in_parts, "latency_ms",
        samples_report(&l->latency, 0, l->latency.count));
    char *text = json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(6));
    load_say(text ? text : "");
    free(text);
    json_decref(j);
}
