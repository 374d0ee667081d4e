"""Compiles the critic kernel for GPUs that are not here, and reads the machine code's resources.

``python -m tools.critic_kernel.aot`` prints one line per entry of the table, and fails if one breaks a rule of
`problems`; no GPU is needed.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.tools.tensor_descriptor import TensorDescriptor

from bavt_fast.kernels.critic_config import ANY, Entry
from bavt_fast.kernels.critic_launch import (
    CriticCall,
    finish_launch,
    stage_1_launch,
    unit_tiles,
    usable_config,
)
from bavt_fast.kernels.critic_plan import Launch
from bavt_fast.kernels.critic_table import ENTRIES

__all__ = [
    "SHARED_LIMIT_BYTES",
    "Resources",
    "compile_launch",
    "example_call",
    "problems",
    "resources",
    "table_launches",
]

SHARED_LIMIT_BYTES = {80: 99 * 1024, 90: 227 * 1024}
"""Shared memory that one program may use. 8.0 has 163 KiB, but its entries serve 8.6, 8.9 and 12.0 too."""


_TYPES = {
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float32: "fp32",
    torch.int8: "i8",
    torch.int32: "i32",
    torch.int64: "i64",
}
_LARGEST_HIDDEN = 8192


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel takes: registers and bytes of stack and local memory (spills) per thread,
    bytes of shared memory per program, and which of the instructions that matter its PTX holds. `async_copy`
    stands for asynchronous copies of 16 bytes; narrower ones do not keep the memory busy."""

    registers: int
    stack_bytes: int
    local_bytes: int
    shared_bytes: int
    wgmma: bool
    mma: bool
    async_copy: bool
    tensor_copy: bool


