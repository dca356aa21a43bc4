#!/bin/sh
# base_image.sh BASE.tar: localhost/tv3sd-base of it, unless it is there. BUILDAH is the command.
set -eu
$BUILDAH images --quiet localhost/tv3sd-base > /dev/null 2>&1 && exit 0
at=$($BUILDAH from scratch)
root=$($BUILDAH mount "$at")
tar -xf "$1" -C "$root"
rm -rf "$root"/usr/share/doc "$root"/usr/share/man "$root"/usr/share/locale "$root"/usr/share/info \
    "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/*.log
$BUILDAH unmount "$at" > /dev/null
$BUILDAH commit --quiet --rm "$at" localhost/tv3sd-base > /dev/null
