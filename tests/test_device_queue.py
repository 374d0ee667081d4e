"""The host beside a GPU, as far as a CPU can show it: times by events, and who reads beside the passes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from bavt_fast.critics import value_head  # noqa: E402
from bavt_fast.critics.value_head import HiddenStateCritic, ResidualValuePredictor  # noqa: E402
from bavt_fast.device_queue import PendingRead, Spans, are_complete, call_complete, side_stream, to_device  # noqa: E402
from bavt_fast.protocols import Node, Step  # noqa: E402

CPU = torch.device("cpu")


class Device:
    """A stream that has done what was queued until `now`, and its events."""

    def __init__(self) -> None:
        self.queued = self.now = 0.0

    def event(self, **_: Any) -> Any:
        device = self

        class Event:
            def record(self, stream: Any) -> None:
                self.at = device.queued

            def query(self) -> bool:
                return self.at <= device.now

            def elapsed_time(self, end: Any) -> float:
                assert end.query(), "not there yet"
                return 1e3 * float(end.at - self.at)

        return Event()


def test_times_of_a_device_are_taken_there(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device()
    monkeypatch.setattr(torch.cuda, "Event", device.event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: device)
    spans = Spans(torch.device("cuda"), measure=True)
    for length in (2.0, 3.0):
        with spans.one():
            device.queued += length
        device.queued += 10.0  # something else
    assert spans.seconds == 0.0, "nothing is over yet, and nobody waits"
    device.now = 4.0
    assert spans.seconds == 2.0
    with pytest.raises(ValueError, match="no"), spans.one():
        raise ValueError("no")
    device.now = 99.0
    assert spans.seconds == 5.0


def test_times_of_a_cpu_are_the_host_s() -> None:
    spans = Spans(CPU, measure=True)
    with spans.one():
        sum(range(1000))
    assert 0.0 < spans.seconds < 1.0


def test_on_a_cpu_all_is_there_at_once() -> None:
    values = to_device([3, 4], CPU)
    assert values.dtype == torch.int64
    assert PendingRead(values).read() == [3, 4]
    with side_stream(CPU) as stream:
        assert stream is None


@pytest.mark.parametrize("changed", [copy.deepcopy, lambda state: pickle.loads(pickle.dumps(state)), torch.neg_])
def test_what_is_copied_or_changed_may_still_be_queued(changed: Any) -> None:
    kept = list(torch.ones(2, 4))
    for state in kept:
        call_complete(state)
    assert are_complete(kept)
    assert not are_complete([changed(kept[0])])


def test_the_critic_reads_complete_states_beside_the_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not where a state may still be computed, nor where what changed the head's weights may."""
    beside = []

    @contextmanager
    def noted(device: Any) -> Iterator[None]:
        beside.append(device)
        yield

    monkeypatch.setattr(value_head, "side_stream", noted)
    critic = HiddenStateCritic(ResidualValuePredictor(4), "logit")
    states = [torch.randn(4) for _ in range(2)]
    nodes = [Node(None, "x", None, Step("x", 1, hidden=state)) for state in states]

    def is_beside() -> bool:
        before = len(beside)
        critic.score(nodes)
        return len(beside) > before

    assert not is_beside()
    call_complete(states[0])
    assert not are_complete(states)
    assert not is_beside()
    call_complete(states[1])
    assert not is_beside(), "the first time that its weights are looked at"
    assert is_beside()
    with torch.no_grad():
        critic.head.predictor[0].weight.add_(1.0)
    assert not is_beside()
    assert is_beside()
    critic.head = ResidualValuePredictor(4).eval()
    assert not is_beside()
