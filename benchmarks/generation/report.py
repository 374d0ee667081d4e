"""The report as Markdown: the targets, a table for each model, all rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks import harness
from benchmarks.generation import rows
from benchmarks.harness import Results

NOTES = (
    "Medians over rounds, with the 20th and 80th percentile. The sides of one part take turns. Tokens are generated"
    " ones. The recipe and the ceilings do not stop at the end of a line: a candidate of the recipe has as many tokens"
    " as a step of ours on average, a row of the ceilings as many as a question of ours took. In a round all are asked"
    " the same questions, in every round others; the prefix store begins empty.",
    "*In flight*: asks of ours, rows of the ceilings; with one question they are leaves of its tree. *Needed once*:"
    " tokens of all contexts that no context before had and no step was decoded through; the padding of model.generate"
    " counts as computed. *Idle* and *full batch*: from the first question that took another's place until the last one"
    " was taken. *Outside*, on a CPU: share of wall time that is neither in forward passes and drawing nor in the"
    " critic's head. On a GPU, where the host works beside it: share of wall time in which the device is in no forward"
    " pass and no drawing, by events at the beginning and the end of each in its queue: it waits for the host, or"
    " copies states into rows and out of them. What it waits for within a pass, whose kernels are launched one by one"
    " where it is no graph, is inside. The critic's head, which runs beside the passes, does not count."
    " *generate_batch* is timed from the first request to the last answer, without the making of its cache.",
)
HEADS = (
    "part",
    "who",
    "questions",
    "in flight",
    "tokens each",
    "tokens/s",
    "/ recipe",
    "/ generate",
    "full batch / generate",
    "first answer, s",
    "tokens per step",
    "prompt computed / needed once",
    "idle",
    "outside",
    "store hits",
    "evictions",
    "peak MB",
)


def markdown(report: Mapping[str, Any]) -> str:
    results = harness.results_in(report)
    models = dict.fromkeys(row.at["model"] for row in results.of(rows.SPEED))
    return harness.sections(
        harness.heading(report, *NOTES),
        "## Targets",
        harness.targets_table(report["targets"]),
        *[f"## {model}\n\n{model_table(results, str(model))}" for model in models],
        _neighbours(results),
        "## All rows",
        harness.all_rows_table(results),
    )


def model_table(results: Results, model: str) -> str:
    """A line for each side and size."""
    lines = []
    for speed in results.of(rows.SPEED, model=model):

        def figure(what: str, who: str = speed.who, at: harness.At = speed.at) -> str:
            found = results.of(what, who, **at)
            return harness.number(found[0].median) if found else ""

        lines.append(
            [
                str(speed.at["part"]),
                speed.who,
                *[harness.size(speed.at[key]) for key in ("questions", "asks", "tokens")],
                harness.spread(speed),
                *[figure(what) for what in (rows.OVER_RECIPE, rows.OVER_GENERATE, rows.FULL_OVER_GENERATE)],
                *[figure(what) for what in (rows.FIRST_ANSWER, rows.STEP_TOKENS, rows.PROMPT, rows.IDLE, rows.OUTSIDE)],
                *[figure(what) for what in (rows.HITS, rows.EVICTIONS, rows.MEMORY)],
            ]
        )
    return harness.table(HEADS, lines)


def _neighbours(results: Results) -> str:
    found = results.of(rows.SEARCH_SECONDS)
    if not found:
        return ""
    lines = [[harness.size(row.at["neighbours"]), harness.spread(row)] for row in found]
    return "## The embedded model beside busy neighbours\n\n" + harness.table(("neighbours", "seconds"), lines)
