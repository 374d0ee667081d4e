"""The critic's benchmark and tuner, as far as they run without a GPU."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from bavt_fast.kernels.critic_config import ANY, Config, Entry  # noqa: E402
from bavt_fast.kernels.critic_table import ENTRIES  # noqa: E402
from benchmarks import harness  # noqa: E402
from benchmarks.harness import Results, Row, results_in  # noqa: E402
from benchmarks.kernel import critic, critic_error  # noqa: E402
from benchmarks.kernel.critic_report import markdown, panels, targets_of  # noqa: E402
from benchmarks.kernel.critic_timing import Floors, call_bytes, call_flops, input_sets, sample  # noqa: E402
from tools.critic_kernel import tune  # noqa: E402
from tools.critic_kernel.ahead import Ahead, Job  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


def test_bytes_and_operations_of_a_call() -> None:
    # 3 rows, H = 4: hidden 12, w1 32, b1 8, w2 8, b2 1, out 3 numbers; 3 * (8*4 + 8) multiply-adds.
    assert call_bytes(3, 4, torch.bfloat16) == 2 * (12 + 32 + 8 + 8 + 1 + 3)
    assert call_flops(3, 4) == 2 * 3 * (8 * 4 + 8)


def test_the_floor_is_the_slower_of_memory_and_arithmetic() -> None:
    floors = Floors(3e12, {"torch.bfloat16": 8e14})
    few, many = floors.time_us(1, 4096, torch.bfloat16), floors.time_us(8192, 4096, torch.bfloat16)
    assert math.isclose(few, call_bytes(1, 4096, torch.bfloat16) / 3e6)
    assert math.isclose(many, call_flops(8192, 4096) / 8e8)


def test_input_sets_rotate_past_the_cache() -> None:
    small = input_sets(1, 64, torch.float32, torch.device("cpu"))
    assert len(small) == 128
    assert len({inputs[1].data_ptr() for inputs in small}) == 128
    assert len(input_sets(1, 1024, torch.float32, torch.device("cpu"))) == 2


def test_the_benchmark_runs_on_the_cpu_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert critic.main(["--device", "cpu", "--quick", "--out", str(tmp_path)]) == 0
    report = json.loads(next(tmp_path.glob("critic-cpu-*.json")).read_text())
    assert report["note"] == critic.CPU_NOTE
    assert "says nothing about the kernel" in capsys.readouterr().out
    results = results_in(report)
    assert {row.who for row in results.rows} == {"floor", "eager", "ours"}
    assert len(results.rows) == 3 * 4
    assert all(0.0 < row.p20 <= row.median <= row.p80 for row in results.rows)
    assert {"device", "torch", "triton", "commit", "cpu"} <= set(report["machine"])
    assert {target["verdict"] for target in report["targets"]} == {"not measured"}, "no bf16 on the CPU"
    assert next(tmp_path.glob("*.md")).read_text() == markdown(report)
    (panel,) = panels(results)
    assert [(curve.label, len(curve.points)) for curve in panel.curves] == [("H = 64", 2), ("H = 128", 2)]
    if importlib.util.find_spec("matplotlib"):
        assert ElementTree.fromstring(next(tmp_path.glob("*.svg")).read_text()).tag.endswith("svg")


def test_a_shape_that_fails_is_left_out_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = critic.critic_mlp
    monkeypatch.setattr(
        critic, "critic_mlp", lambda *arguments: real(*arguments) * (1.5 if len(arguments[0]) > 1 else 1)
    )
    assert critic.main(["--device", "cpu", "--quick", "--out", str(tmp_path)]) == 1
    report = json.loads(next(tmp_path.glob("critic-cpu-*.json")).read_text())
    assert len(report["left_out"]) == 2
    assert "rows=8, hidden_size=64" in report["left_out"][0]
    assert "ours is wrong" in report["left_out"][0]
    assert "| float32 | 1 | 128 |" in capsys.readouterr().out


def test_long_calls_are_timed_less_often() -> None:
    cpu = torch.device("cpu")
    assert len(sample(lambda: None, 1, cpu, 25)) == 25
    assert len(sample(lambda: time.sleep(0.06), 1, cpu, 25)) in (7, 8)
    assert len(sample(lambda: time.sleep(0.06), 1, cpu, 3)) == 3


def report_of(times: dict[tuple[int, int], dict[str, float]], floor_us: float = 1.0) -> dict[str, Any]:
    """A bf16 report with the given medians, by (rows, H) and implementation."""
    rows = [
        Row(
            "call", name, "us", time, time - 0.25, time + 0.5, 5, {"dtype": "bfloat16", "rows": shape[0], "H": shape[1]}
        )
        for shape, cells in times.items()
        for name, time in {"floor": floor_us, **cells}.items()
    ]
    floors = {"copy_bytes_per_s": 3e12, "matmul_flops_per_s": {"torch.bfloat16": 8e14}}
    targets = targets_of(Results(rows))
    return harness.report_of(title="", command="", machine={}, rows=rows, targets=targets, floors=floors, note="")


def test_the_tables_show_the_spread_the_rate_and_the_worst_shape_of_each_target() -> None:
    few = {"eager": 8.0, "ours": 6.0, "eager, graph": 4.0, "ours, graph": 2.0}
    text = markdown(report_of({(1, 768): few, (32, 2048): few | {"ours": 10.0, "ours, graph": 5.0}}))
    assert "| 8.00 (7.75-8.50) | 6.00 (5.75-6.50) |" in text
    assert f"| 1.00 | {call_bytes(1, 768, torch.bfloat16) / 2e6:.3g} TB/s | 2.00 | 50% |" in text
    assert "| any shape, against the best other (worst of 2: 32 x 2048) | 0.800 | at least 1 x | missed |" in text
    assert (
        "| any shape, called directly, against eager (worst of 2: 32 x 2048) | 0.800 | at least 1 x | missed |" in text
    )
    assert "| rows <= 32, H <= 2,048, against eager (worst of 2: 32 x 2048) | 1.60 | at least 2 x | missed |" in text
    assert "| rows <= 32, H >= 4,096, of the bandwidth | - | at least 0.85 x | not measured |" in text
    many = report_of({(2048, 4096): {"eager": 400.0, "ours": 250.0}}, floor_us=200.0)
    assert f"| {call_flops(2048, 4096) / 250e6:.3g} TFLOP/s | 1.60 | 80% |" in markdown(many)
    assert "of the matrix rate (worst of 1: 2048 x 4096) | 0.800 | at least 0.75 x | met |" in markdown(many)


def test_a_shape_that_was_left_out_has_no_line() -> None:
    report = report_of({(1, 768): {"eager": 8.0, "ours": 6.0}, (3, 768): {}})
    assert "| bfloat16 | 1 | 768 |" in markdown(report)
    assert "| bfloat16 | 3 | 768 |" not in markdown(report)


def test_torch_compile_comes_last() -> None:
    cuda = torch.device("cuda")
    wanted = critic.shapes(cuda, quick=False)
    assert len(wanted) == len(set(wanted)) == 8 * 4 * 2
    for mode, count in (("all", 64), ("some", 2 * len(critic.COMPILED_SOME)), ("none", 0)):
        first, second = critic.passes(wanted, cuda, mode)
        assert first == [(shape, False) for shape in wanted]
        assert len(second) == count
        assert all(compiled for _, compiled in second)
    assert critic.passes(wanted, torch.device("cpu"), "all")[1] == []


def test_the_error_table_shows_what_int8_costs(capsys: pytest.CaptureFixture[str]) -> None:
    assert critic_error.main(["--rows", "32", "--hidden", "64"]) == 0
    cells = capsys.readouterr().out.splitlines()[-1].strip("| ").split(" | ")
    assert cells[0] == "64"
    bf16, bf16_int8, fp16, fp16_int8 = map(float, cells[1:])
    assert fp16 < bf16 < bf16_int8 < 0.02
    assert fp16 < fp16_int8 < bf16_int8


def test_the_benchmark_refuses_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(critic, "critic_mlp", lambda *arguments: critic.eager(*arguments) * 1.01)
    shape = critic.Shape(4, 64, torch.float32)
    with pytest.raises(RuntimeError, match="ours is wrong"):
        list(critic.measure(shape, torch.device("cpu"), False, 1))


@pytest.mark.parametrize("capability", [80, 90])
def test_the_tuner_tries_sensible_neighbours(capability: int) -> None:
    for entry in ENTRIES:
        if entry.capability == capability:
            tried = tune.neighbours(entry.config, capability)
            assert tried[0] == entry.config
            assert len(tried) == len(set(tried)) > 4
            for tile in tried:
                blocks = (tile.block_rows, tile.block_units, tile.block_k, tile.num_warps)
                assert all(block & (block - 1) == 0 for block in blocks), "triton takes powers of two"
                assert tile.kernel == entry.config.kernel
                assert capability == 90 or not (tile.overlap or tile.descriptors)


def test_the_tuner_tries_the_best_tile_with_stage_2_overlapped_too(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config("few", 16, 32, 64, 4, 3)

    def time_us(tile: Config, *_: Any) -> float:
        return 5.0 - (tile.block_units == 64) - 0.5 * tile.overlap

    monkeypatch.setattr(tune, "_calls", lambda entry, device: [(None,)])
    monkeypatch.setattr(tune, "_exact", lambda call: None)
    monkeypatch.setattr(tune, "_time_config", time_us)
    monkeypatch.setattr(tune, "_time_torch", lambda entry, calls: 3.75)
    for capability, overlap in ((90, True), (80, False)):
        entry = Entry(capability, "half", 16, 1024, False, config, "predicted")
        tuned = tune.tune_entry(entry, torch.device("cpu"), "measured")
        assert tuned.config == replace(config, block_units=64, overlap=overlap)
        assert tuned.use_torch is (not overlap), "torch took 3.75 us, the best tile 3.5 with and 4 without overlap"


def small_table() -> list[Entry]:
    """Two entries of fp32 and one of bf16 for 9.0, and one for 8.0."""
    config = Config("few", 16, 16, 64, 2, 2)
    entries = [Entry(90, "fp32", rows, ANY, False, config, "predicted") for rows in (16, ANY)]
    return [*entries, replace(entries[0], kind="half"), replace(entries[0], capability=80)]


def test_the_tuner_takes_kinds_as_asked_and_the_largest_shape_first() -> None:
    small, large, half, _ = small_table()
    assert tune.in_order(small_table(), ["half", "fp32"], 90) == [half, large, small]
    assert tune.in_order(small_table(), ["fp32"], 90) == [large, small]


def test_the_tuner_stops_at_its_limit_and_outlives_an_entry_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    def measured(entry: Entry) -> Entry:
        if entry.max_rows == ANY:
            raise RuntimeError("no tiling works")
        return replace(entry, source="measured")

    wanted = tune.in_order(small_table(), ["half", "fp32"], 90)
    assert list(tune.tune(wanted, math.inf, measured)) == [measured(wanted[0]), None, measured(wanted[2])]
    assert "fp32 (4096, 8192): kept, RuntimeError: no tiling works" in capsys.readouterr().out
    assert list(tune.tune(wanted, -1.0, measured)) == []


def test_the_tuner_writes_the_table_after_each_entry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "critic_table.py"
    half = small_table()[2]
    seen: list[str | None] = []

    def tune_entry(entry: Entry, device: Any, source: str, ahead: Any) -> Entry:
        seen.append(path.read_text() if path.exists() else None)
        if entry == half:
            raise RuntimeError("no tiling works")
        return replace(entry, source=source)

    gpu = {"is_available": True, "current_device": 0, "get_device_capability": (9, 0), "get_device_name": "A GPU"}
    for name, answer in gpu.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    monkeypatch.setattr(tune, "ENTRIES", tuple(small_table()))
    monkeypatch.setattr(tune, "TABLE_PATH", path)
    monkeypatch.setattr(
        tune, "Ahead", lambda capability: contextlib.nullcontext(SimpleNamespace(submit=lambda jobs: 0))
    )
    monkeypatch.setattr(tune, "tune_entry", tune_entry)
    assert tune.main(["--kinds", "fp32", "half"]) == 1, "one entry failed"
    assert seen[0] is None
    assert [text.count("A GPU") for text in seen[1:]] == [1, 2]
    assert path.read_text().count("A GPU") == 2
    assert path.read_text().count('predicted"),') == 2
    assert not list(tmp_path.glob("*.tmp"))


def test_what_is_compiled_ahead_is_told_apart_from_what_cannot_be() -> None:
    good = Job("half", 16, 64, Config("few", 16, 32, 64, 4, 2))
    bad = Job("int8", 300, 64, Config("many", 64, 64, 64, 4, 2))
    with Ahead(90, processes=1) as ahead:
        ahead.submit([good, bad, good])
        assert ahead.failure(good) == ""
        assert ahead.failure(bad).startswith("ValueError: config: the many-rows kernel takes no int8")
        assert ahead.failure(replace(good, rows=17)) == "", "what was never asked for is compiled when launched"


def test_entries_are_tuned_at_the_largest_shape_they_serve() -> None:
    config = Config("few", 16, 16, 64, 2, 2)
    assert tune.tuned_shape(Entry(90, "half", 32, 4096, False, config, "")) == (32, 4096)
    assert tune.tuned_shape(Entry(90, "half", ANY, ANY, False, config, "")) == (4096, 8192)
    assert tune.tuned_shape(Entry(90, "half", 1, 1024, False, config, "")) == (1, 768)


@pytest.mark.skipif(torch.cuda.is_available(), reason="would tune")
def test_the_tuner_needs_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert tune.main([]) == 2
    assert "needs an NVIDIA GPU" in capsys.readouterr().err


# The script

ROOT = Path(__file__).parents[2]


def run_script(python: Path | str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "benchmarks/kernel/critic_gpu.sh", *arguments]
    environment = os.environ | {"PYTHON": str(python), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="would check the kernel")
def test_the_script_runs_through_without_a_gpu(tmp_path: Path) -> None:
    result = run_script(sys.executable, "--tiny", str(tmp_path))
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    assert [line.split(" in ")[0] for line in result.stdout.splitlines()[-4:-1]] == [
        "== check: done", "== time: done", "== recheck: done",
    ]  # fmt: skip
    assert "skipped" in (tmp_path / "critic-check.log").read_text()
    assert (tmp_path / "critic_table.py").exists()
    assert len(list(tmp_path.glob("critic-cpu-*.json"))) == 1


def test_no_part_of_the_script_stops_those_after_it(tmp_path: Path) -> None:
    """With a Python that fails the checks and hangs in the tuner."""
    python = tmp_path / "python"
    python.write_text(
        "#!/usr/bin/env bash\n"
        'case "$*" in\n'
        '"-m pytest"*) echo "1 failed"; exit 1 ;;\n'
        "*critic_kernel.tune*) echo half; exec sleep 60 ;;\n"
        '*benchmarks.kernel*) echo "timed with $*" ;;\n'
        "esac\n"
    )
    python.chmod(0o755)
    result = run_script(python, "--seconds", "8", "--parts", "check tune time tiem", str(tmp_path))
    assert result.returncode == 1
    told = result.stdout.splitlines()
    assert "timed with -m benchmarks.kernel --device cuda --compile some" in result.stdout
    assert told[-5].startswith("== check: FAILED with status 1")
    assert told[-4] in ("== tune: FAILED, out of time after 3 s", "== tune: FAILED, out of time after 4 s")
    assert told[-3].startswith("== time: done")
    assert told[-2] == "== tiem: FAILED, there is no such part"
    assert (tmp_path / "critic-tune.log").read_text() == "half\n"
