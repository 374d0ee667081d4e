#!/usr/bin/env bash
# Builds the package, then checks and times the generator on the GPU at hand, in under ten minutes:
#     benchmarks/generation/gpu.sh [--tiny] [--seconds S] [--ours] [folder for the results]
# Leaves generation-<gpu>-<date>.{json,md} in benchmarks/results (versions and commit inside), to be committed. --tiny
# does the same on the CPU with models of a few thousand weights: it shows that the script runs, and its results go to
# build/bench. --seconds fits all into so many, 590 where nothing is said; with less than 400 two models are timed in few
# rounds, tests that fail keep nothing from running, and what was measured is written after every part. With --ours they
# are timed by our search alone, each in a process and a folder of its own, and where the time of a pass goes is printed.
# Needs torch, transformers, pytest, setuptools, pybind11, cmake and a C++ compiler; no network. PYTHON names the
# interpreter.
set -euo pipefail
cd "$(dirname "$0")/../.."
python="${PYTHON:-python}"
export PYTHONPATH=".${PYTHONPATH:+:$PYTHONPATH}"
options=(--device cuda) out=benchmarks/results all=590 ours= models=(llama-0.5b qwen2-1.5b)
while [[ "${1:-}" == --* ]]; do
    case "$1" in
        --tiny) options=(--device cpu --quick) out=build/bench models=(llama-tiny qwen2-tiny) ;;
        --ours) ours=1 ;;
        --seconds)
            all="${2:-}" && shift
            [[ "$all" =~ ^[1-9][0-9]*$ ]] || { echo "--seconds: expected a whole number, got '$all'" >&2 && exit 2; }
            ;;
        *) echo "unknown option $1" >&2 && exit 2 ;;
    esac
    shift
done
out="${1:-$out}"

left() { # seconds until all are over, less $1 for what comes after
    local seconds=$((all - SECONDS - $1))
    echo $((seconds > 1 ? seconds : 1))
}

if ! "$python" -c 'import bavt_fast._core' 2>/dev/null; then
    echo "== build"
    timeout 90 "$python" setup.py -q build_ext --inplace --build-temp build/generation_gpu
fi

# tests/conftest.py needs hypothesis, and so do some tests; where it is missing they are left out.
missing=()
if ! "$python" -c 'import hypothesis' 2>/dev/null; then
    mapfile -t missing < <(grep -l '^from hypothesis' tests/generators/*.py tests/critics/*.py | sed 's/^/--ignore=/')
fi
check() { # the tests that are $2, of what comes behind it, for $1 seconds; 5 is what pytest says where there are none
    local status=0
    # Without the options of pyproject.toml: they need pytest-benchmark.
    # Interrupted, they say what failed by then.
    timeout -s INT -k 5 "$1" "$python" -u -m pytest -q -o addopts= --noconftest -p no:cacheprovider -m "$2" "${@:3}" \
        "${missing[@]}" || status=$?
    [[ $status == 0 || $status == 5 ]] || { echo "tests that are $2: status $status"; return "$status"; }
}

time_within() { # $1 seconds, with these options besides
    timeout -s INT -k 5 "$1" "$python" -u -m benchmarks.generation "${options[@]}" --seconds "$1" "${@:2}" || status=$?
}

if ((all < 400)) || [[ $ours ]]; then
    status=0
    echo "== check: tests that need a GPU ($SECONDS s)"
    mapfile -t marked < <(grep -l 'mark\.gpu' tests/generators/*.py tests/critics/*.py)
    check $((all * 3 / 10)) gpu --durations=5 --tb=short "${marked[@]}" || status=$?
    if [[ $ours ]]; then
        echo "== time ${models[0]} ($SECONDS s)"
        time_within "$(($(left 5) * 6 / 10))" --ours --models "${models[0]}" --out "$out/${models[0]}"
        echo "== time ${models[1]} ($SECONDS s)"
        time_within "$(left 5)" --ours --models "${models[1]}" --out "$out/${models[1]}"
    else
        echo "== time ($SECONDS s)"
        time_within "$(left 5)" --out "$out"
    fi
    echo "== over ($SECONDS s)"
    exit "$status"
fi

echo "== check: tests that need a GPU ($SECONDS s)"
check 120 gpu -x tests/generators tests/critics
if [[ "${options[1]}" == cuda ]]; then
    echo "== check: the others, as far as the time goes ($SECONDS s)"
    check 100 "not gpu and not slow" -x tests/generators tests/critics || [[ $? == 124 ]]
fi

echo "== time ($SECONDS s)"
timeout "$(left 0)" "$python" -m benchmarks.generation "${options[@]}" --limit-s "$(left 90)" --out "$out"
