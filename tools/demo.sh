#!/bin/sh
# `make demo`: the daemon with the bundled model, the bundled clip sent through it, and where to
# look. Runs from the repository; arguments: the build folder, the port to try first.
#
# At a terminal the daemon stays until Ctrl-C. Without one, or with DEMO_EXIT=1, it ends when all
# is shown. A port that somebody has is passed over: WebSocket is always the port after HTTP.
set -eu
build=$1 port=$2
clip=models/street.mp4
out=$build/demo
log=$out/tv3sd.log
daemon=

say() { printf '%s\n' "$*"; }
die() {
    say "demo: $*" >&2
    exit 1
}
stop() {
    [ -z "$daemon" ] || kill "$daemon" 2>/dev/null || :
    [ -z "$daemon" ] || wait "$daemon" || :
    daemon=
}
trap stop EXIT
trap 'say; exit 130' INT
trap 'exit 143' TERM HUP

# ---- the daemon -----------------------------------------------------------------------------------

# Settings of the reader's own shell must not reach it.
for name in $(env | sed -n 's/^\(TV3SD_[A-Za-z0-9_]*\)=.*/\1/p'); do unset "$name"; done

# Sets `daemon`, or fails: the log says why.
start() {
    : > "$log" # by us, before we look: it may say "ready" of the last time
    "$build/tv3sd" --http-port "$1" --ws-port $(($1 + 1)) --spool "$out/spool" \
        --drain-seconds 2 2> "$log" < /dev/null 9>&- &
    daemon=$!
    until grep -q 'event=ready' "$log"; do
        if ! kill -0 "$daemon" 2> /dev/null; then
            wait "$daemon" || :
            daemon=
            return 1
        fi
        sleep 0.1
    done
}

# The lock is ours as long as this runs. Another demo would empty the log of the first, and have no spool.
mkdir -p "$out"
exec 9> "$out/lock"
flock -n 9 || die "one runs here already: end it first, with Ctrl-C where it was started"
first=$port
until start "$port"; do
    grep -q 'cannot listen' "$log" || { cat "$log" >&2; die "the daemon does not start"; }
    port=$((port + 10))
    [ "$port" -lt $((first + 100)) ] || die "the ports $first to $port are all taken:" \
        "choose another with 'make demo DEMO_PORT=...'"
done
[ "$port" = "$first" ] || say "Port $first or $((first + 1)) is taken by another program: using $port."
url=http://127.0.0.1:$port
say "tv3sd runs at $url (log: $log)"

# ---- the clip -------------------------------------------------------------------------------------

# A member of a job's JSON.
member() { sed -n "s/.*\"$1\":\"\{0,1\}\([^,\"}]*\).*/\1/p"; }

fetch() { curl -sS --noproxy '*' --fail-with-body "$@"; }

# Reads the events of a job and shows how far it is; at a terminal on one line.
show() {
    while read -r word json; do
        [ "$word" = data: ] || continue
        done=$(say "$json" | member done)
        line="  labelled $done of $(say "$json" | member total) frames"
        [ ! -t 1 ] || printf '\r%s  ' "$line"
    done
    [ ! -t 1 ] || printf '\r'
    say "$line"
}

# Uploads the clip, waits for the masks in format $1, and has them in the file $2.
segment() {
    job=$(fetch -F "file=@$clip" "$url/v1/videos?format=$1") || die "$job"
    id=$(say "$job" | member id)
    say "$clip as $1: job $id"
    fetch -N "$url/v1/videos/$id/events" | show
    job=$(fetch "$url/v1/videos/$id") || die "$job"
    [ "$(say "$job" | member state)" = succeeded ] || die "$job"
    fetch -o "$2" "$url/v1/videos/$id/masks"
}

segment png "$out/masks.zip"
segment overlay "$out/overlay.mp4"
say
say "  masks      $out/masks.zip (a palette PNG for each frame)"
say "  overlay    $out/overlay.mp4 (the clip with the masks drawn over it: play it with anything)"
say "  web page   $url/ (your own video, or your camera)"
say

if [ "${DEMO_EXIT:-0}" = 1 ] || [ ! -t 0 ]; then
    say "Not at a terminal: the daemon ends here. 'build/tv3sd' starts it again."
    exit
fi
trap 'say; say "The daemon ends."; exit 0' INT
say "The daemon runs until you press Ctrl-C."
wait "$daemon" || :
daemon=
