#!/bin/sh
# Builds the emulated CUDA driver: build.sh OUTDIR [KERNELS]
#
# OUTDIR/libcuda.so.1 and OUTDIR/libcuda.so, with the kernels of the file
# KERNELS in it (our own, where it is not named), made again only if a source
# changed. Programs find it with LD_LIBRARY_PATH=OUTDIR, set before they start;
# or they load OUTDIR/libcuda.so.1 themselves before they ask for libcuda.so.
#
# For tests only: the library runs kernels on the CPU, one thread at a time. It
# shows nothing of their speed, of races, or of the driver's own compiler.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
[ $# -ge 1 ] || { echo "usage: $0 OUTDIR [KERNELS]" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
kernels=${2:-$here/../../host/nn/src/cuda/kernels/kernels.cu}
kernels=$(cd "$(dirname "$kernels")" && pwd)/$(basename "$kernels")

# Tests that run side by side would all build it.
if command -v flock >/dev/null && [ -z "${OSTRAKON_BUILD_LOCKED:-}" ]; then
  OSTRAKON_BUILD_LOCKED=1 exec flock "$out/lock" "$here/$(basename "$0")" "$out" "$kernels"
fi

library=$out/libcuda.so.1
made_from=$out/kernels-path
if [ -e "$library" ] && [ "$(cat "$made_from" 2>/dev/null)" = "$kernels" ] &&
  [ -z "$(find "$here" "$(dirname "$kernels")" -type f -newer "$library")" ]; then
  exit 0
fi

compile() {
  # -fno-strict-aliasing: kernels look at bytes as words, as CUDA code does.
  # -fstack-clash-protection: no frame, however large, reaches past a stack's guard page.
  # shellcheck disable=SC2086  # CXXFLAGS is a list
  "${CXX:-c++}" -std=c++17 -O2 -ffp-contract=off -fno-strict-aliasing -fPIC \
    -fstack-clash-protection -fvisibility=hidden -fno-gnu-unique -fno-math-errno -Wall -Wextra -Wno-unknown-pragmas \
    -DOSTRAKON_EMULATED ${CXXFLAGS:-} "$@"
}

work=$(mktemp -d "$out/build.XXXXXX")
trap 'rm -rf "$work"' EXIT
compile -c -x c++ -include "$here/emulator.h" "$kernels" -o "$work/kernels.o"
# The name by which cudarc asks first: a library that is already loaded is
# found by its own name, ahead of a driver that the machine may have.
compile -shared -pthread -Wl,-soname,libcuda.so -Wl,-z,defs -o "$work/libcuda.so.1" \
  "$here"/*.cc "$work/kernels.o"
mv "$work/libcuda.so.1" "$library"
ln -sf libcuda.so.1 "$out/libcuda.so"
echo "$kernels" >"$made_from"
