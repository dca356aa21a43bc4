#!/bin/sh
# newer_websockets.sh RELEASE FOLDER: the python3-websockets of another Debian release, unpacked into FOLDER. It comes from
# the mirror that this machine's apt asks; apt's own lists stay as they are.
set -eu
. /etc/os-release
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Component: main' \
    "Codename: $VERSION_CODENAME" | head -n 1)
[ -n "$mirror" ] || { echo "apt knows no Debian mirror: run apt-get update first" >&2; exit 1; }
rm -rf "$2" "$2.apt"
mkdir -p "$2.apt/lists/partial" "$2.apt/archives/partial"
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $1 main" > "$2.apt/sources.list"
apt="$(cd "$2.apt" && pwd)"
of_release() {
    apt-get -q -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$apt/lists" -o Dir::Cache="$apt" -o Acquire::Retries=3 -o APT::Sandbox::User=root "$@"
}
of_release update
(cd "$apt" && of_release download "python3-websockets/$1")
dpkg -x "$apt"/python3-websockets_*.deb "$2.part"
rm -rf "$2.apt"
mv "$2.part" "$2"
