"""Hidden states that a server hands over with its steps, for a critic that reads them.

A step's state is the one that predicted its last token, as `TorchGenerator` has it. Which layer's is declared once, by
the generator's ``hidden_layer``: "last" for the last layer's behind the final norm, a number for the output of that
layer ("12"). What a server sends says no such thing or another, so it is compared with what was declared, and the
critic's file is compared with both (`bavt_fast.critics.critic_file`).

- SGLang sends the vector with the answer: ``return_hidden_states: "last"``, of a server that was started with
  ``--return-hidden-states-mode last``.
- vLLM writes files, by the connector of `bavt_fast.generators.vllm_connector`, into a folder that client and server
  share. `vllm_arguments` says how to start it.

A file is named by 32 hexadecimal digits that the client draws for its request.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LAST",
    "FileStates",
    "HiddenStateError",
    "SentStates",
    "StateSource",
    "is_name",
    "remove_old",
    "source_of",
    "vllm_arguments",
    "write_states",
]

LAST = "last"
"""The last layer's states, behind the final norm."""
REQUEST_KEY = "bavt_fast_state"
"""Under which a request names its file, in vLLM's ``kv_transfer_params``."""
_NAME = re.compile("[0-9a-f]{32}")
_LOOK_AGAIN_S = 0.002


class HiddenStateError(RuntimeError):
    """A server's hidden state did not come, or is not the one that was declared."""


class StateSource(Protocol):
    """How the state of a step comes from a server."""

    layer: str

    def fields(self) -> dict[str, Any]:
        """What a request says besides."""
        ...

    async def take(self, fields: Mapping[str, Any], choice: Mapping[str, Any]) -> NDArray[np.float32]:
        """(H,): the state of one answer. Raises `HiddenStateError`."""
        ...


class SentStates:
    """SGLang's: the vector is part of the answer."""

    layer = LAST

    def fields(self) -> dict[str, Any]:
        return {"return_hidden_states": "last"}

    async def take(self, fields: Mapping[str, Any], choice: Mapping[str, Any]) -> NDArray[np.float32]:
        sent = choice.get("hidden_states")
        try:
            state = np.asarray(sent, np.float32)
        except (TypeError, ValueError, OverflowError):
            state = np.empty(0, np.float32)
        if sent is None or state.ndim != 1 or not state.size or not np.isfinite(state).all():
            raise HiddenStateError(
                f"hidden_layer: expected one vector with the answer, got {sent!r:.80}; start SGLang with "
                "--return-hidden-states-mode last, or give hidden_directory for vLLM"
            )
        return state


