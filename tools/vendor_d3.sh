#!/usr/bin/env bash
# Fetches the layout library of the page (bavt_fast/view) from npm, at the version that is pinned here. For another
# version: change both lines, run this, and run `make test-view`.
set -euo pipefail
version=3.1.3
sha256=971f374ce9fdbec711eb2358003e2bb755bff22ec6852dc5ebd59f987270db64

target=$(cd "$(dirname "$0")/../bavt_fast/view/assets/vendor" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm pack --silent "d3-hierarchy@$version" >/dev/null
tar xzf "d3-hierarchy-$version.tgz"
if ! echo "$sha256  package/dist/d3-hierarchy.min.js" | sha256sum --check --quiet; then
    echo "vendor_d3: d3-hierarchy $version is not the file that is pinned" >&2
    exit 1
fi
install -m 644 package/dist/d3-hierarchy.min.js "$target/d3-hierarchy.min.js"
install -m 644 package/LICENSE "$target/d3-hierarchy.LICENSE"
sed -i "s/d3-hierarchy [0-9][0-9.]*[0-9]/d3-hierarchy $version/" "$target/README.md"
