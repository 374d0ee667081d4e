"""Pictures of searches that never ran, of any shape and with anything in them; and a real one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import bavt_fast as bavt
from bavt_fast.protocols import Step
from bavt_fast.view.record import NodeColumns, Picture, RefusedColumns, residuals_of

EVIL = (
    "<script>document.title='owned'</script>",
    "</script><img src=x onerror=\"document.title='owned'\">",
    "<!-- <script> --> ]]> &amp; &lt;",
    "{{script}} {{plain}} \\u003c ${x} `",
    "\u202egnp.exe\u202c \u2066isolate \u200f",
    "\x1b[31mred\x1b[0m \x00 \x07 \r over",
    "\ud800 lone \udc00",
    "日本語の手順 👩‍👩‍👧 e\u0301 ﷽",
    "quote \" ' \\ \n new\tline | [x](y) #quot;",
    "",
)


def picture_of(
    parents: Sequence[int],
    texts: Sequence[str] | None = None,
    values: Sequence[float] | None = None,
    refused: Sequence[tuple[int, str, str]] = (),
    **fields: Any,
) -> Picture:
    size = len(parents)
    values = [0.5] * size if values is None else list(values)
    nodes = NodeColumns(
        parents=list(parents),
        texts=[f"step {i}" if i else "" for i in range(size)] if texts is None else list(texts),
        values=values,
        residuals=residuals_of(parents, values),
        weights=list(values),
        visit_counts=_visits(parents),
        tries=[0] * size,
        tokens=[0] + [7] * (size - 1),
        prompt_tokens=[0] * size,
        log_probabilities=[None] * size,
        answers=[None] * size,
        statuses=["open"] * size,
    )
    columns = list(zip(*refused, strict=True)) or [(), (), ()]
    dropped = RefusedColumns(
        list(columns[0]), list(columns[1]), list(columns[2]), [3] * len(refused), [None] * len(refused)
    )
    return Picture(nodes=nodes, refused=dropped, **{"question": "What?", "value": 0.5, **fields})


def _visits(parents: Sequence[int]) -> list[int]:
    visits = [1] * len(parents)
    for node in range(len(parents) - 1, 0, -1):
        visits[parents[node]] += visits[node]
    return visits


def chain(depth: int) -> Picture:
    return picture_of(list(range(-1, depth)), path=tuple(range(1, depth + 1)))


def fan(children: int) -> Picture:
    return picture_of([-1] + [0] * children)


def evil() -> Picture:
    """Every text there is holds what a careless view would run."""
    size = len(EVIL)
    return picture_of(
        [-1] + [0] * size,
        ["", *EVIL],
        [1.0, float("nan"), float("inf"), float("-inf"), *[0.5] * (size - 3)],
        [(0, "duplicate", text) for text in EVIL],
        question=EVIL[1],
        name=EVIL[0],
        answer=EVIL[0],
        error=EVIL[1],
        value=float("nan"),
    )


def recorded(tokens: int = 600, seed: int = 0, **options: Any) -> bavt.Search:
    """A search that has ended, with events: duplicates, dead ends, several asks in flight; steps tell a probability."""
    rng = random.Random(seed)

    def propose(text: str, count: int) -> list[Step]:
        if rng.random() < 0.05:
            return []
        texts = [f"step {rng.randrange(12)} of the way\n" for _ in range(count)]
        return [Step(text, 5, log_probability=-0.5 - rng.expovariate(0.5)) for text in texts]

    searcher = bavt.Searcher(
        propose, lambda text: rng.random(), record=True, wave=3, patience=3, max_step_tokens=5, **options
    )
    search = searcher.start("Where to?", budget=bavt.Budget(tokens=tokens), seed=seed)
    for _ in searcher.run([search]):
        pass
    return search
