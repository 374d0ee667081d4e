"""The head of a critic: what it learns of labelled states, how it is judged, and what it does not take."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from bavt_fast.training.critic import fit_head  # noqa: E402
from bavt_fast.training.critic.fit import _figures  # noqa: E402


def made_up(states: int = 1500, width: int = 12, seed: int = 0) -> tuple[Any, Any, Any]:
    """States on scales of their own, whose labels follow from two of their numbers; ten states a question."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(states, width))
    chance = 1 / (1 + np.exp(-3 * hidden[:, 0] * np.sign(hidden[:, 1])))
    labels = rng.random(states) < chance
    scaled = hidden * rng.uniform(0.01, 30, width) + rng.normal(size=width) * 10
    return (
        torch.tensor(scaled, dtype=torch.float32),
        torch.tensor(labels, dtype=torch.float32),
        torch.arange(states) // 10,
    )


def test_a_head_learns_what_can_be_learnt_and_is_calibrated() -> None:
    hidden, labels, questions = made_up()
    fitted = fit_head(hidden, labels, questions, seed=1)
    figures = fitted.figures
    assert figures.auc > 0.72
    assert figures.brier < 0.85 * figures.base_brier
    assert figures.states + figures.trained_on == 1500
    assert figures.states == 300
    assert sum(states for *_, states in figures.reliability) == 300
    for value, label, states in figures.reliability:
        assert abs(value - label) < 0.05 + 2.5 * (0.25 / states) ** 0.5
    values = fitted.head(hidden).detach().sigmoid().squeeze(1)
    assert float(((values - labels) ** 2).mean()) < 0.8 * figures.base_brier  # scaling and slope are in the weights


@pytest.mark.parametrize("constant", [0.0, 0.1, -300.0])
def test_what_never_varied_in_training_does_not_count(constant: float) -> None:
    hidden, labels, questions = made_up()
    hidden = torch.cat([torch.full((len(hidden), 1), constant), hidden, 1e-9 * hidden[:, :2]], 1)
    fitted = fit_head(hidden, labels, questions, seed=1, epochs=20)
    other = hidden.clone()
    other[:, 0] += torch.linspace(-5.0, 5.0, len(hidden))
    with torch.no_grad():
        assert fitted.head(other).equal(fitted.head(hidden))
        other[:, -2] += 1e-8  # what varied does, be it ever so little
        assert not torch.allclose(fitted.head(other), fitted.head(hidden), atol=1e-3)


def test_a_head_that_knows_the_depth_alone_is_found_out() -> None:
    """Its AUC over all states is high, and at each depth it guesses."""
    rng = np.random.default_rng(3)
    depths = torch.tensor(rng.integers(1, 5, 4000))
    labels = torch.tensor(rng.random(4000) < np.array([0, 0.05, 0.1, 0.6, 0.95])[depths], dtype=torch.float32)
    hidden = torch.cat([torch.eye(5)[depths], torch.tensor(rng.normal(size=(4000, 3)), dtype=torch.float32)], 1)
    figures = fit_head(hidden, labels, torch.arange(4000) // 10, depths=depths).figures
    assert figures.auc > 0.8
    assert sorted(figures.auc_by_depth) == [1, 2, 3, 4]
    assert all(0.3 < area < 0.7 for area in figures.auc_by_depth.values())
    assert 0.4 < figures.auc_within_depths < 0.6


def test_the_area_within_depths_counts_pairs_of_one_depth() -> None:
    values, labels = torch.tensor([0.9, 0.2, 0.4, 0.3, 0.1, 0.8]), torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    figures = _figures(values, labels, torch.tensor([1, 1, 1, 2, 2, 2]), 0)
    # Depth 1: 2 of 2 pairs in order. Depth 2: none of 2.
    assert (figures.auc_by_depth, figures.auc_within_depths) == ({1: 1.0, 2: 0.0}, 0.5)
    one_class = _figures(values, torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 0.0]), torch.tensor([1, 1, 1, 2, 2, 2]), 0)
    assert (one_class.auc_by_depth, one_class.auc_within_depths) == ({2: 0.5}, 0.5)
    assert np.isnan(_figures(values, labels, None, 0).auc_within_depths)


def test_labels_that_follow_from_nothing_are_not_learnt() -> None:
    hidden, labels, questions = made_up()
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    figures = fit_head(hidden, shuffled, questions, seed=1).figures
    assert 0.38 < figures.auc < 0.62
    assert figures.brier < 1.1 * figures.base_brier  # unsure, and says so


def test_a_residual_head_learns_the_difference_to_the_parent() -> None:
    hidden, labels, questions = made_up()
    parents = torch.full_like(labels, 0.5)
    fitted = fit_head(hidden, labels, questions, parent_labels=parents, predicts="residual", seed=1)
    assert fitted.figures.auc > 0.72
    outputs = fitted.head(hidden).detach().squeeze(1)
    assert float(((outputs - (labels - parents)) ** 2).mean()) < 0.2


