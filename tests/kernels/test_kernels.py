"""The critic kernel's public function on the CPU: where calls go, what they return, and what they refuse."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from kernel_cases import DTYPES, critic_arguments, exact, relative_error  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402

from bavt_fast import kernels  # noqa: E402
from bavt_fast.kernels import critic, critic_mlp, critic_mlp_reference, quantize_w1, warmup  # noqa: E402
from bavt_fast.kernels.critic_config import ANY, Entry  # noqa: E402
from bavt_fast.kernels.critic_lookup import find_entry  # noqa: E402
from bavt_fast.kernels.critic_table import ENTRIES  # noqa: E402

OP = torch.ops.bavt_fast.critic_mlp.default


def mlp(hidden_size: int, dtype: Any = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Linear(hidden_size, 2 * hidden_size), nn.ReLU(), nn.Linear(2 * hidden_size, 1)
    return nn.Sequential(*layers).to(dtype)


def parameters(module: nn.Sequential) -> tuple[Tensor, ...]:
    return module[0].weight, module[0].bias, module[2].weight, module[2].bias


# What it computes


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_it_is_the_sequential(dtype: Any) -> None:
    module, hidden = mlp(96, dtype), torch.randn(17, 96).to(dtype)
    with torch.no_grad():
        assert torch.equal(critic_mlp(hidden, *parameters(module)), module(hidden))


def test_an_empty_batch_gives_no_rows() -> None:
    arguments = critic_arguments(0, 64, torch.float32)
    assert critic_mlp(*arguments).shape == (0, 1)
    assert OP(*arguments).shape == (0, 1)
    none = torch.empty(0, dtype=torch.int64)
    hidden, *weights = critic_arguments(3, 64, torch.float32)
    for states in (hidden, hidden.new_empty(0, 5, 64)):
        assert critic_mlp(states, *weights, index=none).shape == (0, 1)
        assert critic_mlp(states, *weights, index=none, parent_value=torch.empty(0)).shape == (0, 1)


def test_an_index_picks_rows_of_a_matrix_and_positions_of_sequences() -> None:
    _, *weights = critic_arguments(1, 64, torch.float32)
    states = torch.randn(4, 7, 64)
    last = torch.tensor([6, 0, -1, 3])
    picked = torch.stack([states[row, position] for row, position in enumerate(last.tolist())])
    assert torch.equal(critic_mlp(states, *weights, index=last), critic_mlp(picked, *weights))
    rows = torch.tensor([5, 5, -27], dtype=torch.int32)
    flat = states.reshape(28, 64)
    assert torch.equal(critic_mlp(flat, *weights, index=rows), critic_mlp(flat[[5, 5, 1]], *weights))


def test_a_parent_value_turns_the_residual_into_a_clipped_value() -> None:
    arguments = critic_arguments(50, 64, torch.bfloat16)
    parent = torch.linspace(0.0, 1.0, 50)
    residual = critic_mlp(*arguments).to(torch.float32)[:, 0]
    value = critic_mlp(*arguments, parent_value=parent)
    assert value.dtype == torch.float32
    assert value.shape == (50, 1)
    assert torch.equal(value[:, 0], (parent + residual).clamp(critic.MIN_VALUE, critic.MAX_VALUE))
    assert value.aminmax() == (critic.MIN_VALUE, critic.MAX_VALUE), "both bounds are reached"
    wide = critic_mlp(*arguments, parent_value=parent, value_range=(-9.0, 9.0))
    assert torch.equal(wide[:, 0], parent + residual)


@pytest.mark.parametrize("dtype", DTYPES)
def test_int8_weights_cost_less_than_one_percent(dtype: Any) -> None:
    hidden, w1, *rest = critic_arguments(64, 256, dtype)
    quantized, scale = quantize_w1(w1)
    assert quantized.dtype == torch.int8
    assert scale.shape == (512,)
    assert ((quantized * scale[:, None]) - w1.to(torch.float32)).abs().max() <= scale.max() * 0.5001
    error = relative_error(critic_mlp(hidden, quantized, *rest, w1_scale=scale), exact((hidden, w1, *rest)))
    plain = relative_error(critic_mlp(hidden, w1, *rest), exact((hidden, w1, *rest)))
    assert plain < error < 0.01


def test_a_unit_without_weights_quantizes_to_zeros() -> None:
    quantized, scale = quantize_w1(torch.tensor([[0.0, 0.0], [1.0, -2.0]]))
    assert quantized.tolist() == [[0, 0], [64, -127]]
    assert scale[0] == 0.0


# Where a call goes


def targets(function: Callable[..., Tensor], *arguments: Tensor) -> list[Any]:
    """The operators that `function` calls on `arguments`."""
    graph = make_fx(lambda *inputs: function(*inputs))(*arguments).graph
    return [node.target for node in graph.nodes if node.op == "call_function"]


def fake_cuda(rows: int = 3, dtype: Any = torch.bfloat16, hidden_size: int = 64) -> list[Tensor]:
    shapes = (
        (rows, hidden_size),
        (2 * hidden_size, hidden_size),
        (2 * hidden_size,),
        (1, 2 * hidden_size),
        (1,),
    )
    return [torch.empty(shape, device="cuda", dtype=dtype) for shape in shapes]


def test_cuda_without_gradients_goes_to_the_op(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeTensorMode(), torch.no_grad():
        for dtype in DTYPES:
            arguments = fake_cuda(dtype=dtype)
            assert targets(critic_mlp, *arguments) == [OP]
            assert critic_mlp(*arguments).dtype == dtype
        assert OP not in targets(critic_mlp, *fake_cuda(dtype=torch.float64))
        assert OP not in targets(lambda *a: critic_mlp(*a, impl="torch"), *fake_cuda())
        monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
        assert OP not in targets(critic_mlp, *fake_cuda()), "autocast is torch's to follow"


def test_gradients_go_through_plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    # Fake CUDA tensors carry no autograd graph without a CUDA build, so the reference only reports the call.
    monkeypatch.setattr(critic, "critic_mlp_reference", lambda *arguments: "plain torch")
    with FakeTensorMode():
        arguments = fake_cuda()
        arguments[1].requires_grad_()
        assert critic_mlp(*arguments) == "plain torch"
        with pytest.raises(ValueError, match="has no backward"):
            critic_mlp(*arguments, impl="triton")
        with torch.no_grad():
            assert targets(critic_mlp, *arguments) == [OP], "requires_grad does not matter under no_grad"


def test_gradients_are_those_of_the_sequential() -> None:
    module, hidden = mlp(64), torch.randn(5, 64, requires_grad=True)
    inputs = (hidden, *module.parameters())
    ours = torch.autograd.grad(critic_mlp(hidden, *parameters(module)).square().sum(), inputs)
    plain = torch.autograd.grad(module(hidden).square().sum(), inputs)
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter takes CPU tensors")
def test_the_kernel_refuses_cpu_tensors() -> None:
    with pytest.raises(ValueError, match=r"got 'triton'.*TRITON_INTERPRET=1|triton is not installed"):
        critic_mlp(*critic_arguments(3, 64, torch.float32), impl="triton")


@pytest.fixture
def matmul_precision() -> Iterator[Any]:
    """torch's modules that hold an fp32 precision, set back afterwards."""
    owners = (torch.backends.cuda.matmul, torch.backends)
    before = [owner.fp32_precision for owner in owners]
    yield owners
    for owner, setting in zip(owners, before, strict=True):
        owner.fp32_precision = setting


