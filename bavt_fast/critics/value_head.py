"""The value head, and a critic that puts one on hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from bavt_fast._checks import as_count
from bavt_fast.device_queue import are_complete, side_stream, version_of
from bavt_fast.protocols import Node
from bavt_fast.request_checks import check_nodes
from bavt_fast.threads import ComputeThreads

__all__ = ["ContextReader", "HiddenStateCritic", "ResidualValuePredictor", "head_shapes"]


class ResidualValuePredictor(nn.Module):
    """The critic MLP, Linear(H, 2H) -> ReLU -> Linear(2H, 1), in an ``nn.Sequential`` called `predictor`.

    State-dict keys: ``predictor.0.weight`` (2H, H), ``predictor.0.bias`` (2H,), ``predictor.2.weight``
    (1, 2H), ``predictor.2.bias`` (1,). Parameters are drawn in that order, so a seeded construction gives the
    recipe's weights.

    On CUDA, in eval mode and with gradients off, `forward` runs the fused kernel
    `bavt_fast.kernels.critic_mlp`; everywhere else plain torch, with the same result up to rounding.

    Quirk: a module starts in training mode, as every ``nn.Module`` does, and the fused kernel waits for
    ``.eval()``. The critics of `bavt_fast.searcher` score a whole wave in one call and need no such switch.

    Args:
        hidden_dim: H, the width of the embeddings.

    Raises:
        TypeError, ValueError: `hidden_dim` is not an integer of at least 1.
    """

    def __init__(self, hidden_dim: int = 768) -> None:
        super().__init__()
        hidden_dim = as_count("hidden_dim", hidden_dim, minimum=1)
        self.hidden_dim = hidden_dim
        self.predictor = nn.Sequential(nn.Linear(hidden_dim, hidden_dim * 2), nn.ReLU(), nn.Linear(hidden_dim * 2, 1))

    def forward(self, context_embeddings: Tensor) -> Tensor:
        """(batch, H) -> (batch, 1), in the dtype of the embeddings.

        Raises:
            TypeError: `context_embeddings` is not a tensor.
            ValueError: the last dimension of `context_embeddings` is not H.
        """
        if not isinstance(context_embeddings, Tensor):
            raise TypeError(f"context_embeddings: expected a Tensor, got {type(context_embeddings).__name__}")
        if context_embeddings.shape[-1:] != (self.hidden_dim,):
            raise ValueError(
                f"context_embeddings: expected shape (batch, {self.hidden_dim}), got "
                f"{tuple(context_embeddings.shape)}; build the head with hidden_dim set to the model's width"
            )
        weights = self._fused_weights(context_embeddings)
        if weights is not None:
            from bavt_fast.kernels import critic_mlp

            return critic_mlp(context_embeddings, *weights)
        result: Tensor = self.predictor(context_embeddings)
        return result

    def _fused_weights(self, context_embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """The kernel's weights where it does what `predictor` would: no gradients or autocast, layers as built, of the
        widths that they were built with, and no hooks, which pruning uses. None elsewhere."""
        if (
            not context_embeddings.is_cuda
            or context_embeddings.dim() != 2
            or self.training
            or torch.is_grad_enabled()
            or torch.is_autocast_enabled()
            or type(self.predictor) is not nn.Sequential
        ):
            return None
        layers: list[Any] = list(self.predictor)
        if [type(layer) for layer in layers] != [nn.Linear, nn.ReLU, nn.Linear]:
            return None
        if any(module._forward_hooks or module._forward_pre_hooks for module in (self.predictor, *layers)):
            return None
        first, _, last = layers
        if first.bias is None or last.bias is None:
            return None
        units = 2 * self.hidden_dim
        if (first.weight.shape, last.weight.shape) != ((units, self.hidden_dim), (1, units)):
            return None
        return first.weight, first.bias, last.weight, last.bias


def head_shapes(hidden_dim: int) -> dict[str, tuple[int, ...]]:
    """The shapes of a `ResidualValuePredictor`'s weights. None is made for it: a width in a file may be any."""
    units = 2 * hidden_dim
    return {
        "predictor.0.weight": (units, hidden_dim),
        "predictor.0.bias": (units,),
        "predictor.2.weight": (1, units),
        "predictor.2.bias": (1,),
    }


class ContextReader(Protocol):
    """A generator that tells how its model sees nodes, such as `TorchGenerator`."""

    def read(self, nodes: Sequence[Node]) -> Sequence[Tensor | Exception]:
        """The hidden state (H,) at the last token of each node's context, or why there is none."""


