#!/usr/bin/env bash
# Builds the native module with AddressSanitizer and UBSan, in a copy of the package, and runs the native tests on it.
# PYTHON: an interpreter that has numpy, pybind11, cmake, pytest and hypothesis (default: python3).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=$(cd "$root" && command -v "${PYTHON:-python3}")
python=$(cd "$root" && cd "$(dirname "$python")" && pwd)/$(basename "$python")
export PATH="$(dirname "$python"):$PATH"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cp -r "$root/bavt_fast" "$root/csrc" "$root/CMakeLists.txt" "$work/"
rm -f "$work"/bavt_fast/*.so
cmake -S "$work" -B "$work/build" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DBAVT_SANITIZE=address,undefined \
    -DPython_EXECUTABLE="$python" -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" \
    -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$work/bavt_fast" >/dev/null
cmake --build "$work/build" --parallel 2

# Leaks of the interpreter itself would drown ours; everything else stops the run.
export ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export LD_PRELOAD="$(gcc -print-file-name=libasan.so):$(gcc -print-file-name=libubsan.so)"
export BAVT_FUZZ_EXAMPLES="${BAVT_FUZZ_EXAMPLES:-150}" PYTHONPATH="$work" PYTHONDONTWRITEBYTECODE=1
cd "$work"
"$python" -m pytest -q -p no:cacheprovider --rootdir="$root" "$root"/tests/test_core*.py "$root"/tests/test_reference*.py \
    "$root/tests/test_countdown.py"
