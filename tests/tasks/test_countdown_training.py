"""Countdown's half of the training: what is held out stays out, labels are the solver's, a short run searches."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from countdown_rules import brute_force_solvable, brute_force_steps, text_of  # noqa: E402

import bavt_fast as bavt  # noqa: E402
from bavt_fast.model_folder import embedded_folder, load_folder  # noqa: E402
from bavt_fast.protocols import Step  # noqa: E402
from bavt_fast.tasks.countdown import Countdown, CountdownState, load_game24  # noqa: E402
from bavt_fast.tasks.countdown.training import course, make_course, rollouts  # noqa: E402
from bavt_fast.tasks.countdown.training.batches import MIXES, choices, encode, layout_of, make_batch, walk  # noqa: E402
from bavt_fast.tasks.countdown.training.figures import evaluate, held_out_problems  # noqa: E402
from bavt_fast.tasks.countdown.training.model import build_config, build_tokenizer  # noqa: E402
from bavt_fast.tasks.countdown.training.rollouts import Visit, rollout, solved_share  # noqa: E402
from bavt_fast.tasks.countdown.training.states import (  # noqa: E402
    GAME24,
    SELECTION,
    SMALL,
    TEST,
    VALIDATION,
    WIDE,
    apply_steps,
    held_out,
    living_steps,
    pairs_of,
    random_problems,
    solvable,
    some_steps,
    split_residue,
)
from bavt_fast.tasks.countdown.training.vocabulary import FIRST_OPERATOR_ID, WORD_IDS  # noqa: E402
from bavt_fast.training.checkpoints import export, load_checkpoint  # noqa: E402
from bavt_fast.training.course import Batch  # noqa: E402
from bavt_fast.training.trainer import TrainConfig, Trainer  # noqa: E402

OPERATORS = "+-*/"
STARTS = {6: 30, 5: 300, 4: 600, 3: 400}
TEST_PUZZLES = {tuple(sorted(numbers)) for rank, numbers in load_game24() if 901 <= rank <= 1000}


pytestmark = pytest.mark.usefixtures("one_thread")


def row_states(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
    """The states and children of a batch, read from its token ids by the layout that the docstring draws."""
    ids, k = batch.ids.numpy(), batch.kind
    return ids[:, 3 : 3 + k], ids[:, 10 + k : 9 + 2 * k]


def is_forbidden(numbers: np.ndarray) -> np.ndarray:
    """What issue and docstring say must not be trained on, by a second way to say it."""
    rows = np.sort(numbers.astype(np.int32), axis=1)
    puzzle = np.array([tuple(row) in TEST_PUZZLES for row in rows.tolist()], dtype=bool)
    return np.isin(split_residue(rows), (TEST, VALIDATION)) | puzzle


# --- the held-out split


def test_nothing_held_out_is_ever_in_a_batch() -> None:
    """No state and no child with three numbers or more, in hundreds of thousands of both."""
    seen = dict.fromkeys(range(2, 7), 0)
    for seed in range(12):
        for k, batch in walk(np.random.default_rng(seed), STARTS).items():
            parents, children = row_states(batch)
            assert parents.shape[1] == k
            for numbers in (parents, children):
                if numbers.shape[1] >= 3:
                    assert not is_forbidden(numbers).any()
                    seen[k] += len(numbers)
    assert min(seen[k] for k in (3, 4, 5, 6)) > 300
    assert sum(seen.values()) > 30_000


def test_the_test_puzzles_would_turn_up_were_they_not_held_out() -> None:
    """The check above can fail: the problems that the walks start from do hold them."""
    numbers, _ = random_problems(np.random.default_rng(0), 20_000, 4, GAME24)
    assert is_forbidden(numbers).mean() > 0.05
    found = {tuple(row) for row in numbers.tolist()} & TEST_PUZZLES
    assert len(found) > 90


def test_held_out_is_what_it_says() -> None:
    rng = np.random.default_rng(1)
    for k in (3, 4, 5, 6):
        numbers, _ = random_problems(rng, 3000, k, MIXES[k])
        assert held_out(numbers).tolist() == is_forbidden(numbers).tolist()
        assert 0.01 < held_out(numbers).mean() < 0.15
    puzzles = np.array(sorted(TEST_PUZZLES), dtype=np.int32)
    assert held_out(puzzles).all()
    assert not held_out(np.array([[4, 6]], dtype=np.int32)).any()


def test_make_batch_drops_states_and_children_that_are_held_out() -> None:
    """Every way into a test puzzle from five numbers, and the puzzle itself."""
    inside = np.array([[4, 5, 6, 10]], dtype=np.int32)
    batch = make_batch(inside, np.array([24], np.int32), np.array([[10, 0, 4, 14]], np.int32))
    assert len(batch.ids) == 0
    above = np.array([[2, 2, 5, 6, 10]], dtype=np.int32)
    batch = make_batch(above, np.array([24], np.int32), np.array([[2, 0, 2, 4]], np.int32))
    assert len(batch.ids) == 0


def test_the_split_depends_on_the_numbers_alone() -> None:
    rng = np.random.default_rng(2)
    numbers, _ = random_problems(rng, 2000, 5)
    residues = split_residue(numbers)
    assert residues.min() >= 0
    assert residues.max() < 64
    assert len(set(residues.tolist())) == 64
    assert (split_residue(numbers.astype(np.int64)) == residues).all()
    shares = np.bincount(residues, minlength=64) / len(residues)
    assert shares.max() < 4 / 64


def test_problems_for_the_report_are_held_out_and_solvable() -> None:
    for residue in (TEST, VALIDATION):
        numbers, targets = held_out_problems(residue, 60, 4, seed=3)
        assert numbers.shape == (60, 4)
        assert (split_residue(numbers) == residue).all()
        assert all(brute_force_solvable(tuple(n), t) for n, t in zip(numbers.tolist(), targets.tolist(), strict=True))
        again, _ = held_out_problems(residue, 60, 4, seed=3)
        assert (again == numbers).all()


# --- steps and labels


@pytest.mark.parametrize("k", [2, 3, 4, 5, 6])
def test_every_random_step_is_legal(k: int) -> None:
    """Against Countdown.apply, with zeros, ones and equal numbers among them."""
    rng, task = np.random.default_rng(k), Countdown()
    numbers = np.sort(rng.choice([0, 1, 1, 2, 3, 6, 12, 50, 500, 999], (400, k)), axis=1).astype(np.int32)
    targets = rng.integers(1, 100, len(numbers)).astype(np.int32)
    steps = some_steps(rng, numbers, living_steps(numbers, targets), good=0.0)
    children = apply_steps(numbers, steps)
    for state, (a, op, b, result), child in zip(numbers.tolist(), steps.tolist(), children.tolist(), strict=True):
        text = text_of(a, OPERATORS[op], b, result, child)
        after = task.apply(CountdownState(tuple(state), 24, tuple(map(str, state))), Step(text, tokens=1))
        assert after is not None, (state, text)
        assert after.numbers == tuple(child)


def test_random_steps_reach_every_child() -> None:
    """What is left out as a repetition leads to no state that another step does not reach."""
    for state in itertools.combinations_with_replacement([0, 1, 2, 4, 12], 3):
        rows = np.tile(np.array(state, dtype=np.int32), (600, 1))
        living = living_steps(rows, np.full(600, 24, np.int32))
        steps = some_steps(np.random.default_rng(0), rows, living, good=0.0)
        reached = {tuple(row) for row in apply_steps(rows, steps).tolist()}
        assert reached == {left for *_, left in brute_force_steps(state)}


def test_good_steps_keep_the_target_within_reach() -> None:
    """All of them where there are any, and any step where there is none."""
    rng = np.random.default_rng(5)
    numbers, targets = random_problems(rng, 300, 4, MIXES[4])
    targets[::3] = 998  # out of reach of most
    steps = some_steps(rng, numbers, living_steps(numbers, targets), good=1.0)
    children = apply_steps(numbers, steps)
    for state, child, target in zip(numbers.tolist(), children.tolist(), targets.tolist(), strict=True):
        assert brute_force_solvable(tuple(child), target) == brute_force_solvable(tuple(state), target)


def test_a_share_of_the_steps_is_good_and_the_rest_is_any() -> None:
    rng = np.random.default_rng(6)
    rows = np.tile(np.array([4, 5, 6, 10], np.int32), (4000, 1))
    targets = np.full(len(rows), 24, np.int32)
    living = living_steps(rows, targets)
    by_chance = (living[0] == 1).sum() / (living[0] >= 0).sum()
    for good in (0.0, 0.5, 1.0):
        children = apply_steps(rows, some_steps(rng, rows, living, good))
        alive = solvable(children, targets).mean()
        assert alive == pytest.approx(good + (1 - good) * by_chance, abs=0.03)


def test_labels_are_brute_force() -> None:
    batches = walk(np.random.default_rng(6), {5: 20, 4: 80, 3: 80})
    for k in (2, 3, 4):
        parents, children = row_states(batches[k])
        targets, labels = batches[k].ids[:, 1].tolist(), batches[k].labels.numpy()
        assert labels.shape == (len(parents), 2)
        for parent, child, target, label in zip(parents.tolist(), children.tolist(), targets, labels, strict=True):
            assert bool(label[0]) == brute_force_solvable(tuple(parent), target)
            assert bool(label[1]) == brute_force_solvable(tuple(child), target)
        assert 0.1 < labels[:, 1].mean() < 0.95


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_living_steps_are_brute_force(k: int) -> None:
    """Each step once, with what it leads to; zeros and equal numbers among them."""
    rng = np.random.default_rng(k)
    numbers = np.sort(rng.choice([0, 1, 2, 2, 3, 5, 8, 25, 400, 999], (40, k)), axis=1).astype(np.int32)
    targets = rng.integers(0, 60, len(numbers)).astype(np.int32)
    living = living_steps(numbers, targets)
    low, high = pairs_of(k)
    assert living.shape == (len(numbers), len(low), 4)
    for state, target, labels in zip(numbers.tolist(), targets.tolist(), living, strict=True):
        found = {}
        for pair, op in zip(*np.nonzero(labels >= 0), strict=True):
            a, b = state[high[pair]], state[low[pair]]
            assert (a, op, b) not in found
            found[a, op, b] = labels[pair, op] == 1
        children = {(a, OPERATORS.index(op), b): left for a, op, b, _, left in brute_force_steps(tuple(state))}
        assert set(found) <= set(children)
        reached = {children[step] for step in found}
        assert reached == set(children.values())  # what is left out leads nowhere else
        for step, alive in found.items():
            assert alive == brute_force_solvable(children[step], target)


def test_choices_are_all_good_steps_alike() -> None:
    """The chance that the three tokens give to a step is one over the number of good steps."""
    for k in (2, 3, 4):
        numbers, targets = random_problems(np.random.default_rng(k), 60, k)
        living = living_steps(numbers, targets)
        low, high = pairs_of(k)
        for row, (state, labels) in enumerate(zip(numbers, living, strict=True)):
            for pair, op in zip(*np.nonzero(labels >= 0), strict=True):
                a, b = int(state[high[pair]]), int(state[low[pair]])
                ids, weights = choices(state[None], np.array([[a, op, b, 0]], np.int32), labels[None] == 1)
                wanted = (a, FIRST_OPERATOR_ID + op, b)
                chance = math.prod(weights[0, at][ids[0, at] == wanted[at]].sum() for at in range(3))
                good = labels[pair, op] == 1
                assert chance == pytest.approx(1 / (labels == 1).sum() if good else 0.0), row
                assert np.isin(weights.sum(2).round(5), (0.0, 1.0)).all()


@pytest.mark.parametrize("k", [2, 3, 4, 5, 6])
def test_encoded_rows_are_the_tokens_of_their_text(k: int) -> None:
    """The ids of a row are what the shipped tokenizer makes of prompt and step, and decode to them."""
    rng, task, tokenizer = np.random.default_rng(k), Countdown(), build_tokenizer()
    numbers, targets = random_problems(rng, 20, k)
    steps = some_steps(rng, numbers, living_steps(numbers, targets), good=0.5)
    children = apply_steps(numbers, steps)
    ids, layout = encode(numbers, targets, steps), layout_of(k)
    assert ids.shape == (20, layout.length)
    for i, row in enumerate(ids.tolist()):
        state = CountdownState(tuple(numbers[i].tolist()), int(targets[i]), ())
        a, op, b, result = steps[i].tolist()
        step = text_of(a, OPERATORS[op], b, result, children[i].tolist())
        assert row == tokenizer(task.describe(state).prompt + step)["input_ids"]
        assert row[: layout.step_start] == tokenizer(task.describe(state).prompt)["input_ids"]
        assert tokenizer.decode(row[layout.step_start :]) == step
        closing = tokenizer.convert_tokens_to_ids("##)")
        assert [row[at + 1] for at in layout.value_positions] == [closing, closing]
        assert layout.length - layout.step_start == task.describe(state).min_tokens - sum(
            7 + m for m in range(1, k - 1)
        )


def test_problems_are_in_range_and_solvable() -> None:
    for span in (SMALL, WIDE, SELECTION, GAME24):
        numbers, targets = random_problems(np.random.default_rng(0), 500, 4, span)
        assert numbers.shape == (500, 4)
        assert numbers.min() == span.numbers[0]
        assert numbers.max() == max(span.numbers[1], *span.large, 0)
        assert span.targets[0] <= targets.min() <= targets.max() <= span.targets[1]
        assert (np.diff(numbers, axis=1) >= 0).all()
        assert solvable(numbers, targets).all()
    numbers, _ = random_problems(np.random.default_rng(1), 500, 5, SELECTION)
    assert set(np.unique(numbers)) == {*range(1, 11), 25, 50, 75, 100}


def test_a_mix_has_its_shares() -> None:
    numbers, targets = random_problems(np.random.default_rng(0), 500, 4, {GAME24: 3.0, WIDE: 2.0})
    assert len(numbers) == len(targets) == 500
    assert 300 <= ((targets == 24) & (numbers.max(axis=1) <= 13)).sum() < 310
    assert 100 < (targets[:250] == 24).sum() < 200  # in random order
    assert len(random_problems(np.random.default_rng(0), 0, 4, {GAME24: 1.0, WIDE: 1.0})[0]) == 0


def test_the_vocabulary_is_the_tokenizers() -> None:
    """One definition: what the tokenizer knows is `WORD_IDS`, and the model has an embedding for each."""
    tokenizer = build_tokenizer()
    assert tokenizer.get_vocab() == WORD_IDS
    assert sorted(WORD_IDS.values()) == list(range(len(WORD_IDS)))
    assert all(WORD_IDS[str(n)] == n for n in range(1000))
    config = build_config(32, 1, 32, 2)
    assert config.vocab_size >= len(WORD_IDS)
    assert config.pad_token_id == tokenizer.pad_token_id


# --- a short run


@pytest.fixture(scope="module")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainConfig]:
    out = tmp_path_factory.mktemp("run")
    config = TrainConfig(
        out=str(out),
        minutes=0.05,
        hidden_size=32,
        layers=2,
        mlp_size=64,
        heads=2,
        batch_sizes={6: 4, 5: 8, 4: 16, 3: 16, 2: 16},
        rollouts_from=0.0,
        rollout_every=2,
        rollout_problems=32,
        compile=False,
        threads=1,
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(course, "HELD_OUT", 50)
        Trainer(config, make_course()).run()
    return out, config


def test_a_short_run_reports_and_writes_a_checkpoint(short_run: tuple[Path, TrainConfig]) -> None:
    out, _ = short_run
    written = json.loads((out / "config.json").read_text())
    assert (written["task"], written["hidden_size"]) == ("countdown", 32)
    figures = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
    assert figures["step"] >= 1
    assert figures["progress"] == 1.0
    assert 0.0 <= figures["invalid"] <= 1.0
    assert 0.0 <= figures["pass1"] <= 1.0
    assert all(math.isfinite(loss) for loss in figures["losses"])
    assert not (out / "checkpoint.pt.new").exists()


def test_the_checkpoint_exports_to_a_folder_that_loads_and_searches(
    short_run: tuple[Path, TrainConfig], tmp_path: Path
) -> None:
    out, config = short_run
    export(out / "checkpoint.pt", tmp_path / "model", make_course(), config.sizes)
    folder = load_folder(tmp_path / "model")
    generator, critic = folder.generator, folder.critic
    trained = load_checkpoint(out / "checkpoint.pt", make_course(), config.sizes)
    weight = trained.lm.get_input_embeddings().weight
    torch.testing.assert_close(generator.model.get_input_embeddings().weight, weight, rtol=1e-3, atol=1e-3)
    assert all(parameter.dtype == torch.float32 for parameter in generator.model.parameters())
    hidden = torch.randn(3, 32)
    torch.testing.assert_close(critic.head(hidden), trained.head(hidden), rtol=1e-2, atol=1e-2)
    assert folder.settings == make_course().settings
    searcher = bavt.Searcher(generator, critic, folder.task, wave=4, **folder.settings.search)
    result = searcher.search("4 5 6 10", budget=bavt.Budget(tokens=120))
    assert result.spent.tokens <= 120
    assert result.stop_reason in ("solved", "budget", "exhausted")


def test_training_goes_on_from_a_checkpoint_and_from_a_folder(
    short_run: tuple[Path, TrainConfig], tmp_path: Path
) -> None:
    """A folder holds half precision and no successor heads: it gives the checkpoint's other weights, rounded."""
    out, config = short_run
    export(out / "checkpoint.pt", tmp_path, make_course(), config.sizes)
    trained = load_checkpoint(out / "checkpoint.pt", make_course(), config.sizes).state_dict()
    for source in (out / "checkpoint.pt", tmp_path):
        found = Trainer(replace(config, init=str(source)), make_course()).model.state_dict()
        assert found.keys() == trained.keys()
        for name, weight in trained.items():
            if source == tmp_path and name.startswith("successor_heads."):
                continue
            rounded = weight.half().float() if source == tmp_path else weight
            assert found[name].dtype == torch.float32
            assert found[name].equal(rounded), name


