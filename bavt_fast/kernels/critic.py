"""The critic MLP, Linear(H, 2H) -> ReLU -> Linear(2H, 1), over a batch of hidden states in one fused call.

`critic_mlp` decides where a call runs. Plain torch carries gradients, autocast, the CPU and every dtype; the
custom op ``torch.ops.bavt_fast.critic_mlp`` is the fused path for fp16, bf16 and fp32 on CUDA. The op is
opaque to ``torch.compile`` and safe to capture in a CUDA graph: it keeps no tensor, reads nothing back from
the GPU, and allocates through torch. Its tiling comes from `critic_table`, never from a search at run time.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bavt_fast._checks import as_count, as_iterator
from bavt_fast.kernels.critic_checks import check_arguments, check_impl, check_range, check_tensors
from bavt_fast.kernels.critic_lookup import find_entry
from bavt_fast.kernels.critic_plan import layout
from bavt_fast.kernels.critic_reference import MAX_VALUE, MIN_VALUE, critic_mlp_reference, quantize_w1

if TYPE_CHECKING:
    from bavt_fast.kernels.critic_plan import Plan

__all__ = ["MAX_VALUE", "MIN_VALUE", "critic_mlp", "warmup"]

_FUSED_DTYPES = (torch.float16, torch.bfloat16, torch.float32)

_MAX_PLANS = 4096
_plans: dict[Hashable, Plan] = {}
"""What calls of a known layout launch. Layouts whose tensors had to be copied first are not among them."""

_library = torch.library.Library("bavt_fast", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define(  # type: ignore[no-untyped-call]
    "critic_mlp(Tensor hidden, Tensor w1, Tensor b1, Tensor w2, Tensor b2, Tensor? index=None, "
    f"Tensor? w1_scale=None, Tensor? parent_value=None, float value_min={MIN_VALUE}, float value_max={MAX_VALUE}, "
    'str impl="auto") -> Tensor',
    tags=(torch.Tag.pt2_compliant_tag,),
)


def critic_mlp(
    hidden: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    *,
    index: Tensor | None = None,
    impl: str = "auto",
    w1_scale: Tensor | None = None,
    parent_value: Tensor | None = None,
    value_range: tuple[float, float] = (MIN_VALUE, MAX_VALUE),
) -> Tensor:
    """``relu(x @ w1.T + b1) @ w2.T + b2`` for each row x of `hidden`; the node's value with `parent_value`.

    The kernel sums in fp32, also for fp16 and bf16, and rounds once, at the end. fp32 is multiplied exactly
    unless torch's setting for CUDA matrix products (``torch.backends.cuda.matmul.fp32_precision``) allows
    tf32. A call repeated with the same inputs gives the same bits; the same row in a batch of another size
    may differ in the last ones. NaN and infinity propagate as in torch.

    Args:
        hidden: (rows, H); or, with `index`, (source, H) or (rows, length, H). Rows may have any stride.
        w1: (2H, H), the first layer's weight; int8 with `w1_scale`. Copied when its last stride is not 1.
        b1: (2H,).
        w2: (1, 2H).
        b2: (1,).
        index: (rows,) int32 or int64. Row r is ``hidden[index[r]]``, or ``hidden[r, index[r]]`` for a 3-D
            `hidden` (each sequence's last token, say). Negative positions count from the end. An index out of
            range raises where torch runs; the kernel, which must not wait for the GPU, gives NaN for that
            row.
        impl: "auto" (the fused kernel where it is the right choice, else torch), "torch", or "triton" (the
            kernel or an error; on CPU tensors it needs TRITON_INTERPRET=1).
        w1_scale: (2H,) float32, the scale of an int8 `w1`; see `quantize_w1`.
        parent_value: (rows,), any floating dtype: V of each row's parent. The result is then
            ``clip(parent_value + residual, *value_range)``, summed in fp32.
        value_range: the lowest and the highest value that the clip allows.

    Returns:
        (rows, 1), in the dtype of `hidden`, or of `parent_value` where that is given. (0, 1) for an empty
        batch.

    Raises:
        TypeError: not a tensor where one is expected, or `value_range` is not two numbers.
        ValueError: a shape, dtype, device or option is wrong; or impl="triton" cannot serve the call.
        IndexError: an index is out of range, on the CPU.
    """
    check_impl(impl)
    check_tensors(hidden=hidden, w1=w1, b1=b1, w2=w2, b2=b2, index=index, w1_scale=w1_scale, parent_value=parent_value)
    check_range(value_range)
    weights = (w1, b1, w2, b2)
    obstacle = _obstacle(hidden, weights, parent_value, impl)
    if obstacle is None:
        result: Tensor = torch.ops.bavt_fast.critic_mlp(
            hidden, w1, b1, w2, b2, index, w1_scale, parent_value, *value_range, impl
        )
        return result
    if impl == "triton":
        raise ValueError(_refusal(obstacle))
    check_arguments(hidden, w1, b1, w2, b2, index, w1_scale, parent_value, value_range)
    return critic_mlp_reference(hidden, w1, b1, w2, b2, index, w1_scale, parent_value, value_range)


def warmup(
    shapes: Iterable[tuple[int, int]],
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cuda",
    *,
    index: bool = False,
    parent_value: bool = False,
    quantized: bool = False,
    impl: str = "auto",
) -> None:
    """Compiles and loads what calls of the given shapes will launch, by running each once.

    H is compiled in; numbers of rows that share an entry of the table share their kernels. So one shape for each
    entry and H is enough.

    Args:
        shapes: (rows, H) of the calls to come.
        dtype: of the hidden states.
        device: where they will be.
        index, parent_value: whether the calls pass these.
        quantized: whether they pass int8 weights.
        impl: as in `critic_mlp`.

    Raises:
        TypeError: a shape is not two integers, or `dtype` is not a torch.dtype. Nothing was compiled then.
        ValueError: a shape has an integer below 1, or as `critic_mlp`.
    """
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype: expected a torch.dtype, got {dtype!r:.80}")
    for rows, hidden_size in _as_shapes(shapes):

        def zeros(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        w1, w1_scale = zeros(2 * hidden_size, hidden_size), None
        if quantized:
            w1, w1_scale = quantize_w1(w1)
        with torch.no_grad():
            critic_mlp(
                zeros(rows, hidden_size), w1, zeros(2 * hidden_size), zeros(1, 2 * hidden_size), zeros(1),
                index=zeros(rows, dtype=torch.int64) if index else None, impl=impl, w1_scale=w1_scale,
                parent_value=zeros(rows, dtype=torch.float32) if parent_value else None,
            )  # fmt: skip


def _as_shapes(shapes: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The shapes of `warmup`, each of them checked."""
    wanted, checked = "(rows, H) pairs of integers, such as [(1, 768)]", []
    for pair in as_iterator("shapes", shapes, wanted):
        try:
            rows, hidden_size = pair
        except (TypeError, ValueError):
            raise TypeError(f"shapes: expected {wanted}, got {pair!r:.80} in it") from None
        checked.append((as_count("shapes", rows, minimum=1), as_count("shapes", hidden_size, minimum=1)))
    return checked


def _refusal(obstacle: str) -> str:
    """What impl="triton" says where it cannot serve."""
    return f"impl: expected 'auto' or 'torch' for this call, got 'triton', which cannot serve it: {obstacle}"


def _obstacle(hidden: Tensor, weights: tuple[Tensor, ...], parent_value: Tensor | None, impl: str) -> str | None:
    """Why the fused op cannot serve the call, None when it can. Plain code: ``torch.compile`` traces it."""
    if impl == "torch":
        return "impl='torch' was asked for"
    if torch.is_grad_enabled():
        inputs = (hidden, *weights) if parent_value is None else (hidden, *weights, parent_value)
        if any(tensor.requires_grad for tensor in inputs):
            return "it has no backward and an input requires a gradient (call it under torch.no_grad())"
    if hidden.dtype not in _FUSED_DTYPES:
        return _not_fused(hidden.dtype)
    if hidden.device.type == "cpu":
        return None if impl == "triton" else "the tensors are on the CPU"
    if hidden.device.type != "cuda":
        return f"the tensors are on {hidden.device}"
    if torch.is_autocast_enabled("cuda"):
        return "autocast is on, which the kernel does not follow"
    return None


@torch.library.impl(_library, "critic_mlp", "CompositeExplicitAutograd")
def _critic_mlp_op(
    hidden: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    index: Tensor | None = None,
    w1_scale: Tensor | None = None,
    parent_value: Tensor | None = None,
    value_min: float = MIN_VALUE,
    value_max: float = MAX_VALUE,
    impl: str = "auto",
) -> Tensor:
    """The op on real tensors: the kernels where the table says so, plain torch elsewhere."""
    value_range = (value_min, value_max)
    allow_tf32 = hidden.dtype == torch.float32 and _allow_tf32()
    tensors = (hidden, w1, b1, w2, b2, index, w1_scale, parent_value)
    key = (layout(tensors), value_range, impl, allow_tf32)
    plan = _plans.get(key)
    if plan is not None:  # the checks passed when this layout was new, and they read nothing but the layout
        return plan.run(*tensors)
    check_impl(impl)
    check_arguments(*tensors, value_range)
    out = _empty_result(hidden, index, parent_value)
    if out.shape[0] == 0:
        return out
    capability = _capability(hidden, impl)
    if capability is None:
        return critic_mlp_reference(*tensors, value_range)
    # Imported here because torch runs without triton; a capability says that triton is there.
    from bavt_fast.kernels.critic_launch import CriticCall, kind_of, run_fused

    kind = kind_of(hidden.dtype, w1_scale is not None, allow_tf32)
    entry = find_entry(capability, kind, out.shape[0], hidden.shape[-1])
    if entry.use_torch and impl != "triton":
        return critic_mlp_reference(*tensors, value_range)
    call = CriticCall(
        hidden=_unit_stride(hidden),
        w1=_unit_stride(w1),
        b1=b1.contiguous(),
        w2=w2.contiguous(),
        b2=b2,
        index=None if index is None else index.contiguous(),
        w1_scale=None if w1_scale is None else w1_scale.contiguous(),
        parent_value=None if parent_value is None else parent_value.contiguous(),
    )
    plan = run_fused(call, entry.config, out, value_range, allow_tf32)
    used = (call.hidden, call.w1, call.b1, call.w2, call.b2, call.index, call.w1_scale, call.parent_value)
    if plan is not None and all(mine is given for mine, given in zip(used, tensors, strict=True)):
        if len(_plans) >= _MAX_PLANS:
            _plans.clear()
        _plans[key] = plan
    return out


@torch.library.register_fake("bavt_fast::critic_mlp", lib=_library)  # type: ignore[untyped-decorator]
def _critic_mlp_fake(
    hidden: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    index: Tensor | None = None,
    w1_scale: Tensor | None = None,
    parent_value: Tensor | None = None,
    value_min: float = MIN_VALUE,
    value_max: float = MAX_VALUE,
    impl: str = "auto",
) -> Tensor:
    check_impl(impl)
    check_arguments(hidden, w1, b1, w2, b2, index, w1_scale, parent_value, (value_min, value_max))
    return _empty_result(hidden, index, parent_value)


def _empty_result(hidden: Tensor, index: Tensor | None, parent_value: Tensor | None) -> Tensor:
    rows = hidden.shape[0] if index is None else index.shape[0]
    dtype = hidden.dtype if parent_value is None else parent_value.dtype
    return hidden.new_empty((rows, 1), dtype=dtype)


def _capability(hidden: Tensor, impl: str) -> int | None:
    """The capability to tile for, times ten; None where plain torch must run.

    Raises:
        ValueError: `impl` is "triton" and the kernels cannot run there.
    """
    if impl == "torch":
        return None
    capability, obstacle = _device_support(hidden.device)
    if hidden.dtype not in _FUSED_DTYPES:
        capability, obstacle = None, _not_fused(hidden.dtype)
    if capability is None and impl == "triton":
        raise ValueError(_refusal(obstacle))
    return capability if hidden.is_cuda or impl == "triton" else None


def _not_fused(dtype: torch.dtype) -> str:
    return f"hidden is {dtype}, not float16, bfloat16 or float32"


@cache
def _device_support(device: torch.device) -> tuple[int | None, str]:
    """(capability times ten, "") where the kernels run, else (None, why not)."""
    if find_spec("triton") is None:
        return None, "triton is not installed"
    if device.type == "cpu":
        from triton import knobs

        # The interpreter stands in for the newest GPU, whose tilings use every feature.
        return (90, "") if knobs.runtime.interpret else (None, "CPU tensors need TRITON_INTERPRET=1")
    if device.type != "cuda" or torch.version.hip is not None:
        return None, f"{device} is not an NVIDIA GPU"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return None, f"{device} has compute capability {major}.{minor}, below 8.0"
    return 10 * major + minor, ""


def _allow_tf32() -> bool:
    """Whether torch's own setting allows tf32 in CUDA matrix products."""
    backends: Any = torch.backends
    precision = backends.cuda.matmul.fp32_precision
    if precision == "none":  # not set: the backend-wide setting holds
        precision = backends.fp32_precision
    return bool(precision == "tf32")


def _unit_stride(tensor: Tensor) -> Tensor:
    """The tensor itself, or a contiguous copy where its last dimension has a stride other than 1."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
