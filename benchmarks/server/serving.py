"""Servers in processes of their own."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.harness import ROOT, LeftOut

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
}
BLOCK_TOKENS = 32
"""Of vLLM's cache: the fewest that its CPU attention takes."""
READY_S = 900
# What ``vllm bench serve`` does. It asks for the distribution vllm; the one for the CPU has another name.
_BENCH_SERVE = """
from importlib.metadata import Distribution

by_name = Distribution.from_name
Distribution.from_name = staticmethod(lambda name: by_name("vllm-cpu" if name == "vllm" else name))
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


@contextlib.contextmanager
def instant() -> Iterator[str]:
    """The url of a server that answers at once."""
    command = [sys.executable, "-m", "benchmarks.server.instant"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.terminate()


class Served(NamedTuple):
    """Where a server is, and the session of its processes."""

    url: str
    session: int

    def processor_s(self) -> float:
        """Processor time of all of its processes until now."""
        ticks = 0
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has ended
                fields = path.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.session:
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def vllm(folder: Path, positions: int) -> Iterator[Served]:
    """vLLM with a model, which is called "m"."""
    if importlib.util.find_spec("vllm") is None:
        raise LeftOut("vLLM is not installed; `make bench-server` makes an environment with it")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", str(folder), "--served-model-name", "m", "--dtype", "float32", "--enforce-eager"]
    command += ["--max-model-len", str(positions), "--block-size", str(BLOCK_TOKENS)]
    with tempfile.TemporaryFile() as log:
        environment = {**os.environ, **_ENVIRONMENT}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            end_s = time.monotonic() + READY_S
            while not _answers(f"http://127.0.0.1:{port}/health"):
                if process.poll() is not None or time.monotonic() > end_s:
                    log.seek(0)
                    raise RuntimeError(log.read().decode(errors="replace")[-4000:])
                time.sleep(0.5)
            yield Served(f"http://127.0.0.1:{port}/v1", process.pid)
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(20)


def _answers(url: str) -> bool:
    try:
        with _DIRECT.open(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def metric(url: str, name: str) -> float:
    """A counter of vLLM's own."""
    with _DIRECT.open(url.removesuffix("/v1") + "/metrics", timeout=30) as reply:
        text = reply.read().decode()
    return sum(float(value) for value in re.findall(rf"^vllm:{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE))


def their_steps_a_second(
    url: str, folder: Path, prompts: Sequence[str], tokens: int, in_flight: int, body: Mapping[str, Any]
) -> float:
    """Requests a second of ``vllm bench serve``, each with the fields of `body` besides."""
    with tempfile.TemporaryDirectory() as out:
        questions = Path(out) / "prompts.jsonl"
        questions.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
        command = [sys.executable, "-c", _BENCH_SERVE, "--backend", "openai", "--base-url", url.removesuffix("/v1")]
        command += ["--endpoint", "/v1/completions", "--model", "m", "--tokenizer", str(folder)]
        command += ["--dataset-name", "custom", "--dataset-path", str(questions), "--skip-chat-template"]
        command += ["--custom-output-len", str(tokens), "--num-prompts", str(len(prompts)), "--ignore-eos"]
        command += ["--extra-body", json.dumps(body)]
        command += ["--max-concurrency", str(in_flight), "--disable-tqdm", "--save-result", "--result-dir", out]
        command += ["--result-filename", "result.json"]
        done = subprocess.run(command, env={**os.environ, **_ENVIRONMENT}, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LeftOut(f"vllm bench serve failed: {done.stderr[-300:]}")
        result = json.loads((Path(out) / "result.json").read_text())
        if result["completed"] != len(prompts):
            raise LeftOut(f"vllm bench serve completed {result['completed']} of {len(prompts)} requests")
        return float(result["request_throughput"])
