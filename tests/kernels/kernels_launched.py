"""What the critic kernel's op and the sampler launch, on CPU tensors with a driver that records instead of launching.

`test_kernels_launches` runs this file in a process of its own: the driver is triton's for the whole process. All but
the driver is real: the op, triton's just-in-time path, and kernels compiled for capability 9.0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import triton
from kernel_cases import critic_arguments
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from bavt_fast.generators.device_sampling import DeviceSampler
from bavt_fast.generators.sampling import SamplingRules
from bavt_fast.kernels import critic, critic_mlp, quantize_w1, warmup
from tools.critic_kernel import host
from tools.critic_kernel.host import LaunchRecord, pretend_gpu

LAUNCHED: list[LaunchRecord] = []
pretend_gpu(LAUNCHED.append)


@pytest.fixture(autouse=True)
def nothing_is_known_yet() -> Iterator[None]:
    critic._plans.clear()
    LAUNCHED.clear()
    with torch.no_grad():
        yield
    critic._plans.clear()


def launches_of(*arguments: Tensor, **options: Any) -> list[LaunchRecord]:
    LAUNCHED.clear()
    critic_mlp(*arguments, impl="triton", **options)
    return list(LAUNCHED)


def comparable(value: Any, known: dict[int, int]) -> Any:
    """`value`, with tensors that are allocated anew in each call replaced by their shape and dtype."""
    if isinstance(value, TensorDescriptor):
        return ("descriptor", comparable(value.base, known), value.block_shape)
    if not isinstance(value, Tensor):
        return value
    place = known.get(value.data_ptr())
    return ("operand", place) if place is not None else ("new", value.shape, value.dtype)


def recorded(arguments: tuple[Tensor, ...], options: dict[str, Any]) -> list[tuple[str, tuple[int, ...], list[Any]]]:
    tensors = [*arguments, *(value for value in options.values() if isinstance(value, Tensor))]
    known = {tensor.data_ptr(): place for place, tensor in enumerate(tensors)}
    return [
        (name, grid, [comparable(value, known) for value in values])
        for name, grid, values in launches_of(*arguments, **options)
    ]


def cases() -> dict[str, tuple[tuple[Tensor, ...], dict[str, Any]]]:
    half, full = torch.bfloat16, torch.float32
    few = critic_arguments(7, 96, half)
    quantized, scale = quantize_w1(few[1])
    index = torch.tensor([2, 0, 5])
    return {
        "vector": (critic_arguments(1, 96, half), {}),
        "few": (few, {}),
        "descriptors": (critic_arguments(600, 256, half), {}),
        "ragged": (critic_arguments(600, 77, half), {}),
        "fp32": (critic_arguments(7, 96, full), {}),
        "int8": ((few[0], quantized, *few[2:]), {"w1_scale": scale}),
        "value": (few, {"parent_value": torch.rand(7), "value_range": (0.1, 0.8)}),
        "index": (few, {"index": index}),
        "index and value": (few, {"index": index, "parent_value": torch.rand(3).half()}),
    }


@pytest.mark.parametrize("name", cases())
def test_a_repeat_launches_what_the_first_call_launched(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, options = cases()[name]
    first = recorded(arguments, options)
    assert [launch[0] for launch in first] == [first[0][0], "finish_kernel"]
    assert len(critic._plans) == 1

    def never(*_: Any, **__: Any) -> None:
        pytest.fail("triton's own launch path was taken")

    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", never)
    monkeypatch.setattr(critic, "check_arguments", never)
    # Other tensors of the same layout: a plan must hold nothing of the first call's.
    others = tuple(tensor.clone() for tensor in arguments)
    other_options = {key: value.clone() if isinstance(value, Tensor) else value for key, value in options.items()}
    assert recorded(others, other_options) == first


def test_the_descriptors_of_a_repeat_point_at_its_own_tensors() -> None:
    arguments = critic_arguments(600, 256, torch.bfloat16)
    launches_of(*arguments)
    others = tuple(tensor.clone() for tensor in arguments)
    operands = launches_of(*others)[0][2]
    bases = [value.base.data_ptr() for value in operands if isinstance(value, TensorDescriptor)]
    assert bases == [others[0].data_ptr(), others[1].data_ptr()]


def test_whatever_changes_the_compiled_kernel_is_a_layout_of_its_own() -> None:
    hidden, *weights = critic_arguments(8, 96, torch.bfloat16)
    wide = torch.zeros(8 * 200, dtype=torch.bfloat16)
    layouts = {
        "plain": (hidden, {}),
        "fewer rows": (hidden[:5], {}),
        "a stride": (wide.as_strided((8, 96), (192, 1)), {}),
        "an odd stride": (wide.as_strided((8, 96), (97, 1)), {}),
        "an odd base": (wide[1:].as_strided((8, 96), (192, 1)), {}),
        "a bound": (hidden, {"value_range": (0.0, 0.5)}),
        "int64 index": (hidden, {"index": torch.tensor([1, 2])}),
        "int32 index": (hidden, {"index": torch.tensor([1, 2], dtype=torch.int32)}),
        "fp32 parent": (hidden, {"parent_value": torch.rand(8)}),
        "bf16 parent": (hidden, {"parent_value": torch.rand(8).bfloat16()}),
    }
    for count, (label, (rows, options)) in enumerate(layouts.items(), start=1):
        launches_of(rows, *weights, **options)
        assert len(critic._plans) == count, label
    for rows, options in layouts.values():
        launches_of(rows, *weights, **options)
    assert len(critic._plans) == len(layouts)


def test_tf32_and_exact_fp32_do_not_share_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = critic_arguments(8, 96, torch.float32)
    precisions = []
    for allowed in (False, True, False):
        monkeypatch.setattr(critic, "_allow_tf32", lambda allowed=allowed: allowed)
        precisions.append([value for value in launches_of(*arguments)[0][2] if value in ("ieee", "tf32")])
    assert precisions == [["ieee"], ["tf32"], ["ieee"]]


def test_tensors_that_must_be_copied_first_are_copied_each_time() -> None:
    hidden, w1, *rest = critic_arguments(8, 96, torch.bfloat16)
    strided = w1.T.contiguous().T
    for _ in range(2):
        w1_launched = launches_of(hidden, strided, *rest)[0][2][2]
        assert w1_launched.is_contiguous()
        assert torch.equal(w1_launched, w1)
        strided.add_(1.0)
        w1 = w1 + 1.0
    assert not critic._plans


def test_a_bad_call_after_a_good_one_is_still_refused() -> None:
    arguments = critic_arguments(8, 96, torch.bfloat16)
    launches_of(*arguments)
    with pytest.raises(ValueError, match="w1: expected the dtype of hidden"):
        launches_of(arguments[0].half(), *arguments[1:])
    with pytest.raises(ValueError, match="w1: expected shape"):
        launches_of(arguments[0][:, :95], *arguments[1:])


def test_plans_are_forgotten_before_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(critic, "_MAX_PLANS", 2)
    hidden, *weights = critic_arguments(8, 96, torch.bfloat16)
    for rows in (2, 3, 4):
        launches_of(hidden[:rows], *weights)
    assert len(critic._plans) == 1


def test_after_warmup_no_number_of_rows_of_the_entry_compiles_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    warmup([(16, 96)], torch.bfloat16, "cpu", impl="triton")
    monkeypatch.setattr(
        triton.runtime.jit.JITFunction, "_do_compile", lambda *_, **__: pytest.fail("a call waited for the compiler")
    )
    for rows in range(2, 17):
        assert len(launches_of(*critic_arguments(rows, 96, torch.bfloat16))) == 2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_draw_is_one_launch_and_compiles_once(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tried steps and without; however many rows there are, and also when the records have grown."""
    named = np.ones(1000, dtype=bool)
    named[3] = False
    sampler = DeviceSampler(np.zeros((2, 1000), dtype=np.int16), 1, [], named, torch.device("cpu"))
    sampler._checked = {False, True}

    def draw(rows: int, limit: int, tried: bool) -> None:
        steps = [([1] * min(limit, 5), [0.5] * min(limit, 5))] * (limit if tried else 0)
        rules = [SamplingRules(row, 0, limit, temperature=0.7, tried=steps) for row in range(rows)]
        numbers = np.asarray(sampler.open(rules, [-1] * rows))
        logits, hidden = torch.randn(rows, 1000).to(dtype), torch.randn(rows, 16).to(dtype)
        LAUNCHED.clear()
        sampler.draw(torch.as_tensor(numbers), numbers, logits, hidden)
        assert [(name, grid) for name, grid, _ in LAUNCHED] == [("draw_kernel", (rows, 1, 1))]

    draw(2, 3, False)
    draw(2, 3, True)
    monkeypatch.setattr(
        triton.runtime.jit.JITFunction, "_do_compile", lambda *_, **__: pytest.fail("a draw waited for the compiler")
    )
    for rows, limit in ((1, 1), (7, 17), (64, 64), (3, 2)):
        draw(rows, limit, False)
        draw(rows, limit, True)


def test_the_host_time_is_reported(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "microseconds", lambda function: (function(), 1.5)[1])
    assert host.main(["--rows", "3", "--hidden", "64"]) == 0
    pretend_gpu(LAUNCHED.append)  # main set a driver of its own
    assert capsys.readouterr().out.splitlines()[-1] == "| 3 | 64 | 1.5 | 1.5 |"
