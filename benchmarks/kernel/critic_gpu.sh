#!/usr/bin/env bash
# Builds the package, then checks, tunes and times the critic kernel on the GPU at hand, in under ten minutes:
#     benchmarks/kernel/critic_gpu.sh [folder for the results]
# Leaves benchmarks/results/critic-<gpu>-<date>.{json,md,svg} (versions, commit and floors inside) and the tuned
# bavt_fast/kernels/critic_table.py, to be committed together. Needs torch, triton, pytest, setuptools, pybind11, cmake
# and a C++ compiler, for the plot matplotlib; no network. PYTHON names the interpreter.
set -euo pipefail
cd "$(dirname "$0")/../.."
out="${1:-benchmarks/results}"
python="${PYTHON:-python}"
export PYTHONPATH=".${PYTHONPATH:+:$PYTHONPATH}"

left() { # seconds until ten minutes are over, less $1 for what comes after
    local seconds=$((590 - SECONDS - $1))
    echo $((seconds > 1 ? seconds : 1))
}
# tests/conftest.py needs hypothesis, which these tests do not.
check() { "$python" -m pytest -q -x --noconftest -p no:cacheprovider tests/kernels/test_kernels_gpu.py "$@"; }
export -f check
export python

if ! "$python" -c 'import bavt_fast' 2>/dev/null; then
    echo "== build"
    timeout 90 "$python" setup.py -q build_ext --inplace --build-temp build/critic_gpu
fi

echo "== check: against float64, bits, graphs, streams, torch.compile ($SECONDS s)"
timeout 240 bash -c check

echo "== tune: bf16 first, then the rest, as far as the time goes ($SECONDS s)"
timeout "$(left 210)" "$python" -m tools.critic_kernel.tune --kinds half int8 tf32 fp32 --limit-s "$(left 240)"

echo "== check the tuned table ($SECONDS s)"
timeout 60 bash -c 'check -k "int8 or graph or 768"'

echo "== time ($SECONDS s)"
timeout "$(left 0)" "$python" -m benchmarks.kernel --compile some --limit-s "$(left 40)" --out "$out"
