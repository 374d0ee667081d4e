"""The figures of the documentation, drawn from the results that were committed.

    python -m benchmarks.figures

Each SVG in `docs/images` names its source and that file's hash; `tests/benchmarks/test_figures.py` says which are older
than their results.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import Results, results_in
from benchmarks.recipe import __main__ as recipe
from benchmarks.tree import rows as tree_rows

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ROOT / "docs" / "images"
OURS = "bavt_fast"
SHOWN = ("Countdown-5", "Game of 24")
LABELS = {
    "parallel sampling, oracle": "parallel sampling, oracle-verified",
    "ours": "search, our critic",
    "ours, tuned": "search, our critic, tuned",
    "V = 1": "search, no critic (V = 1)",
    "ours without a critic": "search, no critic (V = 1)",
    "exact solver": "search, a perfect critic",
    "ours, exact solver as critic": "search, a perfect critic",
}
"""What the sides of a budget's report are called in a figure."""
STYLES = {
    "parallel sampling, oracle-verified": "k-",
    "search, our critic": "C0o-",
    "search, our critic, tuned": "C3o-",
    "search, no critic (V = 1)": "C1s--",
    "search, a perfect critic": "C2^--",
}

Points = tuple[Sequence[float], ...]
"""Budgets, and the share that is solved within each."""


def newest(pattern: str) -> Path:
    """The newest result of a benchmark: names end with the machine and the day."""
    found = sorted(RESULTS.glob(pattern), key=lambda path: re.findall(r"\d{4}-\d\d-\d\d", path.name))
    if not found:
        raise FileNotFoundError(f"pattern: expected a file like {pattern} in {RESULTS}, got none; run its benchmark")
    return found[-1]


# ---- One figure each: what is in the axes


def success_within_a_budget(report: Any, axes: Sequence[Any]) -> None:
    """One panel per set of problems."""
    for ax, (name, curves) in zip(axes, _success_curves(report), strict=True):
        for label, (budgets, shares) in curves.items():
            style = STYLES[label]
            ax.plot(budgets, [100 * share for share in shares], style, label=label)
        ax.set(xscale="log", xlabel="generated tokens a problem, B", ylabel="solved, %", title=name, ylim=(0, 102))
        ax.grid(alpha=0.3)
    axes[0].figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=4)


def _success_curves(report: Any) -> list[tuple[str, dict[str, Points]]]:
    """(set, its curves by label) of the sets that are shown. Reports have two forms: figures at budgets, or curves."""
    found = []
    if isinstance(report["sets"], dict):
        for name, part in report["sets"].items():
            rows = part["rows"]
            at = [row["budget"] for row in rows]
            curves: dict[str, Points] = {"parallel sampling, oracle": tuple(part["curve"])}
            curves |= {side: (at, [row[side]["success"] for row in rows]) for side in rows[0] if side in LABELS}
            found.append((name, curves))
    else:
        for part in report["sets"]:
            curves = {side: tuple(zip(*line, strict=True)) for side, line in part["curves"].items()}
            found.append((part["name"], curves))
    shown = [(name, curves) for name, curves in found if name.startswith(SHOWN)]
    return [(name, {LABELS[side]: curves[side] for side in LABELS if side in curves}) for name, curves in shown]


