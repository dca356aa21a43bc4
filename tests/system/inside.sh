#!/bin/sh
# Runs as root in a booted Debian with systemd: the package's whole life. Every line that begins with
# "ok" is a statement that held; the last one is "all passed".
set -eu
cd /root
ok() { echo "ok $*"; }
is() { [ "$2" = "$3" ] || { echo "FAILED $1: '$2' and not '$3'"; exit 1; }; ok "$1"; }
status() { curl -s -o /dev/null -w '%{http_code}' "$@"; }
pid() { systemctl show -p MainPID --value tv3sd; }
logged() { # what the journal has by now, or within two minutes
    for _ in $(seq 240); do
        journalctl -u tv3sd -o cat | grep -m 1 -o "$1" && return
        sleep 0.5
    done
}
trap 'journalctl -u tv3sd --no-pager -o short-precise | tail -n 40' EXIT

dpkg -i old.deb
is "installed, it runs" "$(systemctl is-active tv3sd)" active
is "and is told to start at boot" "$(systemctl is-enabled tv3sd)" enabled
is "and is ready" "$(status localhost:8080/readyz)" 200
is "as a user of its own" "$([ "$(stat -c %u "/proc/$(pid)")" -ge 61184 ] && echo dynamic)" dynamic
is "with no capability" "$(sed -n 's/^CapBnd:\t//p' "/proc/$(pid)/status")" 0000000000000000
is "and a system call filter" "$(sed -n 's/^Seccomp:\t//p' "/proc/$(pid)/status")" 2
is "its spool is its own" "$(stat -c %a /var/lib/private/tv3sd)" 700

job=$(curl -sSf -o job.json -w '%header{location}' -F file=@/usr/share/tv3sd/models/street.mp4 \
    'localhost:8080/v1/videos?format=raw')
curl -sSfN -o events "localhost:8080$job/events"
curl -sSf -o masks "localhost:8080$job/masks"
tv3s segment /usr/share/tv3sd/models/street.safetensors /usr/share/tv3sd/models/street.mp4 \
    -o expected.raw --format raw
is "an upload in the sandbox has the tool's masks" "$(cmp masks expected.raw && echo same)" same

sed -i 's/"log_level": "info"/"log_level": "debug"/' /etc/tv3sd/tv3sd.json
systemctl reload tv3sd
is "reload takes the settings up" "$(logged event=reloaded)" event=reloaded

touch /var/lib/private/tv3sd/kept
before=$(pid)
unfinished=$(curl -sSf -o job.json -w '%header{location}' \
    -F file=@/usr/share/tv3sd/models/street.mp4 'localhost:8080/v1/videos?format=raw')
dpkg -i new.deb
is "upgraded, it runs" "$(systemctl is-active tv3sd)" active
is "the new one" "$([ "$(pid)" != "$before" ] && echo new)" new
is "and is ready" "$(status localhost:8080/readyz)" 200
is "the spool is as it was" "$(ls /var/lib/private/tv3sd/kept)" /var/lib/private/tv3sd/kept
for job in "$job" "$unfinished"; do
    curl -sSfN -o events "localhost:8080$job/events"
    curl -sSf -o masks "localhost:8080$job/masks"
    is "and upload $job" "$(cmp masks expected.raw && echo same)" same
done
is "the settings too" "$(grep -c '"log_level": "debug"' /etc/tv3sd/tv3sd.json)" 1

systemctl stop tv3sd
systemctl start tv3sd-http.socket tv3sd-ws.socket
is "sockets alone" "$(systemctl is-active tv3sd || true)" inactive
is "who knocks wakes it" "$(status localhost:8080/readyz)" 200
is "and has its WebSocket" "$(status localhost:8081/)" 426
# One that was accepted in the instant of the stop is answered too.
(for i in $(seq 300); do
    curl -s -o /dev/null --max-time 60 localhost:8080/livez || echo "status $?"; done > seen) &
systemctl restart tv3sd
systemctl restart tv3sd
wait $!
is "two restarts, and everybody was answered" "$(cat seen)" ""
kill -9 "$(pid)"
is "killed, it comes back" "$(status --max-time 60 localhost:8080/readyz)" 200

# An engine thread that hangs, all others well: a tracer stops that one alone.
sandbox=/etc/systemd/system/tv3sd.service.d
mkdir -p $sandbox
printf '[Service]\nWatchdogSec=4\n' > $sandbox/watchdog.conf
systemctl daemon-reload
systemctl restart tv3sd
before=$(pid)
engine=$(grep -lx engine "/proc/$before"/task/*/comm | cut -d / -f 5)
perl -e 'syscall(101, 16, $ARGV[0] + 0, 0, 0) == 0 or die "ptrace: $!\n";
    while (waitpid(-1, 0x40000000) > 0) { }' "$engine" &     # PTRACE_ATTACH; __WALL
is "a stopped engine is noticed" "$(logged 'Watchdog timeout')" "Watchdog timeout"
is "and replaced" "$(status --max-time 60 localhost:8080/readyz)" 200
is "by another process" "$([ "$(pid)" != "$before" ] && echo another)" another
wait $!

# Keys and certificates that only root reads, as credentials. The sockets are systemd's all the while.
key() { tv3s key "$1" --roles submit,stream,read --file /etc/tv3sd/credentials/keys.json; }
secret=$(key first)
certificate() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost \
        -addext subjectAltName=DNS:localhost -keyout /etc/tv3sd/credentials/tls.key \
        -out /etc/tv3sd/credentials/tls.pem 2> /dev/null
}
tls() { status --max-time 60 --cacert /etc/tv3sd/credentials/tls.pem "$@"; }
certificate
cat > $sandbox/credentials.conf <<'UNIT'
[Service]
Environment=TV3SD_KEYS_FILE=%d/tv3sd_keys.json
Environment=TV3SD_TLS_CERTIFICATE=%d/tv3sd_tls.pem TV3SD_TLS_KEY=%d/tv3sd_tls.key
UNIT
systemctl daemon-reload
systemctl restart tv3sd
is "TLS and keys: who has none" "$(tls https://localhost:8080/v1/streams)" 401
is "and who has one" "$(tls -H "Authorization: Bearer $secret" https://localhost:8080/v1/streams)" 200
is "only root may read them" "$(stat -c %a /etc/tv3sd/credentials)" 700
is "a stream through both ports, by the client that came with it" "$(TV3S_KEY=$secret tv3s-client \
    --url https://localhost:8080 --ca /etc/tv3sd/credentials/tls.pem --quiet --format raw -o - stream \
    /usr/share/tv3sd/models/street.mp4 | cmp - expected.raw && echo same)" same
second=$(key second)
certificate
systemctl restart tv3sd
is "a new key after a restart" "$(tls -H "Authorization: Bearer $second" https://localhost:8080/v1/streams)" 200
rm $sandbox/credentials.conf $sandbox/watchdog.conf
rmdir $sandbox

dpkg -r tv3sd
is "removed, it stops" "$(systemctl is-active tv3sd || true)" inactive
is "and leaves uploads" "$(ls /var/lib/private/tv3sd/kept)" /var/lib/private/tv3sd/kept
dpkg -P tv3sd
is "purged, nothing is left" "$(find / -xdev -name '*tv3sd*' -not -path '/root/*' -not -path '/var/log/*' \
    -not -path '/var/lib/systemd/*' -not -path '/proc/*' -not -path '/run/*' | head -n 3)" ""
trap - EXIT
echo "all passed"