@pytest.mark.parametrize("setting", ["ieee", "tf32"])
def test_fp32_follows_torchs_own_setting(setting: str, matmul_precision: Any) -> None:
    matmul, backends = matmul_precision
    matmul.fp32_precision = setting
    assert critic._allow_tf32() is (setting == "tf32")
    matmul.fp32_precision = "none"
    backends.fp32_precision = setting
    assert critic._allow_tf32() is (setting == "tf32"), "the backend-wide setting holds where this one is unset"


OLD_AND_NEW_SETTINGS = {
    "": False,
    "b.cuda.matmul.allow_tf32 = True": True,
    "b.cuda.matmul.allow_tf32 = True; b.cuda.matmul.allow_tf32 = False": False,
    "torch.set_float32_matmul_precision('high')": True,
    "torch.set_float32_matmul_precision('highest')": False,
    "b.fp32_precision = 'tf32'": True,
    "b.fp32_precision = 'tf32'; b.cuda.matmul.fp32_precision = 'ieee'": False,
    "b.cuda.matmul.fp32_precision = 'tf32'": True,
}


def test_every_way_to_allow_tf32_is_followed() -> None:
    # The old and the new names may not be mixed in one process, so each gets its own.
    settings, expected = zip(*OLD_AND_NEW_SETTINGS.items(), strict=True)
    code = (
        "import os, sys, warnings, torch\n"
        "from bavt_fast.kernels import critic\n"
        "warnings.simplefilter('ignore')\n"
        "for setting in sys.argv[1:]:\n"
        "    sys.stdout.flush()\n"
        "    if os.fork() == 0:\n"
        "        b = torch.backends\n"
        "        exec(setting)\n"
        "        print(critic._allow_tf32(), flush=True)\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
    )
    command = [sys.executable, "-c", code, *settings]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert result.stdout.split() == [str(allowed) for allowed in expected]


