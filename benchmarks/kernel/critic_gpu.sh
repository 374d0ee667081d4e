#!/usr/bin/env bash
# Builds the package, then checks, tunes and times the critic kernel on the GPU at hand, in under ten minutes:
#     benchmarks/kernel/critic_gpu.sh [--tiny] [--seconds N] [--parts "check tune time recheck"] [folder for the results]
# N, 590 unless told, is divided: of what is left, check takes at most 40%, tune 50%, time 85%, and recheck, of the tuned
# table, the rest. A part that fails or runs out of time stops none after it; all are told at the end, and the exit status
# is 1. Leaves benchmarks/results/critic-<gpu>-<date>.{json,md,svg} (versions, commit and floors inside) and the tuned
# bavt_fast/kernels/critic_table.py, to be committed together, and what the parts printed in build/critic_gpu; with a
# folder, the table's copy and what they printed lie there too. --tiny does the same on the CPU, where all checks are
# skipped and nothing can be tuned: it shows that the script runs. Needs torch, triton, pytest, setuptools, pybind11, cmake and a C++
# compiler, for the plot matplotlib; pytest-xdist and pytest-timeout are used where installed; no network. PYTHON names
# the interpreter.
set -uo pipefail
cd "$(dirname "$0")/../.."
python="${PYTHON:-python}"
export PYTHONPATH=".${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
seconds=590 parts="check tune time recheck" out=benchmarks/results logs=build/critic_gpu device=cuda timing=()
while (($#)); do
    case "$1" in
        --tiny) device=cpu timing=(--quick) out=build/critic_gpu parts="check time recheck" ;;
        --seconds)
            seconds="${2:-}" && shift
            [[ "$seconds" =~ ^[1-9][0-9]*$ ]] || { echo "--seconds: expected a whole number, got '$seconds'" >&2 && exit 2; }
            ;;
        --parts) parts="${2:-}" && shift ;;
        -*) echo "critic_gpu.sh: no such option: $1" >&2 && exit 2 ;;
        *) out="$1" logs="$1" ;;
    esac
    shift
done
mkdir -p "$out" "$logs"
told=()

share() { # $1 percent of the seconds that are left, at least 1
    local share=$(((seconds - SECONDS) * $1 / 100))
    echo $((share > 1 ? share : 1))
}

part() { # runs a part: name, seconds, command...; shows the last $show lines of what it prints
    local name="$1" limit="$2" begin=$SECONDS status
    shift 2
    echo "== $name, at most $limit s ($SECONDS s)"
    # A process that waits for a GPU in vain does not listen to the first signal.
    timeout --signal=INT --kill-after=5 "$limit" "$@" >"$logs/critic-$name.log" 2>&1
    status=$?
    grep -vE '^tests/[^ ]+ $| (PASSED|SKIPPED) ' "$logs/critic-$name.log" | tail -n "$show"
    case $status in
        0) told+=("$name: done in $((SECONDS - begin)) s") ;;
        124 | 137) told+=("$name: FAILED, out of time after $limit s") && failed=1 ;;
        *) told+=("$name: FAILED with status $status after $((SECONDS - begin)) s") && failed=1 ;;
    esac
}

# tests/conftest.py needs hypothesis, and the settings of pyproject.toml pytest-benchmark; these tests need neither.
pytest=("$python" -m pytest -v -rfE --tb=short --durations=8 --noconftest -p no:cacheprovider -o addopts= -o filterwarnings=default)
if "$python" -c 'import xdist' 2>/dev/null; then
    workers=$(env -u OMP_NUM_THREADS nproc) # which counts threads and no cores where that variable is set
    pytest+=(-n "$((workers < 12 ? workers : 12))") # each has its own GPU context and compiles its own kernels
fi
pytest+=(tests/kernels/test_kernels_gpu.py)
"$python" -c 'import pytest_timeout' 2>/dev/null && patient=0 || patient=1

check() { # runs the checks as a part: name, seconds, more arguments of pytest
    local name="$1" limit="$2" arguments=()
    shift 2
    # One check that hangs must end before all of them do: what the others found is printed last.
    ((patient)) || arguments=(-o "timeout=$((limit / 2 + 1))" -o timeout_method=thread)
    part "$name" "$limit" "${pytest[@]}" "${arguments[@]}" "$@"
}

failed=0
"$python" - "$device" <<'END' || exit 1
import os, shutil, sys, sysconfig, torch, triton

header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
print(f"torch {torch.__version__}, triton {triton.__version__}, {os.cpu_count()} cores,", end=" ")
print(f"C compiler {shutil.which('gcc') or shutil.which('clang')}, {header} {'is' if os.path.exists(header) else 'NOT'} there")
if sys.argv[1] == "cuda":
    if not torch.cuda.is_available():
        sys.exit("critic_gpu.sh: torch sees no GPU")
    print(torch.cuda.get_device_name(), torch.cuda.get_device_capability(), "CUDA", torch.version.cuda)
END
if ! "$python" -c 'import bavt_fast._core' 2>/dev/null; then
    show=5 part build 90 "$python" setup.py -q build_ext --inplace --build-temp build/critic_gpu
fi
for name in $parts; do
    case "$name" in
        check) # against float64, bits, graphs, streams, torch.compile
            show=40 check check "$(share 40)"
            ;;
        tune) # bf16 first, then the rest, as far as the time goes
            limit=$(share 50)
            show=60 part tune "$limit" "$python" -m tools.critic_kernel.tune --kinds half int8 tf32 fp32 \
                --limit-s "$((limit > 20 ? limit - 10 : limit))"
            ;;
        time)
            limit=$(share 85)
            show=90 part time "$limit" "$python" -m benchmarks.kernel --device "$device" "${timing[@]}" --compile some \
                --limit-s "$((limit > 50 ? limit - 20 : limit))" --out "$out"
            ;;
        recheck) # the tuned table
            if (($(share 100) < 15)); then
                told+=("recheck: left out, no time is left")
            else
                show=20 check recheck "$(share 100)" -k "int8 or graph or 768"
            fi
            ;;
        *) told+=("$name: FAILED, there is no such part") && failed=1 ;;
    esac
done
[[ "$logs" == "$out" ]] && cp bavt_fast/kernels/critic_table.py "$out/"
printf '== %s\n' "${told[@]}" "$SECONDS s in all"
exit "$failed"