def test_fitting_is_repeatable_and_leaves_the_random_state_alone() -> None:
    hidden, labels, questions = made_up(200)
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first, second = (fit_head(hidden, labels, questions, seed=2, epochs=3).head.state_dict() for _ in range(2))
    assert torch.random.get_rng_state().equal(before)
    assert all(first[name].equal(second[name]) for name in first)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"hidden": torch.zeros(20)}, "hidden: expected"),
        ({"hidden": torch.full((20, 3), float("inf"))}, "hidden: expected finite"),
        ({"labels": torch.zeros(19)}, r"labels: expected shape \(20,\)"),
        ({"labels": torch.full((20,), 1.5)}, "labels: expected numbers in"),
        ({"labels": torch.full((20,), float("nan"))}, "labels: expected numbers in"),
        ({"questions": torch.zeros(20, dtype=torch.long)}, "questions: expected states of two questions"),
        ({"labels": torch.ones(20)}, r"labels: expected some that differ, got 20 that are all 1\.0"),
        ({"predicts": "residual"}, "parent_labels: expected one"),
        ({"held_out_share": 1.0}, "held_out_share: expected"),
        ({"held_out_share": float("nan")}, "held_out_share: expected"),
        ({"seed": -1}, "seed: expected"),
        ({"hidden": torch.zeros(20, 0)}, "hidden: expected"),
        ({"predicts": "value"}, "predicts: expected 'logit' or 'residual', got 'value'"),
        ({"depths": torch.zeros(19, dtype=torch.long)}, r"depths: expected shape \(20,\)"),
        ({"batch_size": 0}, "batch_size: expected an integer of at least 1"),
        ({"hidden": torch.randn(20, 3) * 2e-42}, "hidden: expected numbers that float32 can scale, got some up to"),
        ({"hidden": torch.arange(60).view(20, 3) * 5e36}, "hidden: expected numbers that float32 can scale, got"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change: dict[str, Any], match: str) -> None:
    given = {
        "hidden": torch.zeros(20, 3),
        "labels": torch.arange(20) % 2 * 1.0,
        "questions": torch.arange(20),
        **change,
    }
    with pytest.raises(ValueError, match=match):
        fit_head(**given)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("questions", torch.ones(20)),
        ("depths", torch.ones(20)),
        ("labels", ["yes"] * 20),
        ("held_out_share", "half"),
        ("seed", "one"),
    ],
)
def test_columns_of_something_else_are_refused(name: str, value: Any) -> None:
    given = {"hidden": torch.zeros(20, 3), "labels": torch.arange(20) % 2, "questions": torch.arange(20), name: value}
    with pytest.raises(TypeError, match=f"{name}: expected"):
        fit_head(**given)


def test_labels_of_parents_are_not_looked_at_where_values_are_learnt() -> None:
    hidden, labels, questions = made_up(60)
    alone = fit_head(hidden, labels, questions, epochs=2)
    for parents in (torch.full((60,), float("nan")), torch.zeros(3)):
        found = fit_head(hidden, labels, questions, parent_labels=parents, epochs=2)
        assert repr(found.figures) == repr(alone.figures)


@contextlib.contextmanager
def doubles() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("place", [contextlib.nullcontext, torch.no_grad, torch.inference_mode, doubles])
def test_numbers_of_every_type_are_learnt_from_wherever_it_is_called(place: Any) -> None:
    hidden, labels, questions = made_up(200)
    hidden = hidden.bfloat16().float()
    with place():
        fitted = fit_head(hidden, labels, questions, seed=1, epochs=2)
        assert {weight.dtype for weight in fitted.head.parameters()} == {torch.float32}
        for state, label in ((hidden.bfloat16(), labels.bool()), (hidden.double(), labels.long())):
            again = fit_head(state, label, questions.int(), seed=1, epochs=2)
            assert repr(again.figures) == repr(fitted.figures)  # some are NaN
        own = (hidden * 1.0, labels * 1.0)  # made here
        for columns in ((own[0].numpy(), own[1].numpy(), questions.numpy()), (*own, questions)):
            assert repr(fit_head(*columns, seed=1, epochs=2).figures) == repr(fitted.figures)


@pytest.mark.parametrize("predicts", ["logit", "residual"])
@pytest.mark.parametrize("seed", range(5))
def test_a_question_that_alone_has_bad_states_is_learnt_from(seed: int, predicts: Any) -> None:
    """Held out, it would leave labels that are all the same to learn from, and a head that knows nothing."""
    hidden, labels, _ = made_up(200)
    order = labels.argsort()  # 0 first
    hidden, labels = hidden[order], labels[order]
    bad = int((labels == 0).sum())
    questions = torch.cat([torch.zeros(bad, dtype=torch.long), torch.arange(200 - bad) % 4 + 1])
    options: dict[str, Any] = {"predicts": predicts, "parent_labels": torch.full((200,), 0.5), "epochs": 3}
    fitted = fit_head(hidden, labels, questions, seed=seed, **options)
    assert fitted.figures.base_brier == 0.0  # of good states alone: the bad ones are among those learnt from
    apart = (questions > 0).long()
    with pytest.raises(ValueError, match="labels: expected some that differ among the questions that are learnt from"):
        fit_head(hidden, labels, apart, seed=seed, **options)
