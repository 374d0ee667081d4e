"""CUDA graphs on a CPU: what is done inside a capture is recorded, operation by operation, and replayed.

A replay reads and writes the tensors of the capture, as on a GPU: whatever Python decided stays decided. An operation
for which the host would wait for a GPU fails, in a capture and where waiting is refused.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from model_families import build_model, build_tokenizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from bavt_fast.generators import kv_cache, torch_model
from bavt_fast.generators.sampling import Sampler
from bavt_fast.generators.static_decode import StaticDecoder
from bavt_fast.generators.torch_model import TorchGenerator

WAITING = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2", "lift_fresh"}
"""The last is what `torch.tensor` makes of numbers, which are copied to the device; but a single one may stay on the
host, from where kernels take it."""


class _Refusing(TorchDispatchMode):
    def __init__(self, graph: RecordedGraph | None = None) -> None:
        super().__init__()
        self.graph = graph

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name.split("::")[1]
        kwargs = kwargs or {}
        indices = args[1] if name in ("index", "index_put_") else ()
        stays = name == "lift_fresh" and args[0].ndim == 0
        if (name in WAITING and not stays) or any(index is not None and index.dtype == torch.bool for index in indices):
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        result = function(*args, **kwargs)
        if self.graph is not None:
            self.graph.record(function, args, kwargs, result)
        return result


class RecordedGraph:
    """In the place of `torch.cuda.CUDAGraph`."""

    live = 0

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.made: set[int] = set()
        self.shared: Any = None
        RecordedGraph.live += 1

    def pool(self) -> Any:
        return self.shared

    def record(self, function: Any, args: Any, kwargs: Any, result: Any) -> None:
        """What was made inside lies in the graph's pool. What came from outside is not kept alive by a graph."""
        made = tree_leaves(result)
        self.made.update(id(leaf) for leaf in made if isinstance(leaf, torch.Tensor))
        leaves, structure = tree_flatten((args, kwargs))
        self.calls.append((function, [self.held(leaf) for leaf in leaves], structure, made))

    def held(self, leaf: Any) -> Any:
        return weakref.ref(leaf) if isinstance(leaf, torch.Tensor) and id(leaf) not in self.made else leaf

    @torch.no_grad()
    def replay(self) -> None:
        for function, leaves, structure, made in self.calls:
            args, kwargs = tree_unflatten([_found(leaf) for leaf in leaves], structure)
            again = function(*args, **kwargs)
            for old, new in zip(made, [again] if isinstance(again, torch.Tensor) else tree_leaves(again), strict=True):
                if isinstance(old, torch.Tensor) and old.numel() and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def _found(leaf: Any) -> Any:
    if isinstance(leaf, weakref.ref):
        leaf = leaf()
        assert leaf is not None, "a graph reads memory that was given back"
    return leaf


class _Pool:
    """As the allocator has it: a pool may be shared while a graph uses it, and not again after the last one."""

    def __init__(self) -> None:
        self.graphs: list[Any] = []


class _Stream:
    """A class, for others name it in their signatures."""

    def __init__(self, *_: Any) -> None: ...


@contextmanager
def _captured(graph: RecordedGraph, pool: Any = None, **_: Any) -> Iterator[None]:
    if pool is not None and not any(one() is not None for one in pool.graphs):
        raise RuntimeError("use_count > 0 INTERNAL ASSERT FAILED")
    graph.shared = _Pool() if pool is None else pool
    graph.shared.graphs.append(weakref.ref(graph))
    with _Refusing(graph):
        yield


def record_graphs(patch: pytest.MonkeyPatch) -> None:
    """`StaticDecoder(capture=True)` works on the CPU from here on."""
    mode = ["default"]
    refusing: list[Any] = []

    def set_mode(wanted: str) -> None:
        if wanted == "error" and mode[0] != "error":
            refusing.append(_Refusing())
            refusing[-1].__enter__()
        elif wanted != "error" and mode[0] == "error":
            refusing.pop().__exit__(None, None, None)
        mode[0] = wanted

    for name, stand_in in {
        "CUDAGraph": RecordedGraph,
        "graph": _captured,
        "device": lambda *_: nullcontext(),
        "Stream": _Stream,
        "current_stream": lambda *_: None,
        "set_stream": lambda *_: None,
        "get_sync_debug_mode": lambda: mode[0],
        "set_sync_debug_mode": set_mode,
    }.items():
        patch.setattr(torch.cuda, name, stand_in)


def as_on_a_gpu(family: str, patch: pytest.MonkeyPatch, graphs: bool = True, **options: Any) -> TorchGenerator:
    """What a GPU runs, on the CPU: its sampler, its copies, passes ahead of what is read, graphs that are recorded."""
    record_graphs(patch)
    patch.setattr(torch_model, "sampler_on", lambda device, *rest: Sampler(*rest, device))
    patch.setattr(kv_cache, "_copies_at_once", lambda lane: True)
    generator = TorchGenerator(build_model(family), build_tokenizer(), **{"delimiter": ("e", "a"), **options})
    scheduler: Any = generator._scheduler
    scheduler.ahead = True
    scheduler.batch.packed = None
    scheduler.batch.static = StaticDecoder(scheduler.batch.forward, capture=True) if graphs else None
    return generator
