"""Real servers for these tests, in the environment that `make test-servers` makes. Elsewhere they are skipped.

Each is used by one file and ends with it: memory holds one at a time.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from served import free_port, served

from bavt_fast.folder_settings import embedded_folder
from bavt_fast.generators.hidden_states import vllm_arguments

HERE = Path(__file__).parent
PATIENT = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
ROOT = HERE.parent.parent
"""Where a server finds the connector, in an environment without this package."""
# Bound to every core it would wait for the threads of others, spinning.
VLLM = {
    **PATIENT,
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "PYTHONPATH": str(ROOT),
}


class Server(NamedTuple):
    """Where it is, the name of its model, and the model's folder."""

    url: str
    model: str
    folder: Path


@pytest.fixture(autouse=True)
def no_key_or_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """vLLM with the embedded Countdown model. BAVT_VLLM_URL names one that runs already: http://127.0.0.1:8000."""
    yield from _vllm(tmp_path_factory, "BAVT_VLLM_URL")


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which `vllm_states` leaves hidden states."""
    return Path(os.environ.get("BAVT_VLLM_STATES") or tmp_path_factory.mktemp("states"))


@pytest.fixture(scope="module")
def vllm_states(tmp_path_factory: pytest.TempPathFactory, states: Path) -> Iterator[Server]:
    """The same, handing over hidden states. BAVT_VLLM_STATES_URL and BAVT_VLLM_STATES name one that runs already."""
    layers = json.loads((embedded_folder() / "config.json").read_text())["num_hidden_layers"]
    yield from _vllm(tmp_path_factory, "BAVT_VLLM_STATES_URL", vllm_arguments(layers, states))


def _vllm(
    tmp_path_factory: pytest.TempPathFactory, variable: str, more: Mapping[str, Any] | None = None
) -> Iterator[Server]:
    folder = embedded_folder()
    running = os.environ.get(variable)
    if running:
        yield Server(f"{running}/v1", "countdown", folder)
        return
    command = ["--max-model-len", "64", "--enable-prompt-tokens-details"]
    command += ["--chat-template", str(HERE / "countdown.jinja")]
    for name, value in (more or {}).items():
        command += [f"--{name.replace('_', '-')}", json.dumps(value)]
    with started(folder, "countdown", command, tmp_path_factory.mktemp("vllm") / "server.log") as server:
        yield server


@contextlib.contextmanager
def started(folder: Path, model: str, arguments: Sequence[str], log: Path) -> Iterator[Server]:
    """vLLM with the model of a folder. Skips where there is no vLLM."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("needs vLLM: `make test-servers`")
    port = free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--model", str(folder), "--served-model-name", model, "--dtype", "float32", "--block-size", "32"]
    with served([*command, "--enforce-eager", *arguments], f"http://127.0.0.1:{port}/health", log, env=VLLM):
        yield Server(f"http://127.0.0.1:{port}/v1", model, folder)


class Reward(NamedTuple):
    """A server with a random process reward model, and the same as a critic in this process."""

    server: Server
    tokenizer: Any
    here: Any


@pytest.fixture(scope="module", params=["labels", "step tags"])
def vllm_reward(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reward]:
    """vLLM with a model that gives every token labels, and with one like Qwen2.5-Math-PRM, one after the other."""
    import reward_models

    from bavt_fast.critics.process_reward import ProcessRewardCritic

    folder, tokenizer = tmp_path_factory.mktemp("prm"), reward_models.byte_level()
    tokenizer.save_pretrained(folder)
    arguments = ["--max-model-len", "512"]
    if request.param == "labels":
        model = reward_models.classifier(tokenizer, width=64)
        model.save_pretrained(folder)
        here = ProcessRewardCritic(model, tokenizer)
    else:
        here = ProcessRewardCritic.qwen(reward_models.save_qwen_prm(tokenizer, folder), tokenizer)
        (tag,) = tokenizer("<extra_0>", add_special_tokens=False)["input_ids"]
        arguments += ["--pooler-config", json.dumps({"pooling_type": "STEP", "step_tag_id": tag})]
    with started(folder, "prm", arguments, tmp_path_factory.mktemp("vllm") / "server.log") as server:
        yield Reward(server, tokenizer, here)


@pytest.fixture(scope="module")
def transformers_serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """``transformers serve`` with a random model of letters: of the embedded model's words it finds no stop string."""
    program = Path(sys.executable).with_name("transformers")
    if importlib.util.find_spec("vllm") is None or not program.exists():
        pytest.skip("needs the environment of `make test-servers`")
    from model_families import build_model, build_tokenizer

    folder = tmp_path_factory.mktemp("letters")
    build_model("llama").save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    port = free_port()
    command = [str(program), "serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    log = tmp_path_factory.mktemp("transformers") / "server.log"
    with served([*command, "--dtype", "float32"], f"http://127.0.0.1:{port}/health", log, env=PATIENT):
        yield Server(f"http://127.0.0.1:{port}/v1", str(folder), folder)


@pytest.fixture(scope="module")
def vllm_engine() -> Iterator[Any]:
    """vLLM in this program with the embedded Countdown model, handing over hidden states."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("needs vLLM: `make test-servers`")
    from bavt_fast.generators.vllm_engine import VLLMGenerator

    with pytest.MonkeyPatch.context() as patch:
        for name, value in VLLM.items():
            patch.setenv(name, value)
        options = {"dtype": "float32", "max_model_len": 64, "block_size": 32, "enforce_eager": True}
        with VLLMGenerator(
            embedded_folder(), delimiter=")", temperature=0.0, logprobs=True, hidden_layer="last", **options
        ) as generator:
            yield generator
