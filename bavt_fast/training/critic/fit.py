"""A value head fitted to labelled hidden states, and how good it is on questions that it has not seen."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from bavt_fast._checks import as_count, as_number, as_seed
from bavt_fast.critics.value_head import ResidualValuePredictor
from bavt_fast.training.calibration import calibrate
from bavt_fast.training.figures import auc

__all__ = ["Figures", "Fitted", "fit_head"]

Predicts = Literal["logit", "residual"]
BINS = 10


@dataclass(frozen=True)
class Figures:
    """How good a head is, on questions held out from its training.

    Attributes:
        states: how many it was judged on; trained_on: how many it learnt from.
        auc: area under the ROC curve, with labels above 1/2 as positives; NaN with one class only. Where deep states
            are likelier to be good, a head that knows the depth and nothing else has a high one.
        auc_by_depth: the same by steps from the root, without the depths that have one class only. auc_within_depths
            is their mean, weighted by pairs: the chance that of a good and a bad state of one depth the good one has
            the higher value; NaN without depths.
        brier: mean square of value minus label; base_brier that of the mean label for every state.
        reliability: (mean value, mean label, states) of the states by tenths of their value, empty tenths left out.
    """

    states: int
    trained_on: int
    auc: float
    auc_by_depth: dict[int, float]
    auc_within_depths: float
    brier: float
    base_brier: float
    reliability: tuple[tuple[float, float, int], ...]


@dataclass(frozen=True)
class Fitted:
    """A head, what it predicts, and its figures."""

    head: ResidualValuePredictor
    predicts: Predicts
    figures: Figures


def fit_head(
    hidden: Tensor,
    labels: Tensor,
    questions: Tensor,
    *,
    parent_labels: Tensor | None = None,
    depths: Tensor | None = None,
    predicts: Predicts = "logit",
    held_out_share: float = 0.2,
    epochs: int = 60,
    batch_size: int = 256,
    seed: int = 0,
) -> Fitted:
    """Fits Linear(H, 2H) -> ReLU -> Linear(2H, 1) by AdamW, keeps the epoch that does best on held-out questions, and
    calibrates it there: a slope and an offset (Platt 1999), folded into the last layer.

    Args:
        hidden: (states, H); this and the labels are taken as float32.
        labels: (states,), in [0, 1].
        questions: integers (states,): the states of a question are held out together.
        parent_labels: (states,), for ``predicts="residual"``; not looked at without it.
        depths: integers (states,), for the figures.
        predicts: "logit": the head's sigmoid is the value; "residual": the head is the value less the parent's.

    Raises:
        TypeError: a column holds no numbers, or a setting has the wrong type.
        ValueError: shapes that do not go together, numbers that are not finite or out of range (of hidden states also
            such that float32 cannot scale), labels that are all the same, also without the questions held out, or fewer
            than two questions.
    """
    if predicts not in ("logit", "residual"):
        raise ValueError(f"predicts: expected 'logit' or 'residual', got {predicts!r:.80}")
    epochs, batch_size = as_count("epochs", epochs, minimum=1), as_count("batch_size", batch_size, minimum=1)
    held_out_share, seed = as_number("held_out_share", held_out_share), as_seed("seed", seed)
    with torch.inference_mode(False), torch.enable_grad():  # wherever it is called
        hidden, labels, questions = _floats("hidden", hidden), _floats("labels", labels), _whole("questions", questions)
        needs_parents = predicts == "residual" and parent_labels is not None
        parents = _floats("parent_labels", parent_labels) if needs_parents else None
        at = None if depths is None else _whole("depths", depths)
        _check(hidden, labels, questions, parents if predicts == "residual" else labels, at)
        held_out = _held_out(questions, labels, held_out_share, seed)
        targets = labels if predicts == "logit" or parents is None else labels - parents
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head = _trained(hidden, targets, held_out, predicts, epochs, batch_size)
        of_parents = None if parents is None else parents[held_out]
        values = _values(head, hidden[held_out], labels[held_out], of_parents, predicts)
    by_depth = None if at is None else at[held_out]
    return Fitted(head, predicts, _figures(values, labels[held_out], by_depth, int((~held_out).sum())))


@torch.no_grad()
def _values(
    head: ResidualValuePredictor, hidden: Tensor, labels: Tensor, parents: Tensor | None, predicts: Predicts
) -> Tensor:
    """What the head says of states; one that predicts logits is calibrated on them."""
    outputs = head(hidden).squeeze(1)
    if predicts == "logit":
        last: nn.Linear = head.predictor[2]  # type: ignore[assignment]
        return calibrate(last, outputs, labels).sigmoid()
    assert parents is not None, "it was checked"
    return (parents + outputs).clamp(0.0, 1.0)


def _column(name: str, values: Any) -> Tensor:
    try:
        return torch.as_tensor(values).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name}: expected a tensor of numbers, got {values!r:.80}") from error


def _floats(name: str, values: Any) -> Tensor:
    column = _column(name, values).float()
    return column.clone() if column.is_inference() else column  # else nothing could be learnt from it


def _whole(name: str, values: Any) -> Tensor:
    column = _column(name, values)
    if column.is_floating_point() or column.is_complex() or column.dtype == torch.bool:
        raise TypeError(f"{name}: expected integers, got a tensor of {column.dtype}")
    return column.long()


def _check(
    hidden: Tensor, labels: Tensor, questions: Tensor, parent_labels: Tensor | None, depths: Tensor | None
) -> None:
    if hidden.ndim != 2 or len(hidden) < 2 or not hidden.shape[1]:
        raise ValueError(f"hidden: expected (states, H) with two states or more, got {tuple(hidden.shape)}")
    if parent_labels is None:
        raise ValueError("parent_labels: expected one for each state where residuals are predicted, got none")
    columns = {"labels": labels, "questions": questions, "parent_labels": parent_labels, "depths": depths}
    for name, column in columns.items():
        if column is not None and column.shape != (len(hidden),):
            raise ValueError(f"{name}: expected shape ({len(hidden)},), got {tuple(column.shape)}")
    if not hidden.isfinite().all():
        raise ValueError("hidden: expected finite numbers, got NaN or infinity")
    for name, column in (("labels", labels), ("parent_labels", parent_labels)):
        if not ((column >= 0) & (column <= 1)).all():
            raise ValueError(f"{name}: expected numbers in [0, 1]")
    if len(labels.unique()) < 2:
        raise ValueError(f"labels: expected some that differ, got {len(labels)} that are all {float(labels[0])}")
    if len(questions.unique()) < 2:
        raise ValueError("questions: expected states of two questions or more, so that some can be held out")


def _held_out(questions: Tensor, labels: Tensor, share: float, seed: int) -> Tensor:
    """bool (states,): the states of at least one question, and not of all that differ in their labels."""
    if not 0.0 < share < 1.0:
        raise ValueError(f"held_out_share: expected a number between 0 and 1, got {share}")
    names = questions.unique()
    order = names[torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))]
    count = min(max(round(share * len(names)), 1), len(names) - 1)
    for first in range(len(names)):
        held_out = torch.isin(questions, order.roll(-first)[:count])
        if len(labels[~held_out].unique()) > 1:
            return held_out
    raise ValueError(
        f"labels: expected some that differ among the questions that are learnt from, got {len(names)} questions of "
        f"which {count} are held out, and labels that differ from one question to another alone; take more questions"
    )


def _trained(
    hidden: Tensor, targets: Tensor, held_out: Tensor, predicts: Predicts, epochs: int, batch_size: int
) -> ResidualValuePredictor:
    inside, wanted = hidden[~held_out], targets[~held_out]
    mean, spread = inside.mean(0), inside.std(0, correction=0)
    spread[spread <= 1e-6 * inside.abs().amax(0)] = torch.inf  # constant: nothing is learnt of it, its weights become 0
    scaled, scaled_out = (inside - mean) / spread, (hidden[held_out] - mean) / spread
    loss = binary_cross_entropy_with_logits if predicts == "logit" else mse_loss
    head = ResidualValuePredictor(hidden.shape[1]).float()  # also where another type is the default
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.05)
    best, best_loss, since = copy.deepcopy(head.state_dict()), float("inf"), 0
    for _ in range(epochs):
        head.train()
        for rows in torch.randperm(len(scaled)).split(batch_size):
            optimizer.zero_grad()
            loss(head.predictor(scaled[rows]).squeeze(1), wanted[rows]).backward()
            optimizer.step()
        with torch.no_grad():
            held = float(loss(head.predictor(scaled_out).squeeze(1), targets[held_out]))
        since += 1
        if held < best_loss:
            best, best_loss, since = copy.deepcopy(head.state_dict()), held, 0
        if since == 8:
            break
    head.load_state_dict(best)
    with torch.no_grad():  # the scaling of the inputs goes into the first layer
        first: nn.Linear = head.predictor[0]  # type: ignore[assignment]
        first.weight.div_(spread)
        first.bias.sub_(first.weight @ mean)
        if not (first.weight.isfinite().all() and first.bias.isfinite().all()):
            raise ValueError(
                f"hidden: expected numbers that float32 can scale, got some up to {float(inside.abs().max()):g} in size"
            )
    return head.eval()


def _figures(values: Tensor, labels: Tensor, depths: Tensor | None, trained_on: int) -> Figures:
    positive = labels > 0.5
    tenths = (values * BINS).long().clamp(max=BINS - 1)
    reliability = [
        (float(values[tenths == tenth].mean()), float(labels[tenths == tenth].mean()), int((tenths == tenth).sum()))
        for tenth in range(BINS)
        if (tenths == tenth).any()
    ]
    by_depth, pairs = {}, 0
    within = 0.0
    for depth in [] if depths is None else depths.unique().tolist():
        rows = depths == depth
        of_depth = int(positive[rows].sum()) * int((~positive[rows]).sum())
        if of_depth:
            by_depth[int(depth)] = auc(values[rows].numpy(), positive[rows].numpy())
            pairs += of_depth
            within += of_depth * by_depth[int(depth)]
    return Figures(
        states=len(values),
        trained_on=trained_on,
        auc=auc(values.numpy(), positive.numpy()),
        auc_by_depth=by_depth,
        auc_within_depths=within / pairs if pairs else math.nan,
        brier=float(((values - labels) ** 2).mean()),
        base_brier=float(labels.var(correction=0)),
        reliability=tuple(reliability),
    )
