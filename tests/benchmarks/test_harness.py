"""What all benchmarks share: figures, the timer, targets, tables and files."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import harness
from benchmarks.harness import Case, Curve, LeftOut, Limits, Panel, Results, Row, Stopwatch, Target


def test_figures_of_a_case() -> None:
    seconds = [0.001, 0.003, 0.002, 0.005, 0.004, 0.006]  # for 10,000 items
    row = Case("simulation", "ours", items=10_000, at={"n": 1_000}).row(seconds)
    assert (row.median, row.p20, row.p80, row.rounds, row.unit) == (0.35, 0.2, 0.5, 6, "us")
    assert Case("copy", "floor", items=3_000_000_000, unit="GB/s").row([1.0, 1.0]).median == 3.0
    assert Case("step", "ours", items=1).row([2e-6]).p80 == 2.0, "one round has no spread"


def test_rows_are_found_by_what_who_and_where() -> None:
    results = Results(Row("step", who, "us", n, n, n, 1, {"n": n, "task": "text"}) for who in "ab" for n in (1, 2))
    assert results.median("step", "b", n=2) == 2
    assert results.median("step", "b", n=2, task="text") == 2
    assert results.median("step", "b", n=3) is results.median("other", "b") is results.median("step", "a", m=1) is None
    assert [row.who for row in results.of("step", n=1)] == ["a", "b"]
    assert harness.results_in({"rows": json.loads(json.dumps(results.dump()))}).rows == results.rows


def test_sides_take_turns() -> None:
    turns = []
    sides = {who: lambda who=who: turns.append(who) or len(turns) / 1_000 for who in "ab"}
    found = harness.rounds_of(sides, Limits(seconds=10.0, fewest=1, most=3))
    assert turns == ["a", "b"] * 4, "once to warm up, then three rounds"
    assert found == {"a": [0.003, 0.005, 0.007], "b": [0.004, 0.006, 0.008]}
    assert harness.ratios(found["b"], found["a"]) == pytest.approx([4 / 3, 6 / 5, 8 / 7])


def test_a_first_turn_that_takes_all_the_time_counts() -> None:
    figures = iter([1.0, 2.0, 3.0])
    assert harness.rounds_of({"a": lambda: next(figures)}, Limits(0.0, fewest=2, most=9)) == {"a": [1.0, 2.0]}


def test_rounds_fit_the_time() -> None:
    limits = Limits(seconds=10.0, fewest=3, most=50)
    assert [limits.rounds(first_s) for first_s in (100.0, 1.0, 0.001, 0.0)] == [3, 10, 50, 50]


def test_a_stopwatch_counts_its_method_and_nothing_else() -> None:
    class Model:
        def propose(self, a: int, b: int) -> int:
            time.sleep(0.002)
            if b == 0:
                raise ZeroDivisionError
            return a // b

    model = Model()
    clock = Stopwatch(model, "propose")
    assert model.propose(6, 3) == 2
    time.sleep(0.01)
    with pytest.raises(ZeroDivisionError):
        model.propose(6, 0)
    assert clock.calls == 2
    assert clock.seconds >= 0.004
    assert 0.0 < Stopwatch.overhead_s(calls=1_000) < 0.01


def test_targets() -> None:
    assert Target("", 2.0, 2.0, "x").verdict == Target("", 2.0, 2.0, "x", at_least=True).verdict == "met"
    assert Target("", 2.1, 2.0, "x").verdict == Target("", 1.9, 2.0, "x", at_least=True).verdict == "missed"
    assert Target("", None, 2.0, "x").verdict == "not measured"
    assert harness.ratio(3.0, 2.0) == 1.5
    assert harness.ratio(None, 2.0) is harness.ratio(3.0, None) is harness.ratio(3.0, 0.0) is None


def test_parts_that_cannot_run_are_left_out_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    row = Row("step", "ours", "us", 1.0, 0.5, 2.0, 3, {"n": 1_000})

    def whole() -> Iterator[Row]:
        yield row

    def half() -> Iterator[Row]:
        yield row
        raise LeftOut("a rival (not installed)")

    assert harness.run_parts([half, whole]) == ([row, row], ["a rival (not installed)"])
    assert "step, ours (n 1,000): 1.00 (0.500-2.00) us" in capsys.readouterr().out


def test_a_report_is_written_and_read_again(tmp_path: Path) -> None:
    row = Row("step", "ours", "us", 1.0, 0.5, 2.0, 3, {"n": 1_000})
    report = harness.report_of(
        title="Steps",
        command="make it",
        machine=harness.describe_machine("pytest", "no-such-package"),
        rows=[row, Row("quoted", "theirs", "us", 7.0, 7.0, 7.0, 0)],
        targets=[Target("a step", 1.0, 5.0, "us")],
        left_out=["a rival"],
        note="said",
    )
    assert {"cpu", "cores", "python", "pytest", "commit"} == set(report["machine"])
    stem = harness.stem_of("steps", report, device="NVIDIA H100 80GB (SXM)")
    path = harness.write(report, harness.heading(report) + "\n", tmp_path / "new", stem)
    assert path.name == f"steps-nvidia-h100-80gb-sxm-{report['date']}.json"
    again = json.loads(path.read_text())
    assert again == report
    assert again["note"] == "said"
    assert path.with_suffix(".md").read_text().startswith("# Steps\n\ncpu ")
    assert harness.targets_table(again["targets"]).endswith("| a step | 1.00 | at most 5 us | met |")
    lines = harness.all_rows_table(harness.results_in(again)).splitlines()
    assert lines[-2:] == [
        "| step | ours | 1,000 | 1 | 0.5 | 2 | us | 3 |",
        "| quoted | theirs |  | 7 | 7 | 7 | us | quoted |",
    ]


def test_a_benchmark_is_two_functions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def measured(effort: str) -> Iterator[Row]:
        yield Case("step", "ours", items=10, at={"effort": effort}).row([1e-5, 3e-5, 2e-5])

    code = harness.run(
        "steps",
        title="Steps",
        command="make steps",
        parts=lambda effort: [lambda: measured(effort)],
        targets=lambda results: [Target("a step", results.median("step", "ours"), 1.0, "us")],
        efforts=("full", "tiny"),
        packages=("pytest",),
        arguments=["--effort", "tiny", "--out", str(tmp_path)],
    )
    assert code == 0
    report = json.loads(next(tmp_path.glob("steps-*.json")).read_text())
    assert report["command"] == "python -m benchmarks.steps --effort tiny"
    assert (report["rows"][0]["median"], report["rows"][0]["at"]) == (2.0, {"effort": "tiny"})
    text = next(tmp_path.glob("steps-*.md")).read_text()
    assert text.startswith("# Steps\n")
    assert "| a step | 2.00 | at most 1 us | missed |" in text
    assert "| a step | 2.00 | at most 1 us | missed |" in capsys.readouterr().out


def test_numbers_and_tables() -> None:
    figures = (None, 0.0123, 1.234, 12.34, 1234.5)
    assert [harness.number(value) for value in figures] == ["", "0.012", "1.23", "12.3", "1,234"]
    assert harness.table(["", "a"], [["full", "1"], ["empty", ""]]) == "|  | a |\n| --- | --- |\n| full | 1 |"


def test_a_plot_has_a_line_for_every_curve(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    curves = [Curve("one", [(1, 2.0), (10, 3.0)], "C0o-"), Curve("none", [], "C1o-")]
    path = tmp_path / "plot.svg"
    assert harness.plot([Panel("size", "us", curves), Panel("size", "share", curves, yscale="linear")], path)
    text = path.read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert text.count(">one<") == 2
    assert ">none<" not in text
