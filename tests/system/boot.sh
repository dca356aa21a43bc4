#!/bin/sh
# boot.sh BASE.tar OLD.deb NEW.deb: boots a Debian made of BASE in a container with its own systemd
# and network, and runs inside.sh there.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(mktemp -d /var/tmp/tv3sd-system.XXXXXX)
trap 'rm -rf "$root"' EXIT
tar -xf "$1" -C "$root"
cp "$2" "$root/root/old.deb"
cp "$3" "$root/root/new.deb"
cp "$here/inside.sh" "$root/root/inside.sh"
echo '127.0.0.1 localhost' > "$root/etc/hosts"
# Everything but the package itself; resolv.conf came with BASE.
depends=$(dpkg-deb -f "$2" Depends | sed 's/([^)]*)//g; s/,/ /g')
# shellcheck disable=SC2086
chroot "$root" sh -c 'apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy \
    --no-install-recommends systemd systemd-sysv dbus curl openssl "$@"' sh $depends > "$root.log" 2>&1 ||
    { tail -n 20 "$root.log"; exit 1; }
rm -f "$root.log"
cat > "$root/etc/systemd/system/inside.service" <<'UNIT'
[Unit]
After=multi-user.target
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=oneshot
ExecStart=/bin/sh /root/inside.sh
StandardOutput=file:/root/inside.log
StandardError=inherit
TimeoutStartSec=400
[Install]
WantedBy=default.target
UNIT
mkdir -p "$root/etc/systemd/system/default.target.wants"
ln -s ../inside.service "$root/etc/systemd/system/default.target.wants/inside.service"
timeout 500 systemd-nspawn --quiet --directory="$root" --boot --register=no --keep-unit --private-network \
    --machine=tv3sd-system > "$root/root/boot.log" 2>&1 < /dev/null || true
grep -v '^\(Selecting\|Preparing\|Unpacking\|(Reading\)' "$root/root/inside.log" || tail "$root/root/boot.log"
[ "$(tail -n 1 "$root/root/inside.log")" = "all passed" ]
