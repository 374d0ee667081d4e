#!/usr/bin/env bash
# Fuzzes what reads snapshots for FUZZ_SECONDS (60 unless told), a third of it each on trees, forests and questions, with
# clang's libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer. Inputs that led somewhere new stay in build/fuzz/corpus
# for the next run; one that fails is written to build/fuzz, and belongs into tests/fuzz/corpus once it is understood.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=build/fuzz
seconds=${FUZZ_SECONDS:-60}
clang=${CLANG:-clang++}

if ! command -v "$clang" >/dev/null; then
    echo "fuzz: $clang is not installed. On Debian: apt-get install clang libclang-rt-14-dev" >&2
    exit 1
fi

mkdir -p "$build"/corpus/{tree,forest,question}
shared=()  # objects of the core, which every target links
for source in csrc/{tree,engine}/*.cpp tests/fuzz/*.cpp; do
    name=$(basename "$source" .cpp)
    "$clang" -std=c++17 -O1 -g -fno-omit-frame-pointer -ffp-contract=off -Icsrc -c "$source" -o "$build/$name.o" \
        -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all
    [[ $name == fuzz_* || $name == seeds ]] || shared+=("$build/$name.o")
done
"$clang" -fsanitize=address,undefined "${shared[@]}" "$build/seeds.o" -o "$build/seeds" -pthread
for target in fuzz_tree fuzz_forest fuzz_question; do
    "$clang" -fsanitize=address,undefined,fuzzer "${shared[@]}" "$build/$target.o" -o "$build/$target" -pthread
done
"$build/seeds" "$build/corpus"

for kind in tree forest question; do
    log=$build/$kind.log
    printf '\nfuzz_%s\n' "$kind"
    known=()
    [[ -d tests/fuzz/corpus/$kind ]] && known=("tests/fuzz/corpus/$kind")
    # A snapshot of 4 KB has no business with a quarter of a gigabyte. The timeout, of the wall clock, is long: machines stall.
    status=0
    "$build/fuzz_$kind" -max_total_time=$(((seconds + 2) / 3)) -max_len=4096 -timeout=300 -rss_limit_mb=1024 \
        -malloc_limit_mb=256 -artifact_prefix="$build/" "$build/corpus/$kind" "${known[@]}" >"$log" 2>&1 || status=$?
    tail -n 3 "$log"
    if ((status != 0)); then
        tail -n 60 "$log"
        exit "$status"
    fi
    read -r used all < <(sed -nE 's/^used ([0-9]+) of ([0-9]+) inputs$/\1 \2/p' "$log")
    if ((10 * used < all || used == 0)); then
        echo "fuzz_$kind: only $used of $all inputs were loaded; the forger no longer knows the format" >&2
        exit 1
    fi
done
