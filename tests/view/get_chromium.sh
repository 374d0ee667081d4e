#!/usr/bin/env bash
# Sees to it that Chromium is there and starts; as root on Debian it installs it. Says what is wrong where that does not
# work.
set -uo pipefail

starts() {
    local name
    for name in chromium chromium-browser google-chrome; do
        command -v "$name" >/dev/null || continue
        timeout 60 "$name" --headless --no-sandbox --disable-gpu --dump-dom about:blank >/dev/null 2>&1 && return 0
    done
    return 1
}

starts && exit 0
if ((EUID != 0)) || ! command -v apt-get >/dev/null; then
    echo 'view: Chromium is missing or does not start, and installing it needs root and apt-get' >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq || echo 'view: apt-get update failed; trying with the lists that are there' >&2
if ! apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; then
    echo 'view: apt-get could not install chromium' >&2
    exit 1
fi
starts
