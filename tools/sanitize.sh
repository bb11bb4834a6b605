#!/bin/sh
# The pool's threads under ThreadSanitizer, under AddressSanitizer and UndefinedBehaviorSanitizer, and with a build that gives
# the processor away at random where locks are taken and dropped: tests/native/stress.c over every profile.
#
#     tools/sanitize.sh [SECONDS [SEEDS]]     of each profile in each build (default 1, 1). Needs CYTHON, PYTHON, a C compiler.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-1}
seeds=${2:-1}
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

"$python" tools/profiles.py > "$work/profiles.h"
"${CYTHON:-cython}" -3 --line-directives --module-name pcpbuddy._core.native -I src src/pcpbuddy/_core/native.pyx -o "$work/native.c"
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
profiles=$("$python" -c 'import sys; sys.path.insert(0, "src"); from pcpbuddy.config import PROFILES; print(*PROFILES)')

# build NAME FLAGS: what is not reached from the test needs Python, and is left out by the linker.
build() {
    name=$1
    shift
    "${CC:-cc}" -O1 -g -std=gnu11 -fPIC -ffunction-sections -fdata-sections -fno-strict-aliasing -w -DCYTHON_INLINE=inline "$@" \
        -I"$headers" -I"$work" -Isrc/pcpbuddy/include "$work/native.c" tests/native/stress.c -o "$work/$name" \
        -Wl,--gc-sections -lm -lpthread
}

run() {
    name=$1
    threads=$2
    echo "== $name"
    for profile in $profiles; do
        seed=1
        while [ "$seed" -le "$seeds" ]; do
            timeout $((60 + 20 * seconds)) "$work/$name" "$profile" "$threads" 2 "$seconds" "$seed"
            seed=$((seed + 1))
        done
    done
}

build threads -fsanitize=thread & a=$!
build memory -fsanitize=address,undefined -fno-sanitize-recover=undefined --param asan-globals=0 -DPCPBUDDY_CHAOS & b=$!
wait $a
wait $b
build yields -DPCPBUDDY_CHAOS
TSAN_OPTIONS="halt_on_error=1 exitcode=66" run threads 6
run memory 6
run yields 20
