"""A step generator over any transformers causal language model.

Everything asked for in one call is decoded as one batch with a key-value cache. A step ends with the token whose text
holds the delimiter (or with the model's end-of-text token). The hidden state that a critic reads comes from the same
forward passes: it is the last layer's state at the step's last token before the delimiter, the one that predicted the
delimiter, so nothing is ever encoded again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bavt_fast.protocols import FinishReason, Sampling, Step, StepRequest

__all__ = ["TorchGenerator"]

NEW_MASS = 1e-4
"""Where less than this share of the probability is left to steps not tried yet, nothing new is proposed."""


class TorchGenerator:
    """Samples steps from a causal language model.

    Args:
        model: a transformers causal LM; its device and dtype are used as they are, and it is put into eval mode.
        tokenizer: its tokenizer.
        delimiter: text that ends a step.
        temperature: softmax temperature, > 0.
        without_replacement: never sample a step again from the same node: the probability of the steps in
            ``StepRequest.tried`` is taken out of the distribution token by token (Shi et al. 2020, "Incremental
            Sampling Without Replacement for Sequence Models"). Tokens that would only repeat are not spent.
        max_batch: sequences per forward pass; more are decoded in several batches.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        delimiter: str = "\n",
        temperature: float = 1.0,
        without_replacement: bool = True,
        max_batch: int = 256,
    ) -> None:
        is_number = isinstance(temperature, (int, float)) and not isinstance(temperature, bool)
        if not is_number or not 0 < temperature < float("inf"):
            raise ValueError(f"temperature: expected a finite number > 0, got {temperature!r}")
        if not delimiter:
            raise ValueError("delimiter: expected a non-empty str such as '\\n'")
        if isinstance(max_batch, bool) or not isinstance(max_batch, int) or max_batch < 1:
            raise ValueError(f"max_batch: expected an integer of at least 1, got {max_batch!r}")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.delimiter = delimiter
        self.temperature = float(temperature)
        self.without_replacement = without_replacement
        self.max_batch = max_batch
        self._pad_id = next((t for t in (tokenizer.pad_token_id, tokenizer.eos_token_id) if t is not None), 0)
        self._find_ends()

    def _find_ends(self) -> None:
        """bool (vocabulary,) each: whether a token ends a step, ends the text, is blank."""
        size = self.model.get_output_embeddings().weight.shape[0]
        texts = self.tokenizer.batch_decode([[i] for i in range(min(size, len(self.tokenizer)))])
        self._ends_step, self._ends_text, self._blank = (np.zeros(size, dtype=bool) for _ in range(3))
        self._ends_step[: len(texts)] = [self.delimiter in text for text in texts]
        self._blank[: len(texts)] = [not text.strip() for text in texts]
        eos = self.model.generation_config.eos_token_id
        self._ends_text[[eos] if isinstance(eos, int) else list(eos or [])] = True
        if not (self._ends_step | self._ends_text).any():
            raise ValueError(f"delimiter: no token of the tokenizer contains {self.delimiter!r}; choose another one")

    def propose(self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]) -> list[list[Step]]:
        """See `StepGenerator.propose`. Several candidates of one request are drawn independently of each other."""
        rows = [
            _Row(self._context_ids(request), request, candidate, limit)
            for request, count, limit in zip(states, counts, limits, strict=True)
            for candidate in range(count)
        ]
        for start in range(0, len(rows), self.max_batch):
            self._decode(rows[start : start + self.max_batch])
        finished = iter(rows)
        return [[step for _ in range(count) if (step := self._step(next(finished))) is not None] for count in counts]

    def _context_ids(self, request: StepRequest) -> list[int]:
        """The prompt's tokens, and those of the steps since as the model made them."""
        ids = [*self.tokenizer(request.prompt)["input_ids"], *request.token_ids]
        if not ids:
            raise ValueError(f"states: expected a text of at least one token to continue, got {request.prompt!r}")
        return ids

    @torch.no_grad()
    def _decode(self, rows: list[_Row]) -> None:
        device = self.model.device
        longest = max(len(row.prompt) for row in rows)
        ids = torch.tensor([[self._pad_id] * (longest - len(row.prompt)) + row.prompt for row in rows], device=device)
        mask = torch.tensor([[0] * (longest - len(row.prompt)) + [1] * len(row.prompt) for row in rows], device=device)
        positions = (mask.cumsum(1) - 1).clamp_min(0)
        cache = None
        while True:
            output = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                output_hidden_states=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            probabilities = self._probabilities(output.logits[:, -1].float(), rows)
            hidden = output.hidden_states[-1][:, -1]
            tokens = [self._sample(row, probabilities[i], hidden[i]) for i, row in enumerate(rows)]
            if all(row.done for row in rows):
                return
            ids = torch.tensor(tokens, device=device)[:, None]
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            positions = positions[:, -1:] + 1

    def _probabilities(self, logits: torch.Tensor, rows: list[_Row]) -> np.ndarray:
        """float64 (rows, vocabulary), by each request's sampling settings or else this generator's."""
        wanted = [row.sampling.temperature for row in rows]
        temperatures = [self.temperature if t is None else t for t in wanted]
        divisors = torch.tensor([t or 1.0 for t in temperatures], device=logits.device)[:, None]
        probabilities: np.ndarray = (logits / divisors).softmax(-1).double().cpu().numpy()
        for i, row in enumerate(rows):
            if temperatures[i] == 0.0:
                best = probabilities[i].argmax()
                probabilities[i] = 0.0
                probabilities[i, best] = 1.0
            elif row.sampling.top_k is not None or row.sampling.top_p is not None:
                probabilities[i] = _truncated(probabilities[i], row.sampling)
        return probabilities

    def _sample(self, row: _Row, probabilities: np.ndarray, hidden: torch.Tensor) -> int:
        """Draws the row's next token, or padding where the row is done."""
        if row.done:
            return int(self._pad_id)
        weights = row.untried(probabilities) if self.without_replacement else probabilities
        cumulative = np.cumsum(weights)
        if cumulative[-1] < NEW_MASS:
            row.exhausted = row.done = True
            return int(self._pad_id)
        token = int(np.searchsorted(cumulative, row.random.random() * cumulative[-1], side="right"))
        token = min(token, int(np.flatnonzero(weights)[-1]))
        row.append(token, float(probabilities[token]))
        row.hidden = hidden
        row.written = row.written or not (self._blank[token] or self._ends_text[token])
        if self._ends_text[token]:
            row.finish_reason = "end"
        elif self._ends_step[token] and row.written:  # line breaks before a step end nothing
            row.finish_reason = "delimiter"
        row.done = row.finish_reason != "limit" or len(row.tokens) >= row.limit
        return token

    def _step(self, row: _Row) -> Step | None:
        if not row.tokens:
            return None
        return Step(
            self.tokenizer.decode(row.tokens, skip_special_tokens=True),
            len(row.tokens),
            row.finish_reason,
            len(row.prompt),
            hidden=row.hidden,
            token_ids=tuple(row.tokens),
            token_probabilities=tuple(row.probabilities),
        )