def test_training_goes_on_from_the_model_that_ships() -> None:
    """Its sizes are the defaults, and it knows its problems: most steps are legal, near the end the critic is right."""
    config = TrainConfig(out="", init=str(embedded_folder()), compile=False, threads=1)
    model = Trainer(config, make_course()).model
    figures = evaluate(model.eval(), problems=100, seed=0)
    assert figures["invalid"] < 0.15
    assert figures["auc2"] > 0.9


def test_a_model_of_other_sizes_is_not_gone_on_from(short_run: tuple[Path, TrainConfig]) -> None:
    _, config = short_run
    with pytest.raises(ValueError, match="does not fit the model to train"):
        Trainer(replace(config, init=str(embedded_folder())), make_course())  # wider than this run's model


def test_rollouts_grade_their_own_steps(short_run: tuple[Path, TrainConfig]) -> None:
    """What a rollout calls legal is what Countdown accepts; what it goes on with is what follows."""
    out, config = short_run
    model = load_checkpoint(out / "checkpoint.pt", make_course(), config.sizes).eval()
    numbers, targets = random_problems(np.random.default_rng(0), 200, 3)
    visits = rollout(model, numbers, targets, temperature=1.0, seed=1)
    task = Countdown()
    for visit in visits:
        assert visit.child_logits.shape == (len(visit.numbers),)
        legal = visit.legal
        children = apply_steps(visit.numbers[legal], visit.steps[legal])
        for state, step, child in zip(
            visit.numbers[legal].tolist(), visit.steps[legal].tolist(), children.tolist(), strict=True
        ):
            a, op, b, result = step
            text = text_of(a, OPERATORS[op], b, result, child)
            assert task.apply(CountdownState(tuple(state), 1, tuple(map(str, state))), Step(text, tokens=1)) is not None
    assert 0.0 <= solved_share(visits) <= 1.0


