"""The window of keys and values against plain lists, over random comings and goings of rows."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from bavt_fast.generators import kv_cache  # noqa: E402
from bavt_fast.generators.contexts import Context, Row  # noqa: E402
from bavt_fast.generators.decode_batch import DecodeBatch  # noqa: E402
from bavt_fast.generators.kv_cache import KeyValueWindow, Layout  # noqa: E402

# Three layers; the second has keys and values of other shapes, as latent attention has.
SHAPES = [((2, 4), (2, 4)), ((1, 6), (1, 3)), ((2, 4), (2, 4))]


def layout() -> Layout:
    def one(shape: tuple[int, int]) -> Any:
        return torch.zeros(1, shape[0], 1, shape[1])

    return Layout([(one(keys), one(values)) for keys, values in SHAPES])


def new_states(tokens: list[int], shape: tuple[int, int], layer: int, kind: int) -> Any:
    """(heads, tokens, width): numbers that say whose they are."""
    base = torch.tensor(tokens, dtype=torch.float32) * 100 + layer * 10 + kind
    return base.view(1, -1, 1).expand(shape[0], -1, shape[1])


def test_layers_of_one_shape_share_a_lane() -> None:
    lay = layout()
    assert lay.counts == [4, 1, 1]
    assert lay.token_bytes == 4 * (4 * 8 + 6 + 3)
    assert lay.places == [((0, 0), (0, 1)), ((1, 0), (2, 0)), ((0, 2), (0, 3))]


@pytest.mark.parametrize("seed", range(30))
def test_rows_keep_what_was_written(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kv_cache, "_copies_at_once", lambda lane: seed % 2 == 0)
    random_ = random.Random(seed)
    window = KeyValueWindow(layout(), rows=1, columns=4)
    rows: list[list[int]] = []  # the tokens of each row
    token = 0

    def pieces(tokens: list[int]) -> list[tuple[list[Any], int]]:
        """The states of some tokens as a store would hand them over, in two pieces of which the last is too long."""
        source = KeyValueWindow(layout(), 1, len(tokens) + 4)
        write(source, [[*tokens, 999]])
        cut = random_.randrange(len(tokens) + 1)
        first = source.read(0, len(tokens) + 1, 0, cut)
        rest = source.read(0, len(tokens) + 1, cut, len(tokens) + 1 - cut)
        return [(first, cut), (rest, len(tokens) - cut)]

    def write(into: KeyValueWindow, new: list[list[int]]) -> None:
        """What a forward pass does: every layer writes the same columns of all rows."""
        for layer, shapes in enumerate(SHAPES):
            keys, values = (
                torch.stack([new_states(tokens, shape, layer, kind) for tokens in new])
                for kind, shape in enumerate(shapes)
            )
            shown = into.cache.update(keys, values, layer)
            for kind, states in enumerate(shown):
                assert states.shape[2] == into.end - into.begin + len(new[0])
                if into is window:
                    for row, tokens in enumerate(rows):
                        wanted = new_states([*tokens, *new[row]], SHAPES[layer][kind], layer, kind)
                        torch.testing.assert_close(states[row][:, -wanted.shape[1] :], wanted, rtol=0, atol=0)
        into.end += len(new[0])

    for _ in range(60):
        choice = random_.random()
        longest = max(map(len, rows), default=0)
        if choice < 0.3 and len(rows) < 6:
            new = []
            for _ in range(random_.randrange(1, 4)):
                new.append(list(range(token, token + random_.randrange(0, 9))))
                token += len(new[-1])
            window.make_room(len(rows) + len(new), max(longest, *map(len, new)))
            first = len(rows)
            window.place([(first + i, len(tokens), pieces(tokens)) for i, tokens in enumerate(new)])
            rows += new
            window.rows = len(rows)
        elif choice < 0.45 and rows:
            gone = random_.randrange(len(rows))
            last = rows.pop()
            if gone < len(rows):
                window.move(len(rows), gone, len(last))
                rows[gone] = last
            window.rows = len(rows)
        elif rows:
            window.make_room(len(rows), longest)
            window.begin = window.end - longest
            assert window.cache.get_seq_length() == longest
            assert window.cache.get_mask_sizes(1, 0) == (longest + 1, 0)
            write(window, [[token + i] for i in range(len(rows))])
            for i, tokens in enumerate(rows):
                tokens.append(token + i)
            token += len(rows)
        for row, tokens in enumerate(rows):
            if tokens:
                first = random_.randrange(len(tokens))
                count = random_.randrange(1, len(tokens) - first + 1)
                read = window.read(row, len(tokens), first, count)
                wanted = new_states(tokens[first : first + count], SHAPES[0][0], 0, 0)
                torch.testing.assert_close(read[0][0], wanted, rtol=0, atol=0)
    assert window.capacity[1] < 200


def test_what_no_row_has_written_is_finite() -> None:
    """A mask hides it, and hidden NaN would still spoil a sum."""
    window = KeyValueWindow(layout(), 2, 8)
    window.make_room(9, 40)
    window.rows = 9
    window.make_room(9, 100)
    assert all(bool(lane.isfinite().all()) for lane in window.lanes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_short", [False, True])
def test_much_memory_is_zero_and_can_be_written(
    dtype: torch.dtype, is_short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError("Cannot allocate memory")

    if is_short:
        monkeypatch.setattr(kv_cache.mmap, "mmap", fail)
    one = torch.zeros(1, 4, 1, 64, dtype=dtype)
    [lane] = Layout([(one, one)] * 8).empty(64, 64)
    assert lane.nbytes >= kv_cache._MUCH
    assert lane.dtype == dtype
    assert lane.shape == (16, 64, 4, 64, 64)
    assert not lane.any()
    lane[:, 3] = 1
    assert lane.sum(dtype=torch.float64) == lane[:, 3].numel()


def test_memory_that_grows_is_made_for_the_rows_that_there_will_be_soon() -> None:
    window = KeyValueWindow(layout())
    window.make_room(3, 4, 1, 20)
    assert window.capacity == (20, 64)
    window.make_room(12, 4, 1, 40)
    assert window.capacity == (20, 64)
    window.make_room(21, 4)
    assert window.capacity == (40, 64)


def test_holes_are_taken_by_the_next_rows_and_filled_before_a_pass() -> None:
    """By rows that come and go at random: each slot shows its row's states, without holes, when it is decoded."""
    random_ = random.Random(0)
    forward: Any = SimpleNamespace(device=torch.device("cpu"))
    batch = DecodeBatch(forward, Layout([(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))]))
    contexts = [tuple(random_.choices((1, 2), k=random_.randint(1, 9))) for _ in range(12)]  # some more than once
    places = [0]
    place = batch.window.place

    def counted(rows: Any) -> None:
        places[0] += len(rows)
        place(rows)

    def states_of(ids: tuple[int, ...]) -> Any:
        """What a token's state is depends on all before it."""
        return torch.tensor([hash(ids[: count + 1]) % 1e6 for count in range(len(ids))])

    come = 0
    for number in range(600):
        batch.window.place = counted  # type: ignore[method-assign]
        rows = batch.rows
        leaving = random_.sample(rows, random_.randint(0, len(rows)))
        for row in leaving:  # some with tokens that were never computed, as where nothing new was left
            row.ids = row.owner.ids[: random_.choice((row.length, row.length, row.length + 1))]
        coming = []
        for _ in range(random_.randint(0, 4)):
            ids = random_.choice(contexts)
            row = Row(Context((*ids, 9), [], []), 0, number, len(ids))
            coming.append((row, [([states_of(ids).view(1, 1, -1, 1).expand(2, -1, -1, -1)], row.length)]))
        come += len(coming)
        cut = len(leaving) // 2
        batch.change(leaving[:cut], coming[:1])
        batch.change([], coming[1:2])
        batch.change(leaving[cut:], coming[2:])
        assert {row.slot for row in batch.rows} == {i for i, row in enumerate(batch._slots) if row is not None}
        assert all(row.slot == -1 for row in leaving)
        if random_.random() < 0.3:
            continue  # more comes and goes before the next pass
        records, _, lengths = batch.members()
        assert [row.slot for row in batch.rows] == list(range(len(batch.rows)))
        assert records.tolist() == [row.record for row in batch.rows]
        assert lengths.tolist() == [row.length for row in batch.rows]
        for row in batch.rows:
            (kept,) = batch.window.read(row.slot, row.length, 0, row.length)
            torch.testing.assert_close(kept[0, 0, :, 0], states_of(row.owner.ids[: row.length]))
    assert places[0] < 0.95 * come, "some found their states where they were"
