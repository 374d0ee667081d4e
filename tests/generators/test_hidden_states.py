"""Hidden states that a server hands over: in its answers (SGLang) or in files (vLLM), as declared or refused."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiohttp")

from fake_server import FakeServer, Reply, completion

import bavt_fast as bavt
from bavt_fast.generators.hidden_states import FileStates, remove_old, vllm_arguments, write_states
from bavt_fast.generators.openai_server import OpenAIGenerator
from bavt_fast.protocols import GenerationError, StepRequest

NAME = "0123456789abcdef" * 2
STATES = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture(autouse=True)
def no_key_or_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def ask(generator: OpenAIGenerator, text: str = "Q\n", limit: int = 8) -> Any:
    async def run() -> Any:
        try:
            return await generator.propose([StepRequest(text)], [1], [limit])
        finally:
            await generator.aclose()

    (answer,) = asyncio.run(run())
    return answer[0] if isinstance(answer, list) else answer


def leaves_files(directory: Path, *, layer: str = "last", ids: tuple[int, ...] = (7, 8, 9), more: int = 0) -> Any:
    """A server as vLLM with our connector is: it answers, and writes the states a moment later."""

    def answer(body: dict[str, Any]) -> Reply:
        name = body["kv_transfer_params"]["bavt_fast_state"]
        assert body["return_token_ids"] is True
        rows = np.concatenate([STATES, np.full((more, 4), -1.0, np.float32)])
        written = [*ids, *[5] * more]
        threading.Timer(0.05, write_states, (directory, name, layer, written, rows)).start()
        return completion("a", 3, stop_reason="\n", token_ids=list(ids), prompt_token_ids=[1])

    return answer


# --- files


def test_a_steps_state_comes_out_of_its_file(tmp_path: Path) -> None:
    with FakeServer(leaves_files(tmp_path)) as server:
        generator = OpenAIGenerator("m", base_url=server.url, hidden_directory=tmp_path)
        step = ask(generator)
    assert generator.hidden_layer == "last"
    assert step.hidden.tolist() == STATES[2].tolist()
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_went_on_behind_the_stop_string(tmp_path: Path) -> None:
    with FakeServer(leaves_files(tmp_path, more=2)) as server:
        step = ask(OpenAIGenerator("m", base_url=server.url, hidden_directory=tmp_path))
    assert step.hidden.tolist() == STATES[2].tolist()


def test_states_of_another_layer_are_refused_and_both_are_named(tmp_path: Path) -> None:
    with FakeServer(leaves_files(tmp_path, layer="3")) as server:
        error = ask(OpenAIGenerator("m", base_url=server.url, hidden_directory=tmp_path))
        other = ask(OpenAIGenerator("m", base_url=server.url, hidden_directory=tmp_path, hidden_layer="3"))
    assert isinstance(error, GenerationError)
    assert "expected states of layer 'last', got those of '3'" in str(error)
    assert error.spent.tokens == 3
    assert other.hidden.tolist() == STATES[2].tolist()


def test_a_server_without_the_connector_is_named(tmp_path: Path) -> None:
    source = FileStates(tmp_path, wait_s=0.05)
    with pytest.raises(RuntimeError, match=r"within 0.05 s, got none; start vLLM as .*vllm_arguments says"):
        asyncio.run(source.state_of(NAME, [1, 2]))
    with FakeServer(lambda body: completion("a", 3)) as server:
        error = ask(OpenAIGenerator("m", base_url=server.url, hidden_directory=tmp_path))
    assert "expected the answer's token ids" in str(error)


@pytest.mark.parametrize("content", [b"", b"words", b"PK\x03\x04torn", None])
def test_a_file_that_cannot_be_read_is_an_error_that_is_charged(tmp_path: Path, content: bytes | None) -> None:
    """Such as one of another user. None: a folder, which nobody may read as a file."""

    def answer(body: dict[str, Any]) -> Reply:
        path = tmp_path / f"{body['kv_transfer_params']['bavt_fast_state']}.npz"
        path.write_bytes(content) if content is not None else path.mkdir()
        return completion("a", 3, stop_reason="\n", token_ids=[7, 8, 9])

    with FakeServer(answer) as server:
        error = ask(OpenAIGenerator("m", base_url=server.url, hidden_directory=tmp_path))
    assert isinstance(error, GenerationError)
    assert "hidden_directory: expected a readable file of states as " in str(error)
    assert error.spent == bavt.Spent(tokens=3, prompt_tokens=7)


def test_a_file_of_a_request_that_was_sent_again_is_waited_for(tmp_path: Path) -> None:
    write_states(tmp_path, NAME, "last", [7, 1, 1], STATES)
    threading.Timer(0.1, write_states, (tmp_path, NAME, "last", [7, 8, 9], STATES + 1)).start()
    state = asyncio.run(FileStates(tmp_path).state_of(NAME, [7, 8]))
    assert state.tolist() == (STATES[1] + 1).tolist()


def test_what_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    for name in ("../escape", "x" * 32, NAME[:-1], NAME + "0", "", None):
        with pytest.raises(ValueError, match="expected 32 hexadecimal digits"):
            write_states(folder, name, "last", [1], STATES[:1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one for each of 2 tokens, got 3"):
        write_states(folder, NAME, "last", [1, 2], STATES)
    assert not folder.exists()
    write_states(folder, NAME, "last", [7, 8, 9], STATES)
    assert [path.name for path in folder.iterdir()] == [f"{NAME}.npz"]


def test_what_nobody_took_is_removed(tmp_path: Path) -> None:
    for name in (NAME, NAME[::-1]):
        write_states(tmp_path, name, "last", [7, 8, 9], STATES)
    os.utime(tmp_path / f"{NAME}.npz", (time.time() - 100,) * 2)
    remove_old(tmp_path, 50.0)
    assert [path.name for path in tmp_path.iterdir()] == [f"{NAME[::-1]}.npz"]


def test_the_arguments_of_vllm_are_json(tmp_path: Path) -> None:
    found = json.loads(json.dumps(vllm_arguments(6, tmp_path)))
    assert found["speculative_config"]["draft_model_config"]["hf_config"]["eagle_aux_hidden_state_layer_ids"] == [6]
    assert found["kv_transfer_config"]["kv_connector_extra_config"] == {"shared_storage_path": str(tmp_path)}


# --- the flag, and critics


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"hidden_layer": "first"}, "hidden_layer: expected 'last' or a layer's number"),
        ({"hidden_layer": 3}, "hidden_layer: expected 'last' or a layer's number"),
        ({"hidden_layer": "3"}, "expected 'last' of a server that sends states"),
    ],
)
def test_bad_declarations_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        OpenAIGenerator("m", **options)


def test_a_generator_without_states_has_no_probe() -> None:
    with pytest.raises(TypeError, match="hidden_layer: expected a generator with one"):
        OpenAIGenerator("m").encode("text")


def test_a_text_is_encoded_by_one_greedy_token(tmp_path: Path) -> None:
    with FakeServer(leaves_files(tmp_path, ids=(7, 8, 9))) as server:
        generator = OpenAIGenerator(
            "m", base_url=server.url, hidden_directory=tmp_path, chat=True, system="x", temperature=1.0
        )
        found = generator.encode("1 2 3")
        inside = asyncio.run(encoded_in_a_loop(generator))
    assert found.tolist() == inside.tolist() == [STATES[2].tolist()]
    body = server.requests[0]
    assert (body["prompt"], body["max_tokens"], body["temperature"]) == ("1 2 3", 1, 0.0)
    assert server.paths == ["/v1/completions"] * 2


async def encoded_in_a_loop(generator: OpenAIGenerator) -> Any:
    return generator.encode("1 2 3")


def test_a_critic_is_loaded_for_the_servers_states_or_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from bavt_fast.critics.critic_file import CriticManifest, load_critic, save_critic

    class Trained:
        """The model that the critic was trained on leaves the same state."""

        def encode(self, text: str) -> Any:
            return torch.tensor(STATES[2:])

    head = bavt.ResidualValuePredictor(4)
    save_critic(tmp_path / "c", head, CriticManifest("m", 4, "text", "value"), Trained())
    files = tmp_path / "files"
    with FakeServer(leaves_files(files)) as server:
        generator = OpenAIGenerator("m", base_url=server.url, hidden_directory=files)
        critic = load_critic(tmp_path / "c", generator, task="text")
        step = ask(generator)
        third = OpenAIGenerator("m", base_url=server.url, hidden_directory=files, hidden_layer="3")
        with pytest.raises(ValueError, match=r"of layer '3' \(OpenAIGenerator.*, got one for layer 'last' of 'm'"):
            load_critic(tmp_path / "c", third)
    node = bavt.Node(None, "Q", None, step)
    assert critic.score([node]) == [pytest.approx(float(head(torch.tensor(STATES[2:])).item()))]

    def of_another_model(body: dict[str, Any]) -> Reply:
        name = body["kv_transfer_params"]["bavt_fast_state"]
        write_states(files, name, "last", [7], np.array([[1.0, -1.0, 1.0, -1.0]], np.float32))
        return completion("a", 1, token_ids=[7])

    with FakeServer(of_another_model) as server:
        generator = OpenAIGenerator("m", base_url=server.url, hidden_directory=files)
        with pytest.raises(
            ValueError, match=r"expected one trained on the states of OpenAIGenerator.* got one for 'm'"
        ):
            load_critic(tmp_path / "c", generator)