def test_a_rollout_with_several_steps_goes_on_with_the_best_or_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each state that has a legal step; half of the time the one that the critic likes best."""
    rng, seen = np.random.default_rng(3), []

    def sampled(_: Any, numbers: Any, targets: Any, temperature: float, seed: int) -> Visit:
        steps = some_steps(rng, numbers, living_steps(numbers, targets), 0.0)
        seen.append(Visit(numbers, targets, steps, rng.random(len(steps)) < 0.6, rng.normal(size=len(steps))))
        return seen[-1]

    monkeypatch.setattr(rollouts, "sample_steps", sampled)
    visits = rollouts.rollout(None, *random_problems(rng, 400, 4), 1.0, seed=5, several=3)  # type: ignore[arg-type]
    assert len(visits) == len(seen) == 3
    best = first = 0
    for visit, following in itertools.pairwise(visits):
        legal = visit.legal.reshape(-1, 3)
        states = np.flatnonzero(legal.any(1))
        went = following.numbers[::3]
        assert (following.numbers == np.repeat(went, 3, axis=0)).all()
        assert (following.targets[::3] == visit.targets[::3][states]).all()
        liked = np.where(legal, visit.child_logits.reshape(-1, 3), -np.inf).argmax(1)
        children = [
            apply_steps(visit.numbers[rows], visit.steps[rows])
            for rows in (3 * states + liked[states], 3 * states + legal.argmax(1)[states])
        ]
        is_best, is_first = ((went == child).all(1) for child in children)
        assert (is_best | is_first).all()
        best, first = best + int((is_best & ~is_first).sum()), first + int((is_first & ~is_best).sum())
    assert 0.7 < best / first < 1.4
