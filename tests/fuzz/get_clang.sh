#!/usr/bin/env bash
# Sees to it that clang++ can build a fuzzer; as root on Debian it installs what is missing. Says what is wrong where
# that does not work.
set -uo pipefail

builds_a_fuzzer() {
    local folder status
    command -v clang++ >/dev/null || return 1
    folder=$(mktemp -d)
    echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' >"$folder/probe.cpp"
    clang++ -fsanitize=address,undefined,fuzzer "$folder/probe.cpp" -o "$folder/probe" 2>"$folder/errors"
    status=$?
    ((status == 0)) || tail -n 5 "$folder/errors" >&2
    rm -rf "$folder"
    return "$status"
}

builds_a_fuzzer && exit 0
if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
    echo 'fuzz: clang++ with libFuzzer is missing, and installing it needs root and apt-get' >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq || echo 'fuzz: apt-get update failed; trying with the lists that are there' >&2
# The sanitizers' library is a package of its own, named after the version of clang.
if ! apt-get install -y -qq --no-install-recommends clang libstdc++-12-dev libclang-rt-14-dev; then
    echo 'fuzz: apt-get could not install clang and libclang-rt-14-dev' >&2
    exit 1
fi
builds_a_fuzzer
