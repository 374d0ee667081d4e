#!/usr/bin/env bash
# Makes an sdist and a wheel from it, looks into both, installs that wheel into a fresh environment with numpy alone, and
# uses it there. PYTHON: an interpreter that has `build` and what the tests need (default: python3).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cd "$root"
"$python" -m build --outdir "$work/dist" . >"$work/build.log" 2>&1 || { tail -50 "$work/build.log"; exit 1; }
BAVT_DIST="$work/dist" "$python" -m pytest -q tests/test_packaging.py
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install -q "$work"/dist/*.whl
cd "$work"
"$work/venv/bin/python" - <<'CHECK'
import sys

import bavt_fast as bavt

assert not {"torch", "transformers", "triton"} & set(sys.modules), "import bavt_fast must stay light"
tree = bavt.Tree(seed=0)
first = tree.expand(0, [0.2, 0.9])
tree.backup(first, 0.2)
assert list(tree.best_path()) == [first + 1]
result = bavt.search("question", generator=lambda text, count: ["Answer: 4"] * count, budget=bavt.Budget(tokens=10))
assert result.answer == "4" and result.spent.tokens <= 10
print("wheel:", bavt.__file__)
CHECK
ls -l "$work/dist"
