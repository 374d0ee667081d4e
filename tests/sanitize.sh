#!/usr/bin/env bash
# The native code under sanitizers: the core's Python tests, but for slow ones, with AddressSanitizer and
# UndefinedBehaviorSanitizer, and stresses of the forest's and the engine's threads with ThreadSanitizer. PYTHON names the
# interpreter (python3 unless told); BAVT_STRESS_CALLS is the number of calls of the engine's stress, a fifth of them
# under ThreadSanitizer.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(realpath -s "$(command -v "${PYTHON:-python3}")")
export PATH="$(dirname "$python"):$PATH"
root=$PWD
build=$root/build/sanitize

configure() {
    cmake -S . -B "$build/$1" -DBAVT_SANITIZE="$2" -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCMAKE_CXX_FLAGS_RELWITHDEBINFO="-O1 -g1" \
        -DPython_EXECUTABLE="$python" -Dpybind11_DIR="$("$python" -c 'import pybind11; print(pybind11.get_cmake_dir())')" \
        >/dev/null
}

configure threads thread
cmake --build "$build/threads" --parallel "$(nproc)" --target forest_stress engine_stress
"$build/threads/forest_stress"
calls=${BAVT_STRESS_CALLS:-1000000}
"$build/threads/engine_stress" $((calls / 5)) 1

configure memory address,undefined
cmake --build "$build/memory" --parallel "$(nproc)" --target _core engine_stress
"$build/memory/engine_stress" "$calls" 2
# The package as it is, but for its native module.
package=$build/package/bavt_fast
rm -rf "$package" && mkdir -p "$package"
ln -s "$root"/bavt_fast/* "$package"
rm -f "$package"/_core.*.so
cp "$build"/memory/_core.*.so "$package"
cd "$build/package"
asan=$(g++ -print-file-name=libasan.so)
stdcpp=$(g++ -print-file-name=libstdc++.so)
# Python itself does not free everything at its end, so leaks are not looked for. The tests' own pythonpath names the
# repository, whose module is an ordinary one: it must not come before ours.
LD_PRELOAD="$asan $stdcpp" ASAN_OPTIONS=detect_leaks=0 BAVT_FUZZ_EXAMPLES="${BAVT_FUZZ_EXAMPLES:-300}" \
    "$python" -m pytest -q -m 'not slow' -p no:cacheprovider --rootdir="$root" -o pythonpath="$build/package $root/tests/support" \
    "$root"/tests/tree "$root"/tests/recipe "$root"/tests/tasks/test_countdown.py \
    "$root"/tests/test_token_drawer.py \
    "$root"/tests/engine/test_engine_equivalence.py "$root"/tests/engine/test_engine_native.py \
    "$root"/tests/engine/test_checkpoint.py "$root"/tests/engine/test_checkpoint_files.py \
    "$root"/tests/engine/test_waves.py "$root"/tests/engine/test_search.py "$root"/tests/engine/test_interrupts.py \
    --ignore="$root"/tests/recipe/test_recipe_torch.py