def test_importing_the_package_imports_neither_torch_nor_triton() -> None:
    code = (
        "import sys, bavt_fast.kernels as k\n"
        "assert 'torch' not in sys.modules and 'triton' not in sys.modules\n"
        "assert set(k.__all__) <= set(dir(k))\n"
        "k.critic_mlp, k.warmup, k.quantize_w1\n"
        "assert 'torch' in sys.modules and 'triton' not in sys.modules, 'triton waits until it is needed'\n"
        "import bavt_fast.kernels.critic\n"
        "assert callable(k.critic_mlp)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        kernels.nothing  # noqa: B018


# The custom op


def op_samples() -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    plain = critic_arguments(5, 64, torch.float32)
    half = critic_arguments(5, 64, torch.bfloat16)
    quantized, scale = quantize_w1(plain[1])
    states, index = torch.randn(5, 3, 64), torch.tensor([0, 2, -1, 1, 0])
    return {
        "plain": (plain, {}),
        "bf16": (half, {}),
        "empty": ((torch.empty(0, 64), *plain[1:]), {}),
        "index": ((states, *plain[1:]), {"index": index}),
        "value": (half, {"parent_value": torch.rand(5), "value_min": 0.1, "value_max": 0.9}),
        "int8": ((plain[0], quantized, *plain[2:]), {"w1_scale": scale}),
    }


@pytest.mark.parametrize("name", op_samples())
def test_opcheck(name: str) -> None:
    arguments, options = op_samples()[name]
    torch.library.opcheck(OP, arguments, options)


@pytest.mark.parametrize("name", op_samples())
def test_the_fake_op_predicts_shape_dtype_and_device(name: str) -> None:
    arguments, options = op_samples()[name]
    real = OP(*arguments, **options)
    with FakeTensorMode(allow_non_fake_inputs=True):
        fake = OP(*arguments, **options)
    assert (fake.shape, fake.dtype, fake.device, fake.stride()) == (
        real.shape, real.dtype, real.device, real.stride(),
    )  # fmt: skip


def test_compile_takes_the_op_in_one_graph_and_with_any_number_of_rows() -> None:
    compiled = torch.compile(lambda *a: OP(*a) * 2, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (2, 3, 50):
        arguments = critic_arguments(rows, 64, torch.float32)
        assert torch.equal(compiled(*arguments), critic_mlp(*arguments) * 2)


@pytest.mark.parametrize("dynamic", [None, True])
def test_compile_takes_the_public_function_in_one_graph(dynamic: bool | None) -> None:
    module = mlp(64)
    compiled = torch.compile(
        lambda x: critic_mlp(x, *parameters(module)) + 1, fullgraph=True, backend="aot_eager", dynamic=dynamic
    )
    hidden = torch.randn(6, 64)
    assert torch.equal(compiled(hidden), module(hidden) + 1)
    with torch.no_grad():
        assert torch.equal(compiled(hidden), module(hidden) + 1)


# Bad input


def broken(**changes: Any) -> dict[str, Any]:
    names = ("hidden", "w1", "b1", "w2", "b2")
    return dict(zip(names, critic_arguments(3, 64, torch.float32), strict=True)) | changes


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "one row": (broken(hidden=torch.zeros(64)), r"hidden: expected shape \(rows, H\)"),
    "sequences without index": (broken(hidden=torch.zeros(3, 2, 64)), "pass index="),
    "integer hidden": (
        broken(hidden=torch.zeros(3, 64, dtype=torch.int64)),
        "hidden: expected a floating dtype",
    ),
    "wrong H": (broken(hidden=torch.zeros(3, 63)), r"w1: expected shape \(126, 63\), got \(128, 64\)"),
    "transposed w1": (broken(w1=torch.zeros(64, 128)), r"w1: expected shape \(128, 64\)"),
    "b1": (broken(b1=torch.zeros(64)), r"b1: expected shape \(128,\)"),
    "w2": (broken(w2=torch.zeros(128)), r"w2: expected shape \(1, 128\)"),
    "b2": (broken(b2=torch.zeros(())), r"b2: expected shape \(1,\)"),
    "dtype mix": (
        broken(hidden=torch.zeros(3, 64).half()),
        r"w1: expected the dtype of hidden, torch.float16",
    ),
    "bias dtype": (broken(b2=torch.zeros(1).half()), "b2: expected the dtype of hidden"),
    "device mix": (broken(w1=torch.zeros(128, 64, device="meta")), "w1: expected the device of hidden, cpu"),
    "float index": (broken(index=torch.zeros(3)), "index: expected a 1-D int32 or int64"),
    "2-D index": (broken(index=torch.zeros(3, 1, dtype=torch.int64)), "index: expected a 1-D"),
    "short index": (
        broken(hidden=torch.zeros(3, 2, 64), index=torch.zeros(2, dtype=torch.int64)),
        "one position per sequence of hidden, 3, got 2",
    ),
    "4-D hidden": (
        broken(hidden=torch.zeros(3, 2, 1, 64), index=torch.zeros(3, dtype=torch.int64)),
        r"or \(rows, length, H\)",
    ),
    "int8 without scale": (broken(w1=torch.zeros(128, 64, dtype=torch.int8)), "w1_scale: expected a Tensor with"),
    "scale without int8": (broken(w1_scale=torch.zeros(128)), "w1: expected int8 with w1_scale"),
    "scale shape": (
        broken(w1=torch.zeros(128, 64, dtype=torch.int8), w1_scale=torch.zeros(64)),
        r"w1_scale: expected shape \(128,\)",
    ),
    "scale dtype": (
        broken(w1=torch.zeros(128, 64, dtype=torch.int8), w1_scale=torch.zeros(128).half()),
        "w1_scale: expected float32",
    ),
    "parent shape": (broken(parent_value=torch.zeros(3, 1)), r"parent_value: expected shape \(3,\)"),
    "parent dtype": (
        broken(parent_value=torch.zeros(3, dtype=torch.int64)),
        "parent_value: expected a floating",
    ),
    "range": (broken(parent_value=torch.zeros(3), value_range=(1.0, 0.0)), "value_range: expected"),
    "nan range": (
        broken(parent_value=torch.zeros(3), value_range=(float("nan"), 1.0)),
        "value_range: expected",
    ),
    "impl": (broken(impl="cuda"), "impl: expected 'auto', 'torch' or 'triton', got 'cuda'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name: str) -> None:
    arguments, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        critic_mlp(**arguments)


@pytest.mark.parametrize("name", BAD)
def test_the_op_refuses_the_same_input(name: str) -> None:
    arguments, message = dict(BAD[name][0]), BAD[name][1]
    low, high = arguments.pop("value_range", (0.0, 1.0))
    with pytest.raises(ValueError, match=message):
        OP(**arguments, value_min=low, value_max=high)


@pytest.mark.parametrize("place", range(5))
def test_tensors_on_the_cpu_and_on_cuda_do_not_mix(place: int) -> None:
    with FakeTensorMode(), torch.no_grad():
        name = ("w1", "w1", "b1", "w2", "b2")[place]
        mixed = fake_cuda()
        mixed[place] = torch.empty(mixed[place].shape, dtype=mixed[place].dtype)
        where = "cpu, got cuda:0" if place == 0 else "cuda:0, got cpu"
        with pytest.raises(ValueError, match=f"{name}: expected the device of hidden, {where}; move it"):
            critic_mlp(*mixed)


def test_an_index_out_of_range_raises_on_the_cpu() -> None:
    arguments = critic_arguments(3, 64, torch.float32)
    with pytest.raises(IndexError):
        critic_mlp(*arguments, index=torch.tensor([3]))


def test_a_transposed_weight_is_right() -> None:
    hidden, w1, *rest = critic_arguments(3, 64, torch.float32)
    strided = w1.T.contiguous().T
    assert not strided.is_contiguous()
    torch.testing.assert_close(critic_mlp(hidden, strided, *rest), critic_mlp_reference(hidden, w1, *rest))


@pytest.mark.parametrize("name", ["hidden", "w1", "b1", "w2", "b2", "index", "w1_scale", "parent_value"])
@pytest.mark.parametrize("wrong", [[0.5], np.zeros(3), 0.5, "x"])
def test_what_is_no_tensor_is_named(name: str, wrong: Any) -> None:
    optional = " or None" * (name in ("index", "w1_scale", "parent_value"))
    with pytest.raises(TypeError, match=f"^{name}: expected a Tensor{optional}, got {type(wrong).__name__}$"):
        critic_mlp(**broken(**{name: wrong}))


@pytest.mark.parametrize("wrong", [None, (0.0,), (0.0, 0.5, 1.0), ("0", "1"), (None, 1.0), "01"])
def test_a_range_that_is_not_two_numbers_is_named(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"^value_range: expected two numbers, \(lowest, highest\), got"):
        critic_mlp(**broken(parent_value=torch.zeros(3), value_range=wrong))


def test_the_reference_and_the_op_clip_as_the_function_does() -> None:
    arguments, parent = critic_arguments(50, 64, torch.float32), torch.full((50,), -9.0)
    value = critic_mlp(*arguments, parent_value=parent)
    assert value.unique().tolist() == [pytest.approx(critic.MIN_VALUE)]
    assert torch.equal(critic_mlp_reference(*arguments, parent_value=parent), value)
    assert torch.equal(OP(*arguments, parent_value=parent), value)


def test_the_op_runs_torch_where_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(critic, "_device_support", lambda device: (90, ""))
    hidden = critic_arguments(3, 64, torch.float32)[0]
    assert critic._capability(hidden, "triton") == 90
    assert critic._capability(hidden, "torch") is None
    with pytest.raises(ValueError, match=r"which cannot serve it: hidden is torch\.float64"):
        critic._capability(hidden.double(), "triton")


def test_quantize_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="w1: expected a floating"):
        quantize_w1(torch.zeros(3, dtype=torch.int8))
    with pytest.raises(TypeError, match="w1: expected a Tensor, got list"):
        quantize_w1([[0.5]])  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [None, 3, [3], (1, 768), [(1, 2, 3)], ["a"], [(1.5, 64)], [(True, 64)], [(0, 64)]])
def test_warmup_refuses_what_are_no_shapes_before_it_compiles(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(critic, "critic_mlp", lambda *arguments, **options: pytest.fail("it ran"))
    shapes = [(1, 64), *wrong] if isinstance(wrong, list) else wrong
    with pytest.raises((TypeError, ValueError), match=r"^shapes: expected .*, got"):
        warmup(shapes, torch.float32, "cpu")


def test_warmup_refuses_a_dtype_that_is_none() -> None:
    with pytest.raises(TypeError, match=r"^dtype: expected a torch.dtype, got 'float32'"):
        warmup([(1, 64)], "float32", "cpu")  # type: ignore[arg-type]


# The table


@pytest.mark.parametrize("capability", [80, 86, 89, 90, 100, 120])
@pytest.mark.parametrize("kind", ["half", "fp32", "tf32", "int8"])
def test_the_table_covers_every_call(capability: int, kind: Any) -> None:
    for rows in (1, 2, 16, 17, 128, 16384, ANY):
        for hidden_size in (1, 64, 1023, 8192, ANY):
            entry = find_entry(capability, kind, rows, hidden_size)
            assert rows <= entry.max_rows
            assert hidden_size <= entry.max_hidden
            assert kind != "int8" or entry.config.kernel != "many", "the many-rows kernel takes no int8"
            assert capability not in (80, 86, 89, 120) or not (entry.config.descriptors or entry.config.overlap)


def test_the_table_prefers_the_tightest_entry() -> None:
    def order(entry: Entry) -> tuple[Any, ...]:
        return entry.capability, entry.kind, entry.max_rows, entry.max_hidden

    assert list(ENTRIES) == sorted(ENTRIES, key=order), "the first entry that covers a call is the tightest"
    assert len({order(entry) for entry in ENTRIES}) == len(ENTRIES)
    assert all(entry.config.block_rows == 1 for entry in ENTRIES if entry.config.kernel == "vector")


def test_old_gpus_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="capability: expected at least 80"):
        find_entry(75, "half", 1, 64)