class HiddenStateCritic:
    """A value head on hidden states: those that steps left behind, or those at the end of what comes before the next.

    Without a `reader` it reads the state of each step's last token, which the generator hands over with the step: that
    costs nothing. With one it reads the state at the end of the node's context. Where a task gives every state a prompt
    of its own, that is the prompt, in which the model sees the state as it is for the first time. To compute it is what
    the next step from the node would have cost, and does not have to be done again for that.

    The states of a wave are stacked where they lie, moved to the head's device and dtype in one piece, and judged in
    one call; one copy brings the scores to the host.

    Args:
        head: maps ``(rows, H)`` to ``(rows, 1)`` or ``(rows,)``, such as `ResidualValuePredictor`; it is put into eval
            mode. One without parameters takes the states as they come.
        predicts: "value", "residual", or "logit" for a head whose sigmoid is the value.
        reader: the search's own generator, to read contexts; None to read steps.
    """

    def __init__(
        self,
        head: nn.Module,
        predicts: Literal["value", "residual", "logit"] = "residual",
        *,
        reader: ContextReader | None = None,
    ) -> None:
        if predicts not in ("value", "residual", "logit"):
            raise ValueError(f"predicts: expected 'value', 'residual' or 'logit', got {predicts!r}")
        if not isinstance(head, nn.Module):
            raise TypeError(f"head: expected a torch.nn.Module, got {type(head).__name__}; wrap a function in one")
        if reader is not None and not callable(getattr(reader, "read", None)):
            raise TypeError(
                f"reader: expected a generator with read(nodes), such as TorchGenerator, got {reader!r:.80}"
            )
        self.head = head.eval()
        self.reader = reader
        self.predicts: Literal["value", "residual"] = "residual" if predicts == "residual" else "value"
        self._sigmoid = predicts == "logit"
        weights = list(head.parameters())
        device = weights[0].device if weights else torch.device("cpu")
        self._versions: list[tuple[int, int]] = []
        self._threads = ComputeThreads(device, sum(weight.numel() for weight in weights), layers=2)

    @torch.no_grad()
    def score(self, candidates: Sequence[Node]) -> list[float | Exception]:
        """One call of the head for all candidates. Where a context could not be read there is the reason instead.

        Raises:
            TypeError: a step carries no hidden state.
            ValueError: hidden states of several shapes, or a head that gives more than a number for each.
        """
        check_nodes("candidates", candidates)
        if not candidates:
            return []
        if self.reader is not None:
            return self._score_contexts(self.reader.read(candidates), len(candidates))
        states: list[Any] = [None if node.step is None else node.step.hidden for node in candidates]
        if any(state is None for state in states):
            raise TypeError(
                "critic: a step without a hidden state; use a generator that sets Step.hidden, such as TorchGenerator"
            )
        return list(self._score([torch.as_tensor(state) for state in states]))

    def _score_contexts(self, read: Sequence[Tensor | Exception], count: int) -> list[float | Exception]:
        if not isinstance(read, Sequence) or len(read) != count:
            raise ValueError(f"reader: expected a list of {count} states, one for each node, got {read!r:.80}")
        states = [torch.as_tensor(state) for state in read if not isinstance(state, Exception)]
        scores = iter(self._score(states) if states else ())
        return [state if isinstance(state, Exception) else next(scores) for state in read]

    def _score(self, states: list[Tensor]) -> list[float]:
        with self._threads.of_pass(len(states)), self._queue(states):
            return self._scores(states)

    def _queue(self, states: list[Tensor]) -> AbstractContextManager[Any]:
        """On a GPU, states that are complete are judged beside the passes that are queued, where the weights are those
        of the last call: what changed them may be queued too."""
        if not are_complete(states):
            return nullcontext()
        weights = list(chain(self.head.parameters(), self.head.buffers()))
        versions = [version_of(weight) for weight in weights]
        is_known, self._versions = versions == self._versions, versions
        devices = {value.device for value in (*states, *weights)}
        return side_stream(states[0].device) if is_known and len(devices) == 1 else nullcontext()

    def _scores(self, states: list[Tensor]) -> list[float]:
        stacked = self._stacked(states)
        try:
            outputs = self.head(stacked)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise ValueError(f"head: expected one for states of shape {tuple(stacked.shape)}, got: {error}") from error
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else f"{outputs!r:.80}"
        if shape not in ((len(states), 1), (len(states),)):
            raise ValueError(f"head: expected outputs of shape ({len(states)}, 1), got {shape}")
        outputs = outputs.float().reshape(-1)
        scores: list[float] = (outputs.sigmoid() if self._sigmoid else outputs).tolist()
        return scores

    def _stacked(self, states: list[Tensor]) -> Tensor:
        """(rows, H) where the head's first weight is, in its dtype."""
        shapes = {tuple(state.shape) for state in states}
        if len(shapes) > 1 or len(min(shapes)) != 1:
            raise ValueError(f"critic: expected hidden states of one shape (H,), got {sorted(shapes)}")
        weights = chain(self.head.parameters(), self.head.buffers())
        like = next((weight for weight in weights if weight.is_floating_point()), states[0])
        if any(state.device != states[0].device for state in states):
            states = [state.to(like.device) for state in states]
        return torch.stack(states).to(like.device, like.dtype)
