"""The critic kernel on a GPU: what the interpreter and the ahead-of-time compilation cannot show."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from kernel_cases import DTYPES, allowed_error, critic_arguments, exact, relative_error  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from bavt_fast.kernels import critic, critic_mlp, critic_mlp_reference, quantize_w1, warmup  # noqa: E402
from bavt_fast.kernels.critic_lookup import find_entry  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0),
        reason="needs an NVIDIA GPU of capability 8.0 or higher",
    ),
]

SHAPES = [(rows, size) for rows in (1, 3, 17, 33, 129, 700, 4097) for size in (96, 577, 768, 2048)]
SHAPES += [(rows, size) for rows in (1, 64, 2048) for size in (4096, 8192)]


def on_gpu(rows: int, hidden_size: int, dtype: Any, seed: int = 0) -> tuple[Tensor, ...]:
    return critic_arguments(rows, hidden_size, dtype, seed, device="cuda")


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield
    torch.cuda.synchronize()  # a fault of the GPU is this test's and not the next one's


def poison() -> None:
    """Leaves NaN in the memory that the next allocations reuse."""
    blocks = [torch.full((2**size,), float("nan"), device="cuda") for size in range(4, 24)]
    del blocks


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "hidden_size"), SHAPES)
def test_against_float64(rows: int, hidden_size: int, dtype: Any) -> None:
    arguments = on_gpu(rows, hidden_size, dtype, seed=rows)
    expected = exact(arguments)
    poison()
    out = critic_mlp(*arguments, impl="triton")
    # Rounding errors of a running fp32 sum grow with its length, in torch's kernels as in ours.
    limit = allowed_error(arguments, expected)
    if dtype == torch.float32:  # and with how much of the results cancels
        plain = relative_error(critic_mlp_reference(*arguments), expected)
        limit = max(1.5 * limit * max(1.0, hidden_size / 1024), 2.0 * plain)
    assert relative_error(out, expected) < limit
    assert torch.equal(out, critic_mlp(*arguments, impl="triton")), "a repeat gives the same bits"
    if dtype != torch.float32:
        assert relative_error(critic_mlp(*arguments), expected) < limit


def test_tf32_when_torch_allows_it() -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    arguments = on_gpu(256, 1024, torch.float32)
    try:
        matmul.fp32_precision = "tf32"
        rounded = relative_error(critic_mlp(*arguments, impl="triton"), exact(arguments))
        matmul.fp32_precision = "ieee"
        full = relative_error(critic_mlp(*arguments, impl="triton"), exact(arguments))
    finally:
        matmul.fp32_precision = before
    assert full < 2e-6 < rounded < 2e-3, "the matrix units cut operands to 10 bits, which is 0.7e-3 where much cancels"


@pytest.mark.parametrize("rows", [1, 20, 300])
def test_int8_weights(rows: int) -> None:
    hidden, w1, *rest = on_gpu(rows, 768, torch.bfloat16)
    quantized, scale = quantize_w1(w1)
    out = critic_mlp(hidden, quantized, *rest, w1_scale=scale)
    dequantized = (hidden, quantized.double() * scale.double()[:, None], *rest)
    assert relative_error(out, exact(dequantized)) < 4e-3
    assert relative_error(out, exact((hidden, w1, *rest))) < 2e-2


@pytest.mark.parametrize("rows", [5, 200])
def test_last_tokens_are_gathered_and_values_clipped(rows: int) -> None:
    states = torch.randn(rows, 9, 768, device="cuda", dtype=torch.bfloat16)
    _, *weights = on_gpu(1, 768, torch.bfloat16)
    index = torch.randint(-9, 9, (rows,), device="cuda")
    parent = torch.rand(rows, device="cuda")
    value = critic_mlp(states, *weights, index=index, parent_value=parent, value_range=(0.2, 0.8))
    expected = (parent[:, None] + exact((states, *weights), index)).clamp(0.2, 0.8)
    assert relative_error(value, expected) < 4e-3
    index[1] = 9
    out = critic_mlp(states, *weights, index=index, impl="triton")
    assert out[:, 0].isnan().nonzero().tolist() == [[1]], "out of range gives NaN for that row alone"


@pytest.mark.parametrize("rows", [1, 20, 300])
def test_nan_and_infinity_propagate_as_in_torch(rows: int) -> None:
    for value in (float("nan"), float("inf"), float("-inf")):
        arguments = on_gpu(rows, 72, torch.float32)
        arguments[0][-1, 3] = value
        arguments[3].abs_()  # so that infinities add up to infinity and padding's NaN would show
        out, expected = critic_mlp(*arguments, impl="triton"), critic_mlp_reference(*arguments)
        torch.testing.assert_close(out, expected, equal_nan=True, rtol=1e-4, atol=1e-4)


def test_a_cuda_graph_replays_it_on_new_inputs() -> None:
    arguments = on_gpu(24, 768, torch.bfloat16)
    warmup([(24, 768)])
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = critic_mlp(*arguments)
    for seed in range(3):
        arguments[0].copy_(on_gpu(24, 768, torch.bfloat16, seed)[0])
        graph.replay()
        assert torch.equal(out, critic_mlp(*arguments))


def test_a_graph_captures_a_call_whose_layout_is_known() -> None:
    arguments = on_gpu(300, 1024, torch.bfloat16)
    critic._plans.clear()
    expected = critic_mlp(*arguments, impl="triton")
    assert torch.equal(critic_mlp(*arguments, impl="triton"), expected)
    assert critic._plans, "the second call goes straight to the compiled kernels"
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = critic_mlp(*arguments, impl="triton")
    out.fill_(float("nan"))
    graph.replay()
    assert torch.equal(out, expected)


def test_no_call_of_an_entry_compiles_after_its_warmup(monkeypatch: pytest.MonkeyPatch) -> None:
    import triton

    warmup([(16, 768)])
    monkeypatch.setattr(
        triton.runtime.jit.JITFunction, "_do_compile", lambda *_, **__: pytest.fail("a call waited for the compiler")
    )
    for rows in range(2, 17):
        arguments = on_gpu(rows, 768, torch.bfloat16)
        assert relative_error(critic_mlp(*arguments), exact(arguments)) < 1e-2


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (9, 0), reason="overlap is of 9.0 and up"
)
@pytest.mark.parametrize("rows", [1, 16, 300])
def test_an_overlapped_stage_2_waits_for_stage_1(rows: int) -> None:
    from bavt_fast.kernels.critic_launch import CriticCall, run_fused

    arguments = on_gpu(rows, 2048, torch.bfloat16)
    expected = critic_mlp(*arguments, impl="triton")
    major, minor = torch.cuda.get_device_capability()
    config = replace(find_entry(10 * major + minor, "half", rows, 2048).config, overlap=True)
    outs = [torch.empty(rows, 1, device="cuda", dtype=torch.bfloat16) for _ in range(50)]
    for out in outs:
        poison()  # partial sums read too early are NaN
        run_fused(CriticCall(*arguments), config, out, (0.0, 1.0), allow_tf32=False)
    assert all(torch.equal(out, expected) for out in outs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for out in outs:
            run_fused(CriticCall(*arguments), config, out, (0.0, 1.0), allow_tf32=False)
    for out in outs:
        out.zero_()
    graph.replay()
    assert all(torch.equal(out, expected) for out in outs)


def test_streams_do_not_disturb_each_other() -> None:
    inputs = [on_gpu(64, 2048, torch.bfloat16, seed) for seed in range(4)]
    expected = [critic_mlp(*arguments) for arguments in inputs]
    streams = [torch.cuda.Stream() for _ in inputs]
    torch.cuda.synchronize()
    results: list[list[Tensor]] = [[] for _ in inputs]
    for _ in range(20):
        for place, stream in enumerate(streams):
            with torch.cuda.stream(stream):
                results[place].append(critic_mlp(*inputs[place]))
    torch.cuda.synchronize()
    assert all(torch.equal(out, expected[place]) for place, outs in enumerate(results) for out in outs)


def test_compile_takes_it_in_one_graph() -> None:
    arguments = on_gpu(24, 768, torch.bfloat16)
    compiled = torch.compile(lambda *a: critic_mlp(*a) * 2, fullgraph=True, mode="reduce-overhead")
    for _ in range(4):
        assert torch.equal(compiled(*arguments).clone(), critic_mlp(*arguments) * 2)


def test_the_predictor_uses_it_in_eval_mode_alone() -> None:
    from bavt_fast import ResidualValuePredictor

    module = ResidualValuePredictor(768).cuda()
    hidden = torch.randn(24, 768, device="cuda")
    calls: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        real = critic.layout
        patch.setattr(critic, "layout", lambda tensors: (calls.append("op"), real(tensors))[1])
        plain = module.predictor(hidden)
        assert torch.equal(module(hidden), plain)
        assert calls == [], "training mode is plain torch"
        module.eval()
        torch.testing.assert_close(module(hidden), plain, rtol=1e-5, atol=1e-5)
        assert calls == ["op"]
    with torch.enable_grad():
        inputs = hidden.clone().requires_grad_()
        module(inputs).sum().backward()
    assert isinstance(module, nn.Module)
    assert inputs.grad is not None


def test_opcheck() -> None:
    arguments = on_gpu(24, 768, torch.bfloat16)
    torch.library.opcheck(torch.ops.bavt_fast.critic_mlp.default, arguments)
    options = {"index": torch.tensor([2, -1], device="cuda"), "parent_value": torch.rand(2, device="cuda")}
    torch.library.opcheck(torch.ops.bavt_fast.critic_mlp.default, arguments, options)


def test_tensors_on_two_devices_are_refused() -> None:
    hidden, w1, *rest = on_gpu(3, 64, torch.float32)
    with pytest.raises(ValueError, match="w1: expected the device of hidden, cuda:0, got cpu"):
        critic_mlp(hidden, w1.cpu(), *rest)