class FileStates:
    """vLLM's: a file in a folder that client and server share.

    Args:
        directory: the folder.
        layer: which layer's are expected.
        wait_s: how long to wait for a file behind its answer.
    """

    def __init__(self, directory: str | os.PathLike[str], layer: str = LAST, wait_s: float = 10.0) -> None:
        self.directory, self.layer, self.wait_s = Path(directory), layer, wait_s

    def fields(self) -> dict[str, Any]:
        return {"kv_transfer_params": {REQUEST_KEY: secrets.token_hex(16)}, "return_token_ids": True}

    async def take(self, fields: Mapping[str, Any], choice: Mapping[str, Any]) -> NDArray[np.float32]:
        made = choice.get("token_ids")
        if not isinstance(made, (list, tuple)) or not made:
            raise HiddenStateError(f"hidden_layer: expected the answer's token ids from the server, got {made!r:.80}")
        return await self.state_of(self.name_in(fields), made)

    @staticmethod
    def name_in(fields: Mapping[str, Any]) -> str:
        """The file's name in what `fields` gave."""
        name: str = fields["kv_transfer_params"][REQUEST_KEY]
        return name

    async def state_of(self, name: str, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """(H,): the state that predicted the last of a request's tokens. The file is removed."""
        path, end = self.directory / f"{name}.npz", time.monotonic() + self.wait_s
        while True:
            found = _read_states(path)
            if found is not None:
                layer, ids, states = found
                if list(ids[: len(token_ids)]) == list(token_ids):  # or it is of a request that was sent again
                    break
            if time.monotonic() > end:
                raise HiddenStateError(
                    f"hidden_directory: expected a file of the server in {self.directory} within {self.wait_s:g} s, "
                    "got none; start vLLM as bavt_fast.generators.hidden_states.vllm_arguments says"
                )
            await asyncio.sleep(_LOOK_AGAIN_S)
        with contextlib.suppress(OSError):  # the server removes it in time
            path.unlink()
        if layer != self.layer:
            raise HiddenStateError(
                f"hidden_layer: expected states of layer {self.layer!r}, got those of {layer!r} from the server"
            )
        return np.array(states[len(token_ids) - 1])


def source_of(layer: str | None, directory: str | os.PathLike[str] | None) -> StateSource | None:
    """The source that a generator's ``hidden_layer`` and ``hidden_directory`` declare; None for no states.

    Raises:
        ValueError: a layer that is none, or that this source does not have.
    """
    if layer is None and directory is None:
        return None
    layer = LAST if layer is None else layer
    if layer != LAST and not (isinstance(layer, str) and layer.isdecimal()):
        raise ValueError(f"hidden_layer: expected 'last' or a layer's number as a str, got {layer!r:.80}")
    if directory is not None:
        return FileStates(directory, layer)
    if layer != LAST:
        raise ValueError(
            f"hidden_layer: expected 'last' of a server that sends states with its answers, got {layer!r:.80}; give "
            "hidden_directory for vLLM"
        )
    return SentStates()


def write_states(
    directory: str | os.PathLike[str], name: str, layer: str, token_ids: Sequence[int], states: NDArray[np.float32]
) -> None:
    """Leaves a request's states for `FileStates`, whole or not at all.

    Args:
        name: 32 hexadecimal digits, so that no request writes anywhere else.
        token_ids: generated tokens.
        states: float32 (tokens, H): the state that predicted each of them.

    Raises:
        ValueError: a bad name, or numbers of tokens and states that differ.
        OSError: it cannot be written.
    """
    if not is_name(name):
        raise ValueError(f"name: expected 32 hexadecimal digits, got {name!r:.80}")
    if len(token_ids) != len(states):
        raise ValueError(f"states: expected one for each of {len(token_ids)} tokens, got {len(states)}")
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=".new", delete=False) as file:
        np.savez(file, layer=np.array(layer), token_ids=np.array(token_ids, np.int64), states=states)
    os.replace(file.name, folder / f"{name}.npz")


def is_name(name: object) -> bool:
    """Whether it is what `write_states` takes as a name."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def remove_old(directory: str | os.PathLike[str], age_s: float) -> None:
    """Removes what nobody took: files of requests whose client has gone."""
    before = time.time() - age_s
    for path in Path(directory).glob("*.npz"):
        try:
            if path.stat().st_mtime < before:
                path.unlink()
        except FileNotFoundError:  # taken meanwhile
            continue


def vllm_arguments(layer: int, directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Arguments of vLLM with which it leaves hidden states for a client: of its engine, or as JSON on its command line.

    Args:
        layer: its output is handed over; the model's number of layers for the last one, which is normed ("last").
        directory: the folder that client and server share; one in memory, such as below /dev/shm, is fastest.
    """
    return {
        "speculative_config": {
            "method": "extract_hidden_states",
            "num_speculative_tokens": 1,
            "draft_model_config": {"hf_config": {"eagle_aux_hidden_state_layer_ids": [layer]}},
        },
        "kv_transfer_config": {
            "kv_connector": "StepStateConnector",
            "kv_connector_module_path": "bavt_fast.generators.vllm_connector",
            "kv_role": "kv_producer",
            "kv_connector_extra_config": {"shared_storage_path": str(directory)},
        },
    }


def _read_states(path: Path) -> tuple[str, NDArray[np.int64], NDArray[np.float32]] | None:
    """Layer, generated tokens and states of a file; None where there is none. Raises `HiddenStateError`."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return str(file["layer"]), file["token_ids"], file["states"]
    except FileNotFoundError:
        return None
    except (OSError, EOFError, ValueError, TypeError, LookupError, BadZipFile) as error:
        what = "one of another user" if isinstance(error, PermissionError) else f"{type(error).__name__}: {error}"
        raise HiddenStateError(f"hidden_directory: expected a readable file of states as {path}, got {what}") from None
