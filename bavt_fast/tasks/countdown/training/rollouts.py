"""Steps that the model itself samples: what it visits becomes training data, its error rates the report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from bavt_fast.tasks.countdown.task import MAX_VALUE, OPERATORS
from bavt_fast.tasks.countdown.training.batches import encode, layout_of
from bavt_fast.tasks.countdown.training.states import Bools, Ints, apply_steps
from bavt_fast.tasks.countdown.training.vocabulary import CLOSE_ID, EQUALS_ID, FIRST_OPERATOR_ID, LEFT_ID
from bavt_fast.training.model import JointModel
from bavt_fast.training.precision import mixed_precision


@dataclass(frozen=True)
class Visit:
    """One level of a rollout: steps sampled from some states, which are legal, the critic's logit of each child."""

    numbers: Ints
    targets: Ints
    steps: Ints
    legal: Bools
    child_logits: np.ndarray


@torch.no_grad()
def sample_steps(model: JointModel, numbers: Ints, targets: Ints, temperature: float, seed: int) -> Visit:
    """One sampled step per state, decoded in one batch with a key-value cache."""
    count, k = numbers.shape
    layout = layout_of(k)
    no_step = np.stack([numbers[:, 0], np.zeros(count), numbers[:, 1], np.zeros(count)], axis=1).astype(np.int32)
    ids = encode(numbers, targets, no_step)[:, : layout.step_start]
    device = model.device
    generator = torch.Generator(device).manual_seed(seed)
    cache, sampled = None, []
    inputs = ids.to(device)
    with mixed_precision(device):
        for _ in range(layout.length - layout.step_start):
            output = model.lm.model(input_ids=inputs, past_key_values=cache, use_cache=True)
            cache, hidden = output.past_key_values, output.last_hidden_state[:, -1]
            logits = model.lm.lm_head(hidden).float() / temperature
            inputs = torch.multinomial(logits.softmax(-1), 1, generator=generator)
            sampled.append(inputs)
        values = model.head(hidden).squeeze(-1).float()
    tokens = torch.cat(sampled, dim=1).cpu().numpy().astype(np.int32)
    steps = np.stack([tokens[:, 0], tokens[:, 1] - FIRST_OPERATOR_ID, tokens[:, 2], tokens[:, 4]], axis=1)
    return Visit(numbers, targets, steps, _legal(numbers, steps, tokens), values.cpu().numpy())


def _legal(numbers: Ints, steps: Ints, tokens: Ints) -> Bools:
    """Whether each decoded step is a legal one written in the canonical form."""
    a, op, b, result = steps.T.astype(np.int64)
    shape = (tokens[:, 3] == EQUALS_ID) & (tokens[:, 5] == LEFT_ID) & (tokens[:, -1] == CLOSE_ID)
    shape &= (op >= 0) & (op < len(OPERATORS)) & (np.maximum(a, b) <= MAX_VALUE) & (result <= MAX_VALUE)
    uses_a, uses_b = (numbers == a[:, None]).sum(1), (numbers == b[:, None]).sum(1)
    shape &= (uses_a > 0) & (uses_b > (a == b)) & (a >= b)
    exact = np.where(b > 0, a == result * b, False)
    outcomes = [a + b == result, a - b == result, a * b == result, exact]
    legal = shape & np.select([op == i for i in range(len(OPERATORS))], outcomes, default=False)
    legal[legal] = (apply_steps(numbers[legal], steps[legal]) == tokens[legal, 6:-1]).all(axis=1)
    return legal


def rollout(
    model: JointModel, numbers: Ints, targets: Ints, temperature: float, seed: int, several: int = 1
) -> list[Visit]:
    """Samples every problem down to one number; illegal steps end a rollout. One visit per level.

    With ``several`` steps from each state, it goes on with one of them, as a search might: half of the time with the
    one that the critic likes best, which is where it can be wrong, and otherwise with the first that is legal.
    """
    rng = np.random.default_rng(seed)
    visits = []
    while numbers.shape[1] > 1 and len(numbers):
        numbers, targets = np.repeat(numbers, several, axis=0), np.repeat(targets, several)
        visit = sample_steps(model, numbers, targets, temperature, seed + numbers.shape[1])
        visits.append(visit)
        rows = _gone_on_with(visit, several, rng)
        numbers, targets = apply_steps(numbers[rows], visit.steps[rows]), targets[rows]
    return visits


def _gone_on_with(visit: Visit, several: int, rng: np.random.Generator) -> Ints:
    """A legal step of each state that has one, where ``several`` steps in a row are from the same."""
    liked = np.repeat(rng.random(len(visit.legal) // several) < 0.5, several)
    scores = np.where(visit.legal, np.where(liked, visit.child_logits, 0.0), -np.inf).reshape(-1, several)
    rows = scores.argmax(1) + several * np.arange(len(scores))
    return rows[visit.legal[rows]]


def solved_share(visits: list[Visit]) -> float:
    """The share of a rollout's problems that end on their target (pass@1)."""
    last = visits[-1]
    if last.numbers.shape[1] != 2:
        return 0.0
    return float(((last.steps[:, 3] == last.targets) & last.legal).sum() / len(visits[0].numbers))
