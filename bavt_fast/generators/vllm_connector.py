"""Part of a vLLM server: leaves the hidden states of generated tokens in a folder, for requests that ask for them.

vLLM's method ``extract_hidden_states`` keeps the states of one layer beside its keys and values. When a request has
ended, this connector reads those that predicted its tokens, norms them where the layer is the last one, and writes
them with `hidden_states.write_states`. All of them, because the engine may have gone on behind a stop string by the
time that it hears of it: the client, which knows the tokens, takes the right one.

It is named in vLLM's arguments (`hidden_states.vllm_arguments`) and needs bavt_fast and transformers beside the server.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata, KVConnectorRole
from vllm.distributed.kv_transfer.kv_connector.v1.example_hidden_states_connector import ExampleHiddenStatesConnector
from vllm.logger import init_logger
from vllm.platforms import current_platform
from vllm.v1.sample import rejection_sampler

from bavt_fast.generators.final_norm import load_final_norm
from bavt_fast.generators.hidden_states import LAST, REQUEST_KEY, is_name, remove_old, write_states

__all__ = ["StepStateConnector"]

logger = init_logger("vllm.bavt_fast")

_KEPT_S = 600.0
"""After which a file that nobody took is removed."""


@dataclass
class Ended:
    """A request that has ended: the client's name for it, its tokens, and where vLLM keeps what it has of them."""

    request_id: str
    name: str
    prompt_tokens: int
    token_ids: list[int]
    block_ids: list[int]


class EndedRequests(KVConnectorMetadata):  # type: ignore[misc]
    """What the scheduler tells the worker in one step."""

    def __init__(self, ended: list[Ended]) -> None:
        self.ended = ended


def expanded(
    values: torch.Tensor, ends: torch.Tensor, count: int, replace_from: float = 0, replace_to: float = 0
) -> torch.Tensor:
    """Each request's value for each of its tokens, as vLLM's `expand_batch_to_tokens`.

    That of vLLM 0.32 for the CPU writes its result into a copy, so that tokens are drawn at the temperature that memory
    happens to hold as soon as states are kept, and one request with a temperature spoils the greedy ones beside it.

    Args:
        values: (requests,). ends: (requests,), running sums of their tokens. count: of all tokens.
        replace_from, replace_to: the first becomes the second.
    """
    counts = torch.diff(ends, prepend=ends.new_zeros(1))
    values = torch.where(values == replace_from, values.new_tensor(replace_to), values)
    return torch.repeat_interleave(values, counts, output_size=count)


class StepStateConnector(ExampleHiddenStatesConnector):  # type: ignore[misc]
    """vLLM's example, with four differences: only requests that ask; no pinned memory or CUDA events, so that it runs
    on a CPU too; generated tokens alone; the final norm."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        layers = vllm_config.speculative_config.draft_model_config.hf_config.eagle_aux_hidden_state_layer_ids
        if len(layers) != 1:
            raise ValueError(f"eagle_aux_hidden_state_layer_ids: expected one layer, got {layers}")
        is_last = layers[0] == vllm_config.model_config.hf_text_config.num_hidden_layers
        self._layer = LAST if is_last else str(layers[0])
        self._norm = None
        if role == KVConnectorRole.WORKER:
            if is_last:
                self._norm = load_final_norm(vllm_config.model_config.model)
            if current_platform.is_cpu():
                rejection_sampler.expand_batch_to_tokens = expanded
        self._waiting: list[Ended] = []
        self._written: set[str] = set()
        self._swept_s = time.monotonic()

    # ---- in the scheduler

    def build_connector_meta(self, scheduler_output: Any) -> EndedRequests:
        ended, self._waiting = self._waiting, []
        return EndedRequests(ended)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """Whether the request's blocks must be kept until `get_finished` has read them."""
        name: Any = (request.kv_transfer_params or {}).get(REQUEST_KEY)
        token_ids = list(request.output_token_ids)
        if not is_name(name) or not token_ids or not block_ids:  # what a client sends must not stop the server
            return False, None
        number = request.request_id
        self._waiting.append(Ended(number, name, request.num_prompt_tokens, token_ids, list(block_ids)))
        return True, None

    # ---- in the worker

    def wait_for_save(self) -> None:
        """Nothing is saved layer by layer."""

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        """Writes what has ended; those requests' blocks are free then."""
        if self.has_connector_metadata() and self._is_tp_rank_zero:
            for ended in self._get_connector_metadata().ended:
                self._write(ended)
                self._written.add(ended.request_id)
        self._accumulated_finished_req_ids.update(finished_req_ids)
        done = self._written & self._accumulated_finished_req_ids
        self._written -= done
        self._accumulated_finished_req_ids &= self._written  # others did not ask
        return done or None, None

    @torch.inference_mode()
    def _write(self, ended: Ended) -> None:
        count = len(ended.token_ids)
        places = torch.arange(ended.prompt_tokens - 1, ended.prompt_tokens - 1 + count)
        blocks = torch.tensor(ended.block_ids)
        there = places // self._block_size < len(blocks)  # an aborted request may lack its last ones
        places = places[there]
        slots = (blocks[places // self._block_size], places % self._block_size)
        device = self._kv_cache.device
        states = self._kv_cache[slots[0].to(device), 0, slots[1].to(device)].float().cpu()
        if self._norm is not None:
            states = self._norm(states)
        try:
            write_states(self._storage_path, ended.name, self._layer, ended.token_ids[: len(places)], states.numpy())
        except OSError:  # its client will miss it; the others are served
            logger.exception("hidden states were not written")
        if time.monotonic() - self._swept_s > _KEPT_S:
            self._swept_s = time.monotonic()
            remove_old(self._storage_path, _KEPT_S)
