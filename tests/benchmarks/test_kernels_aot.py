"""Every tiling of the table, compiled for GPUs that are not here: it builds, spills nothing and uses the
right units.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

from kernel_processes import OTHER_TRITONS  # noqa: E402

from bavt_fast.kernels.critic_config import ANY, Entry  # noqa: E402
from bavt_fast.kernels.critic_plan import Launch  # noqa: E402
from bavt_fast.kernels.critic_table import ENTRIES  # noqa: E402
from tools.critic_kernel.aot import (  # noqa: E402
    SHARED_LIMIT_BYTES,
    Resources,
    compile_launch,
    problems,
    resources,
    table_launches,
)
from tools.critic_kernel.table import TABLE_PATH, render  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter compiles nothing"),
]
ROOT = Path(__file__).parent.parent.parent


def distinct(entries: tuple[Entry, ...]) -> list[Entry]:
    """One entry for each combination of capability, kind and tiling: the one with the largest H."""
    return list({(entry.capability, entry.kind, entry.config): entry for entry in entries}.values())


@pytest.mark.parametrize("entry", distinct(ENTRIES), ids=str)
def test_a_tiling_compiles_within_the_chips_limits(entry: Entry) -> None:
    stage_1, _ = table_launches(entry)
    assert problems(entry, resources(compile_launch(stage_1, entry.capability))) == []


ONE_PER_KERNEL = list({(e.capability, e.kind, e.config.kernel): e for e in ENTRIES}.values())


@pytest.mark.parametrize("entry", [e for e in ONE_PER_KERNEL if e.kind in ("half", "int8")], ids=str)
def test_fp16_compiles_as_bf16_does(entry: Entry) -> None:
    stage_1, _ = table_launches(entry, half=torch.float16)
    assert problems(entry, resources(compile_launch(stage_1, entry.capability))) == []


def fewest_rows(entry: Entry) -> int:
    """The fewest rows that `entry` serves at the largest H it serves."""
    tighter = [
        other.max_rows
        for other in ENTRIES[: ENTRIES.index(entry)]
        if (other.capability, other.kind) == (entry.capability, entry.kind) and other.max_hidden >= entry.max_hidden
    ]
    return 1 + max(tighter, default=0)


def compiled_for(launch: Launch) -> tuple[object, ...]:
    """What the compiler is told of a launch: constants and options."""
    constants = {p.name: launch.arguments[p.name] for p in launch.kernel.params if p.is_constexpr}
    return launch.kernel.fn.__name__, constants, launch.options


@pytest.mark.parametrize("entry", ENTRIES, ids=str)
def test_all_numbers_of_rows_of_an_entry_share_what_warmup_compiled(entry: Entry) -> None:
    low, high = fewest_rows(entry), 16384 if entry.max_rows == ANY else entry.max_rows
    assert low <= high
    first = [compiled_for(launch) for launch in table_launches(entry, rows=low)]
    for rows in {low + 1, (low + high) // 2, high} - {high + 1}:
        assert [compiled_for(launch) for launch in table_launches(entry, rows=rows)] == first


@pytest.mark.parametrize("entry", ONE_PER_KERNEL, ids=str)
def test_gathered_calls_compile_too(entry: Entry) -> None:
    stage_1, _ = table_launches(entry, index=True)
    used = resources(compile_launch(stage_1, entry.capability))
    assert problems(entry, used) == []


@pytest.mark.parametrize("entry", ONE_PER_KERNEL, ids=str)
def test_ragged_and_gathered_calls_compile_too(entry: Entry) -> None:
    stage_1, _ = table_launches(entry, hidden_size=1023, index=True)
    used = resources(compile_launch(stage_1, entry.capability))
    assert problems(entry, used, aligned=False) == []
    assert not used.tensor_copy, "rows that start at odd addresses cannot use descriptors"


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("overlap", [False, True])
def test_stage_2_compiles(capability: int, overlap: bool) -> None:
    if overlap and capability < 90:
        pytest.skip("programmatic dependent launch is of 9.0 and up")
    entries = [e for e in ENTRIES if e.capability == capability and e.kind == "half"]
    for entry in (entries[0], entries[-1]):
        changed = replace(entry, config=replace(entry.config, overlap=overlap))
        compiled = compile_launch(table_launches(changed)[1], capability)
        used = resources(compiled)
        assert (used.stack_bytes, used.local_bytes) == (0, 0)
        assert used.shared_bytes <= SHARED_LIMIT_BYTES[capability]
        assert ("griddepcontrol.wait" in compiled.asm["ptx"]) == overlap


@pytest.mark.parametrize("entry", [e for e in ONE_PER_KERNEL if e.capability == 90], ids=str)
def test_stage_1_starts_an_overlapped_stage_2(entry: Entry) -> None:
    for overlap in (False, True):
        changed = replace(entry, config=replace(entry.config, overlap=overlap))
        compiled = compile_launch(table_launches(changed)[0], entry.capability)
        assert ("griddepcontrol.launch_dependents" in compiled.asm["ptx"]) == overlap
        assert problems(changed, resources(compiled)) == []


def test_no_float_is_added_atomically() -> None:
    for launch in table_launches(next(e for e in ENTRIES if e.capability == 90 and e.config.descriptors)):
        assert not any(word in compile_launch(launch, 90).asm["ptx"] for word in ("atom.", "red.global"))


def test_the_rules_notice_what_they_forbid() -> None:
    entry = next(e for e in ENTRIES if e.capability == 90 and e.kind == "half" and e.max_rows == ANY)
    good = Resources(128, 0, 0, 1024, wgmma=True, mma=False, async_copy=True, tensor_copy=True)
    assert problems(entry, good) == []
    bad = Resources(255, 8, 16, 10**6, wgmma=False, mma=False, async_copy=False, tensor_copy=False)
    assert [text.split(":")[0] for text in problems(entry, bad)] == [
        "spills",
        "shared memory",
        "no matrix instruction",
        "no wgmma",
        "no tensor copy",
        "no asynchronous copy",
    ]


@pytest.mark.parametrize("triton_path", OTHER_TRITONS)
def test_the_table_with_another_triton(triton_path: str) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((triton_path, str(ROOT)))}
    command = [sys.executable, "-m", "tools.critic_kernel.aot"]
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800, check=False
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert result.stdout.count("\n") == len(ENTRIES) + 2


# The table's file


def test_the_table_file_is_what_the_tuner_writes() -> None:
    assert TABLE_PATH.read_text() == render(ENTRIES)