def example_call(
    kind: str, rows: int, hidden_size: int, *, half: torch.dtype = torch.bfloat16, index: bool = False
) -> CriticCall:
    """A call with tensors that have shapes and no memory; hidden states in `half`, or fp32 for "fp32" and
    "tf32".
    """
    dtype = torch.float32 if kind in ("fp32", "tf32") else half

    def empty(*shape: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    units = 2 * hidden_size
    return CriticCall(
        hidden=empty(rows, hidden_size),
        w1=empty(units, hidden_size, dtype=torch.int8 if kind == "int8" else dtype),
        b1=empty(units),
        w2=empty(1, units),
        b2=empty(1),
        index=empty(rows, dtype=torch.int64) if index else None,
        w1_scale=empty(units, dtype=torch.float32) if kind == "int8" else None,
    )


def table_launches(
    entry: Entry,
    *,
    rows: int | None = None,
    hidden_size: int | None = None,
    half: torch.dtype = torch.bfloat16,
    index: bool = False,
) -> list[Launch]:
    """Both stages' launches for the largest call that `entry` serves, or one of the given size."""
    rows = rows or (4096 if entry.max_rows == ANY else entry.max_rows)
    size = hidden_size or min(entry.max_hidden, _LARGEST_HIDDEN)
    call = example_call(entry.kind, rows, size, half=half, index=index)
    config = usable_config(call, entry.config)
    partial = torch.empty(unit_tiles(config, size), rows, device="meta")
    out = torch.empty(rows, 1, dtype=call.hidden.dtype, device="meta")
    return [
        stage_1_launch(call, config, partial, allow_tf32=entry.kind == "tf32"),
        finish_launch(call, config, partial, out, (0.0, 1.0)),
    ]


def compile_launch(launch: Launch, capability: int) -> Any:
    """The kernel of `launch`, compiled for compute capability `capability` / 10 and specialised as at a
    launch.
    """
    unspecialised = set(launch.kernel.do_not_specialize or ())
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], list[list[object]]] = {}
    for position, parameter in enumerate(launch.kernel.params):
        value = launch.arguments[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[parameter.name] = "constexpr"
            constants[parameter.name] = value
            continue
        signature[parameter.name] = _type_of(value)
        if parameter.name not in unspecialised and _divisible_by_16(value):
            attributes[(position,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options)


def resources(compiled: Any) -> Resources:
    """Resources of a compiled kernel, by ``cuobjdump --dump-resource-usage``.

    Raises:
        RuntimeError: cuobjdump printed no resource line.
    """
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(compiled.asm["cubin"])
        cubin.flush()
        command = [str(_cuobjdump()), "--dump-resource-usage", cubin.name]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", listing))
    if set(found) != {"REG", "STACK", "LOCAL"}:
        raise RuntimeError(f"cuobjdump printed no resource usage:\n{listing}")
    ptx = compiled.asm["ptx"]
    return Resources(
        registers=int(found["REG"]),
        stack_bytes=int(found["STACK"]),
        local_bytes=int(found["LOCAL"]),
        shared_bytes=compiled.metadata.shared,
        wgmma="wgmma.mma_async" in ptx,
        mma="mma.sync" in ptx,
        async_copy=re.search(r"cp\.async\.c[ag]\.shared\.global [^;]*, 0x10\b", ptx) is not None,
        tensor_copy="cp.async.bulk.tensor" in ptx,
    )


def problems(entry: Entry, used: Resources, *, aligned: bool = True) -> list[str]:
    """Which rules the stage-1 kernel of `entry` breaks: no spills, a fitting size, the matrix unit and the
    copies that it is meant to use. `aligned` says that H is a multiple of 16, as asynchronous copies need.
    """
    found = []
    if used.stack_bytes or used.local_bytes:
        found.append(f"spills: {used.stack_bytes} bytes of stack, {used.local_bytes} of local memory")
    if used.shared_bytes > SHARED_LIMIT_BYTES[entry.capability]:
        found.append(f"shared memory: {used.shared_bytes} bytes")
    kernel, tile = entry.config.kernel, entry.config
    if kernel != "vector" and entry.kind != "fp32" and not (used.mma or used.wgmma):
        found.append("no matrix instruction")
    if kernel == "many" and entry.capability == 90 and entry.kind in ("half", "tf32") and not used.wgmma:
        found.append("no wgmma")
    if aligned and tile.descriptors and not used.tensor_copy:
        found.append("no tensor copy")
    one_tile = tile.block_k >= entry.max_hidden  # there is no next one to copy meanwhile
    if aligned and tile.num_stages > 1 and not one_tile and not (used.async_copy or used.tensor_copy):
        found.append("no asynchronous copy")
    return found


def _cuobjdump() -> Path:
    return Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def _type_of(value: Any) -> str:
    if isinstance(value, TensorDescriptor):
        return f"tensordesc<{_TYPES[value.base.dtype]}[{', '.join(map(str, value.block_shape))}]>"
    if isinstance(value, torch.Tensor):
        return "*" + _TYPES[value.dtype]
    if isinstance(value, float):
        return "fp32"
    return "i32" if -(2**31) <= value < 2**31 else "i64"


def _divisible_by_16(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.data_ptr() % 16 == 0
    return isinstance(value, int) and value % 16 == 0


def _table_line(entry: Entry, used: Resources) -> str:
    tile = entry.config
    shape = f"{tile.kernel} {tile.block_rows}x{tile.block_units}x{tile.block_k}"
    shape += f" w{tile.num_warps} s{tile.num_stages}"
    matrix = "wgmma" if used.wgmma else "mma" if used.mma else "-"
    copies = "tensor" if used.tensor_copy else "async" if used.async_copy else "-"
    bounds = ["any" if bound == ANY else str(bound) for bound in (entry.max_rows, entry.max_hidden)]
    return (
        f"| {entry.capability} | {entry.kind} | {bounds[0]} | {bounds[1]} | {shape} | {used.registers} | "
        f"{used.stack_bytes + used.local_bytes} | {used.shared_bytes / 1024:.0f} | {matrix} | {copies} |"
    )


def main() -> int:
    print("| capability | kind | rows | H | tiling | registers | spills | shared KiB | matrix unit | copies |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    broken = 0
    for entry in ENTRIES:
        used = resources(compile_launch(table_launches(entry)[0], entry.capability))
        print(_table_line(entry, used), flush=True)
        for problem in problems(entry, used):
            broken += 1
            print(f"{entry}: {problem}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
