#!/bin/sh
# toolkit_image.sh FOLDER: localhost/tv3sd-toolkit, which has of the CUDA toolkit in FOLDER what building takes, as
# /usr/local/cuda; unless it is there. BUILDAH is the command.
set -eu
$BUILDAH images --quiet localhost/tv3sd-toolkit > /dev/null 2>&1 && exit 0
at=$($BUILDAH from scratch)
to=$($BUILDAH mount "$at")/usr/local/cuda
mkdir -p "$to/lib64"
cp -a "$1/bin" "$1/nvvm" "$1/include" "$to"
cp -a "$1"/lib64/libcudart* "$1"/lib64/libcudadevrt* "$1"/lib64/libcublasLt.so* "$to/lib64"
ln -s lib64 "$to/lib"
$BUILDAH unmount "$at" > /dev/null
$BUILDAH commit --quiet --rm "$at" localhost/tv3sd-toolkit > /dev/null