def cost_of_a_simulation(report: Any, axes: Sequence[Any]) -> None:
    """Trees against their size, log-log."""
    results = results_in({"rows": [_placed(row) for row in report["rows"]]})
    sides = (
        (tree_rows.TREEQUEST_STANDARD, "treequest StandardMCTS", "C7v-"),
        (tree_rows.RECIPE, "the recipe", "C3o-"),
        (tree_rows.OPEN_SPIEL, "open_spiel MCTSBot", "C5o-"),
        (tree_rows.PLAIN_PYTHON, "plain UCT in Python", "C1o-"),
        (tree_rows.OURS_PYTHON, "bavt_fast from Python", "C0o--"),
        (tree_rows.PLAIN_LOOP, "plain loop in C++", "C4o-"),
        (tree_rows.OURS_CPP, "bavt_fast in C++", "C0o-"),
    )
    for who, label, style in sides:
        found = sorted(results.of(tree_rows.SIMULATION, who, trees=1, threads=1), key=lambda row: row.at["n"])
        axes[0].plot([row.at["n"] for row in found], [row.median for row in found], style, label=label)
    axes[0].set(xscale="log", yscale="log", xlabel="simulations in the tree", ylabel="us per simulation")
    axes[0].grid(alpha=0.3)
    axes[0].legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _placed(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the trees' results, some of which have no column ``at`` yet."""
    if "at" in row:
        return row
    where = ("n", "trees", "threads")
    return {**{key: row[key] for key in row if key not in where}, "at": {key: row[key] for key in where}}


def cost_of_a_step(report: Any, axes: Sequence[Any]) -> None:
    """Of a whole search whose model is free."""
    results = results_in(report)
    shapes = (
        ("one question, one ask at a time", {"questions": 1, "wave": 1, "steps": 1_000}),
        ("one question, wave=16", {"questions": 1, "wave": 16, "steps": 1_000}),
        ("256 questions side by side", {"questions": 256, "wave": 256, "steps": 50}),
    )
    bars = [(f"bavt_fast, {label}", _median(results, "step", OURS, task="TextTask", **at)) for label, at in shapes]
    for who in ("plain loop in Python", "treequest StandardMCTS, in place"):
        bars.append((f"{who}, one question", _median(results, "step", who, task="TextTask", **shapes[0][1])))
    _draw_bars(axes[0], bars, "us per step, model not counted")


def tokens_per_second(report: Any, axes: Sequence[Any]) -> None:
    """Of a real model."""
    results = results_in(report)

    def rate(who: str, **at: Any) -> float:
        return _median(results, "tokens per second", who, model="smollm2", **at)

    bars = [
        ("the recipe's loop", rate("the recipe's loop", part="one question")),
        ("model.generate, 1 row", rate("model.generate", part="one question")),
        ("bavt_fast, one question, one ask at a time", rate(OURS, part="one question", asks=1)),
        ("bavt_fast, one question, 8 asks in flight", rate(OURS, part="one question", asks=8)),
        ("model.generate, 8 rows", rate("model.generate", part="8 rows", asks=8)),
        ("bavt_fast, 8 questions", rate(OURS, part="8 rows", questions=8)),
        ("model.generate, 64 rows", rate("model.generate", part="64 rows", asks=64)),
        ("bavt_fast, 64 questions", rate(OURS, part="64 rows", questions=64)),
    ]
    _draw_bars(axes[0], bars, "generated tokens per second, SmolLM2-135M on 2 cores")


def tokens_per_second_on_a_gpu(report: Any, axes: Sequence[Any]) -> None:
    """Of half a billion random weights."""
    results = results_in(report)

    def rate(who: str, part: str, **at: Any) -> float:
        return _median(results, "tokens per second", who, model="llama-0.5b", part=part, **at)

    bars = [
        ("the recipe's loop", rate("the recipe's loop", "64 rows")),
        ("bavt_fast, one question, 8 asks in flight", rate(OURS, "one question", asks=8)),
        ("model.generate, 64 rows", rate("model.generate", "64 rows")),
        ("bavt_fast, 64 questions", rate(OURS, "64 rows", questions=64)),
        ("bavt_fast, 256 questions over 64 rows", rate(OURS, "64 rows", questions=256)),
    ]
    _draw_bars(axes[0], bars, f"generated tokens per second, a Llama of 0.5 B weights on one {_card(report)}")


def cost_of_a_critic_call(report: Any, axes: Sequence[Any]) -> None:
    """In a CUDA graph, bf16, as a multiple of what the memory or the matrix units allow."""
    results = results_in(report)
    for hidden_size, colour in ((768, "C0"), (2048, "C1"), (4096, "C2"), (8192, "C3")):
        at = {"dtype": "bfloat16", "H": hidden_size}
        floors = {row.at["rows"]: row.median for row in results.of("call", "floor", **at)}
        for who, style in (("ours, graph", "o-"), ("eager, graph", "s:")):
            rows = results.of("call", who, **at)
            times = [row.median / floors[row.at["rows"]] for row in rows]
            label = f"{'bavt_fast' if who.startswith('ours') else 'torch'}, H = {hidden_size:,}"
            axes[0].plot([row.at["rows"] for row in rows], times, colour + style, label=label)
    axes[0].axhline(1, color="k", lw=0.8)
    axes[0].set(xscale="log", yscale="log", xlabel="rows", ylabel="time / floor", title=f"bf16, one {_card(report)}")
    axes[0].grid(alpha=0.3)
    axes[0].legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _card(report: Any) -> str:
    return str(report["machine"]["device"]).removeprefix("NVIDIA ")


def cost_of_an_iteration(report: Any, axes: Sequence[Any]) -> None:
    """The recipe's search and ours, on a model that costs nothing."""
    results = results_in(report)
    shapes = (
        ("its defaults", 1_000, 10),
        ("1,000 iterations", 1_000, 10_000),
        ("5,000 iterations", 5_000, 10_000),
    )
    bars = []
    for label, budget, depth in shapes:
        for who in (recipe.RECIPE, recipe.OURS):
            us = _median(results, recipe.ITERATION, who, budget=budget, depth=depth, characters=10)
            bars.append((f"{who}, {label}", us))
    _draw_bars(axes[0], bars, "us per iteration, a model that costs nothing")


def _median(results: Results, what: str, who: str, **at: Any) -> float:
    rows = results.of(what, who, **at)
    if len(rows) != 1:
        raise ValueError(f"results: expected one row {what!r} of {who!r} at {at}, got {len(rows)}")
    return rows[0].median


def _draw_bars(ax: Any, bars: Sequence[tuple[str, float]], across: str) -> None:
    labels, figures = zip(*bars, strict=True)
    colours = ["C0" if label.startswith(OURS) else "C7" for label in labels]
    drawn = ax.barh(labels, figures, color=colours)
    ax.bar_label(drawn, fmt=lambda figure: f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}", padding=3)
    ax.invert_yaxis()
    ax.set(xlabel=across)
    ax.margins(x=0.1)
    ax.spines[["top", "right"]].set_visible(False)


# ---- All of them

Draw = Callable[[Any, Sequence[Any]], None]
FIGURES: dict[str, tuple[str, Draw, float]] = {  # name: results, what draws it, height in inches
    "budget": ("budget*.json", success_within_a_budget, 4.0),
    "simulation": ("tree-amd-*.json", cost_of_a_simulation, 4.0),
    "step": ("engine-[!b]*.json", cost_of_a_step, 2.4),
    "generation": ("generation-[!n]*.json", tokens_per_second, 3.2),
    "generation_gpu": ("generation-nvidia-*.json", tokens_per_second_on_a_gpu, 2.6),
    "critic": ("critic-nvidia-*.json", cost_of_a_critic_call, 3.4),
    "recipe": ("recipe-*.json", cost_of_an_iteration, 2.6),
}


def source_of(name: str) -> str:
    """What a figure is drawn from: the file, and the hash of its content."""
    path = newest(FIGURES[name][0])
    return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}"


def draw(name: str, folder: Path = IMAGES) -> Path:
    """Draws one figure as SVG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    pattern, fill, height = FIGURES[name]
    report = json.loads(newest(pattern).read_text(encoding="utf-8"))
    panels = len(_success_curves(report)) if "sets" in report else 1
    columns = min(panels, 2)
    lines = -(-panels // columns)
    # Text stays text, and ids do not change from one drawing to the next.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bavt_fast", "font.size": 9}):
        size = 9, height * lines
        figure, axes = plt.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False)
        for ax in axes.flat[panels:]:
            ax.set_visible(False)
        fill(report, axes.flat[:panels])
        path = folder / f"{name}.svg"
        figure.savefig(path, metadata={"Date": None, "Source": source_of(name)})
        plt.close(figure)
    return path


def main() -> None:
    for name in FIGURES:
        print(draw(name).relative_to(ROOT))


if __name__ == "__main__":
    main()
