#!/bin/sh
# The image tv3sd:cpu: what it says of itself, its size, and a run as the image says, without root,
# on a read-only root file system, in a network of its own. BUILDAH is the command.
set -eu
if [ "${1:-}" != inside ]; then
    at=$($BUILDAH from --pull-never tv3sd:cpu)
    trap '$BUILDAH rm "$at" > /dev/null' EXIT
    root=$($BUILDAH mount "$at")
    $BUILDAH inspect --type image tv3sd:cpu > "$root.json"
    unshare --mount --net --pid --fork sh "$0" inside "$root" "$root.json"
    rm -f "$root.json"
    exit
fi
root=$2
ok() { echo "ok $*"; }
is() { [ "$2" = "$3" ] || { echo "FAILED $1: '$2' and not '$3'"; exit 1; }; ok "$1"; }
of() { python3 -c 'import json, sys; c = json.load(open(sys.argv[1]))["Docker"]["config"]; print(eval(sys.argv[2]))' "$config" "$1"; }
config=$3

mb=$(($(du -sx --apparent-size --block-size=1 "$root" | cut -f 1) / 1000000))
[ "$mb" -lt 400 ] || { echo "FAILED $mb MB"; exit 1; }
ok "$mb MB of at most 400"
is "its user is not root" "$(of 'c["User"]')" 65532:65532
is "it is stopped by" "$(of 'c["StopSignal"]')" SIGTERM
is "it has a volume" "$(of '" ".join(c["Volumes"])')" /var/lib/tv3sd
is "its title" "$(of 'c["Labels"]["org.opencontainers.image.title"]')" tv3sd
is "it has no compiler and no sources" "$(ls -d "$root/src" "$root/usr/bin/gcc" 2> /dev/null || true)" ""

ip link set lo up
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o uid=65532,gid=65532,mode=700 tmpfs "$root/var/lib/tv3sd"
mount -o remount,ro,bind "$root"
is "the root file system is read-only" "$(touch "$root/x" 2> /dev/null || echo yes)" yes
in_image() { # what the image says, as whom it says
    # shellcheck disable=SC2046
    chroot --userspec="$(of 'c["User"]')" "$root" env -i $(of '" ".join(c["Env"])') "$@"
}
# Unlike a function in the background, exec leaves the daemon's own process to be signalled.
# shellcheck disable=SC2046
(exec chroot --userspec="$(of 'c["User"]')" "$root" env -i $(of '" ".join(c["Env"])') \
    TV3SD_OPEN_ACCESS=true $(of '" ".join(c["Entrypoint"])')) 2> /dev/null &
daemon=$!
curl -sSf --retry 50 --retry-connrefused --retry-delay 1 localhost:8080/readyz > /dev/null
of 'c["Healthcheck"]["Test"][-1]' > /tmp/health.$$
is "the health check finds it healthy" "$(in_image /bin/bash -c "$(cat /tmp/health.$$)" && echo yes)" yes
is "and not where nobody is" \
    "$(in_image /bin/bash -c "$(sed 's/8080/8082/' /tmp/health.$$)" 2> /dev/null || echo yes)" yes
rm -f /tmp/health.$$
clip=/usr/share/tv3sd/models/street.mp4
job=$(curl -sSf -o /dev/null -w '%header{location}' -F "file=@$root$clip" 'localhost:8080/v1/videos?format=raw')
curl -sSfN "localhost:8080$job/events" > /dev/null
sum=$(curl -sSf "localhost:8080$job/masks" | sha256sum)
is "an upload has the masks of the image's own tool" \
    "$(in_image /usr/bin/tv3s segment /usr/share/tv3sd/models/street.safetensors "$clip" \
        -o /var/lib/tv3sd/expected.raw --format raw 2> /dev/null; sha256sum < "$root/var/lib/tv3sd/expected.raw")" "$sum"
is "the WebSocket is there" "$(curl -s -o /dev/null -w '%{http_code}' localhost:8081/)" 426
kill "-$(of 'c["StopSignal"]' | sed s/SIG//)" $daemon
status=0; wait $daemon || status=$?
is "it stops as it is told" $status 0
echo "all passed"
