#!/bin/sh
# toolkit_image.sh FOLDER: localhost/tv3sd-toolkit, which has FOLDER as /usr/local/cuda, unless it is there. BUILDAH is
# the command.
set -eu
$BUILDAH images --quiet localhost/tv3sd-toolkit > /dev/null 2>&1 && exit 0
at=$($BUILDAH from scratch)
root=$($BUILDAH mount "$at")
mkdir -p "$root/usr/local"
cp -rL "$1" "$root/usr/local/cuda"
$BUILDAH unmount "$at" > /dev/null
$BUILDAH commit --quiet --rm "$at" localhost/tv3sd-toolkit > /dev/null
