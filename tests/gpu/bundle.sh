#!/bin/sh
# bundle.sh BUILD OUT.tar.xz: what a GPU machine without packages of its own needs to run the programs
# of BUILD (made with CUDA=1): the programs, every shared library they load and the loader for them,
# but no CUDA driver and no cuBLAS. tests/gpu/run.py unpacks and runs it; README.md says how.
set -eu
build=$1 out=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/bin" "$work/lib"

for program in tv3s tv3sd op_profile; do
    strip -o "$work/bin/$program" "$build/$program"
done

# libc too: the other machine's may be older than what we were linked with, and loader and libc
# belong together.
ldd "$work"/bin/* | awk '$2 == "=>" && $3 ~ /^\// { print $1, $3 }
    $1 ~ /^\/.*ld-linux/ { print "ld.so", $1 }' | sort -u |
    grep -vE '^lib(cuda|cublas|cublasLt|cudnn[a-z_]*|nvidia-[a-z-]*|nvcuvid)\.so' |
    while read -r name path; do cp -L "$path" "$work/lib/$name"; done

# Half of the rest are the tables of a speech codec and of Unicode, which no video of a test needs:
# in their places libraries with the same symbols and nothing in them.
for library in "$work"/lib/libcodec2.so.* "$work"/lib/libicudata.so.*; do
    [ -e "$library" ] || continue
    nm -D --defined-only "$library" | sed 's/@.*//' | awk '
        $NF ~ /^[A-Za-z_][A-Za-z0-9_]*$/ && !seen[$NF]++ {
            if ($(NF - 1) ~ /[TtWwi]/) print "void " $NF "(void) { __builtin_trap(); }"
            else print "char " $NF "[64];" }' > "$work/stub.c"
    gcc -shared -fPIC -w -fno-builtin -Wl,-soname,"$(basename "$library")" -o "$library" "$work/stub.c"
done
rm -f "$work/stub.c"
chmod -R u+w "$work/lib"
strip --strip-unneeded "$work"/lib/*.so* 2>/dev/null || true

tar -C "$work" --sort=name --owner=0 --group=0 --mtime=@0 -c bin lib | xz -9e > "$out.part"
mv "$out.part" "$out"
echo "$out: $(($(wc -c < "$out") >> 20)) MiB, of $(du -sm "$work" | cut -f 1) MiB unpacked"