class _Row:
    """One candidate while it is decoded."""

    def __init__(self, prompt: list[int], request: StepRequest, candidate: int, limit: int) -> None:
        self.prompt = prompt
        self.limit = limit
        # A stream of its own per request and candidate: the batch around it does not matter.
        self.random = np.random.Generator(np.random.Philox(key=[request.seed, candidate]))
        self.tokens: list[int] = []
        self.probabilities: list[float] = []
        self.hidden: torch.Tensor | None = None
        self.sampling = request.sampling
        self.done = limit <= 0
        self.exhausted = False
        self.written = False  # whether there is more than white space
        self.finish_reason: FinishReason = "limit"
        self._following = [step for step in request.tried if step.token_ids]  # tried steps that start as this one does

    def append(self, token: int, probability: float) -> None:
        at = len(self.tokens)
        self.tokens.append(token)
        self.probabilities.append(probability)
        self._following = [s for s in self._following if len(s.token_ids) > at + 1 and s.token_ids[at] == token]

    def untried(self, probabilities: np.ndarray) -> np.ndarray:
        """Next-token probabilities without the mass of the tried steps that run through each token."""
        if not self._following:
            return probabilities
        weights, at = probabilities.copy(), len(self.tokens)
        for step in self._following:
            token = step.token_ids[at]
            weights[token] -= probabilities[token] * float(np.prod(step.token_probabilities[at + 1 :]))
        weights[weights < 1e-9] = 0.0
        return weights


def _truncated(probabilities: np.ndarray, sampling: Sampling) -> np.ndarray:
    """The most likely tokens alone: at most top_k of them, and no more than it takes to reach top_p."""
    order = np.argsort(-probabilities, kind="stable")
    kept = len(order) if sampling.top_k is None else min(sampling.top_k, len(order))
    if sampling.top_p is not None:
        reached = int(np.searchsorted(np.cumsum(probabilities[order]), sampling.top_p)) + 1
        kept = min(kept, reached)
    truncated = np.zeros_like(probabilities)
    truncated[order[:kept]] = probabilities[order[:kept]]
    return truncated / truncated.sum()
