"""The prefix store against a dictionary of every prefix, and its limit."""

from __future__ import annotations

import random

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from bavt_fast.generators.prefix_store import Ends, PrefixStore  # noqa: E402

LAYERS, HEADS, WIDTH = 2, 3, 4
TOKEN_BYTES = 2 * LAYERS * HEADS * WIDTH * 4

Ids = tuple[int, ...]


def states(ids: Ids, first: int = 0) -> list[torch.Tensor]:
    """States that say which context they belong to: each token's are a hash of the tokens up to it."""
    columns = [hash(ids[: at + 1]) % 9973 for at in range(first, len(ids))]
    one = torch.tensor(columns, dtype=torch.float32).view(1, 1, -1, 1).expand(LAYERS, HEADS, -1, WIDTH).clone()
    return [one, -one]


def ends(ids: Ids) -> Ends:
    return Ends(torch.full((7,), float(hash(ids) % 9973)), torch.full((5,), float(len(ids))))


def joined(pieces: list[tuple[list[torch.Tensor], int]]) -> list[torch.Tensor]:
    return [torch.cat([part[lane][:, :, :count] for part, count in pieces], 2) for lane in range(2)]


def test_what_is_found_is_what_was_stored() -> None:
    """Random contexts over few tokens, so that they part and meet everywhere."""
    for seed in range(40):
        random_ = random.Random(seed)
        store, known, said = PrefixStore(2**30), set(), set()
        for _ in range(60):
            ids = tuple(random_.randrange(3) for _ in range(random_.randrange(1, 12)))
            match = store.find(ids)
            longest = max((n for n in range(len(ids) + 1) if n == 0 or ids[:n] in known), default=0)
            assert match.tokens == longest
            assert sum(count for _, count in match.pieces) == longest
            if longest:
                for got, wanted in zip(joined(match.pieces), states(ids[:longest]), strict=True):
                    torch.testing.assert_close(got, wanted, rtol=0, atol=0)
            assert (match.ends is not None) == (ids in said)
            if match.ends is not None:
                assert match.ends.logits[0] == ends(ids).logits[0]
            with_ends = random_.random() < 0.5
            first = random_.randrange(longest + 1)
            store.add(ids, states(ids, first), first, ends(ids) if with_ends else None)
            known |= {ids[:n] for n in range(1, len(ids) + 1)}
            said |= {ids} if with_ends else set()
        assert store.nbytes == len(known) * TOKEN_BYTES + len(said) * 12 * 4


def test_what_hangs_in_the_air_is_not_stored() -> None:
    store = PrefixStore(2**20)
    store.add((1, 2, 3, 4), states((1, 2, 3, 4), 2), 2)
    assert store.nbytes == 0
    assert store.find((1, 2, 3, 4)).tokens == 0


def test_contexts_of_their_own_are_found_whole_or_not_at_all() -> None:
    store = PrefixStore(2**20)
    store.add((1, 2, 3), states((1, 2, 3)), 0, ends((1, 2, 3)), alone=True)
    assert store.find((1, 2), alone=True).tokens == 0
    assert store.find((1, 2, 3)).tokens == 0
    match = store.find((1, 2, 3), alone=True)
    assert match.tokens == 3
    assert match.ends is not None


def test_the_limit_holds_and_the_oldest_goes_first() -> None:
    """A root is not dropped while something goes on from it; what was used last stays."""
    store = PrefixStore(20 * TOKEN_BYTES)
    for question in range(8):
        for path in ((question, 0, 0, 0), (question, 0, 0, 0, 1, 1), (question, 0, 0, 0, 2, 2)):
            store.add(path, states(path), 0)
            assert store.nbytes <= store.limit_bytes
    assert store.evictions > 0
    assert store.find((7, 0, 0, 0, 2, 2)).tokens == 6
    assert store.find((0, 0, 0, 0)).tokens == 0
    store.find((6, 0, 0, 0))
    store.shrink(4 * TOKEN_BYTES)
    assert store.nbytes <= 4 * TOKEN_BYTES
    assert store.find((6, 0, 0, 0)).tokens == 4
    for path, tokens in (((7, 0, 0, 0, 2, 2), 0), ((6, 0, 0, 0, 1, 1), 4)):
        assert store.find(path).tokens == tokens


def test_nothing_is_lost_count_of_under_eviction() -> None:
    """The bytes that the store says it holds are those of its segments, after random adds and evictions."""
    for seed in range(20):
        random_ = random.Random(seed)
        store = PrefixStore(random_.randrange(1, 40) * TOKEN_BYTES)
        for _ in range(200):
            ids = tuple(random_.randrange(3) for _ in range(random_.randrange(1, 10)))
            alone = random_.random() < 0.2
            known = store.find(ids, alone).tokens
            store.add(ids, states(ids, 0 if alone else known), 0 if alone else known, ends(ids), alone)
            assert 0 <= store.nbytes <= store.limit_bytes
            match = store.find(ids, alone)
            if match.tokens:
                for got, wanted in zip(joined(match.pieces), states(ids[: match.tokens]), strict=True):
                    torch.testing.assert_close(got, wanted, rtol=0, atol=0)
        store.shrink(0)
        assert store.nbytes == 0


def test_what_is_split_shares_memory_until_a_part_of_it_goes() -> None:
    """The limit counts what is stored, so what has gone must not stay in memory for what is left of it."""

    def held(store: PrefixStore) -> int:
        memory = {part.untyped_storage().data_ptr(): part for states, _ in store.find(whole).pieces for part in states}
        return sum(part.untyped_storage().nbytes() for part in memory.values())

    whole = (1, 2, 3, 4, 5, 6, 7, 8)
    store = PrefixStore(2**30)
    store.add(whole, states(whole), 0)
    store.add((1, 2, 9), states((1, 2, 9)), 0)
    store.add((1, 2, 3, 4, 9), states((1, 2, 3, 4, 9)), 0)
    assert [count for _, count in store.find(whole).pieces] == [2, 2, 4]
    assert held(store) == 8 * TOKEN_BYTES
    store.find((1, 2, 9))
    store.find((1, 2, 3, 4, 9))
    store.shrink(6 * TOKEN_BYTES)
    assert [count for _, count in store.find(whole).pieces] == [2, 2]
    assert held(store) == 4 * TOKEN_BYTES
    for got, wanted in zip(joined(store.find(whole).pieces), states(whole[:4]), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)


def test_without_a_limit_nothing_is_stored() -> None:
    store = PrefixStore(0)
    store.add((1, 2), states((1, 2)), 0, ends((1, 2)))
    store.add((1, 2), states((1, 2)), 0, ends((1, 2)), alone=True)
    assert store.find((1, 2)).tokens == store.nbytes == 0
