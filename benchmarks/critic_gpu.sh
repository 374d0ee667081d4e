#!/usr/bin/env bash
# Checks, tunes and times the critic kernel on the GPU at hand, in under ten minutes:
#     benchmarks/critic_gpu.sh [folder for the results]
# Leaves benchmarks/results/critic-<gpu>-<date>.{json,md,svg} (versions, commit and floors inside) and the tuned
# bavt_fast/kernels/critic_table.py, to be committed together.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-benchmarks/results}"
python="${PYTHON:-python}"
export PYTHONPATH=".${PYTHONPATH:+:$PYTHONPATH}"

echo "== check: against float64, bits, graphs, streams, torch.compile"
timeout 240 "$python" -m pytest -q -x -p no:cacheprovider tests/test_kernels_gpu.py

echo "== tune: bf16 first, then the rest, as far as the time goes"
timeout 130 "$python" -m benchmarks.critic_tune --kinds half int8 tf32 fp32 --limit-s 100

echo "== check the tuned table"
timeout 90 "$python" -m pytest -q -x -p no:cacheprovider tests/test_kernels_gpu.py -k "int8 or graph or 768"

echo "== time"
timeout 140 "$python" -m benchmarks.critic --compile some --limit-s 90 --out "$out"
