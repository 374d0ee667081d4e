"""GPU kernels: the critic MLP in one fused call.

Importing this package imports neither torch nor triton; the names below do, when first used.

- `critic_mlp`: Linear -> ReLU -> Linear over a batch of hidden states; plain torch on the CPU and for
  gradients.
- `critic_mlp_reference`: the same in plain torch, always.
- `quantize_w1`: int8 weights for the `w1_scale` argument of `critic_mlp`.
- `warmup`: compiles ahead, so that no call of a search waits for a compiler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bavt_fast._optional as _optional

if TYPE_CHECKING:
    from bavt_fast.kernels.critic import critic_mlp, warmup
    from bavt_fast.kernels.critic_reference import critic_mlp_reference, quantize_w1

__all__: list[str] = []
if TYPE_CHECKING or _optional.has_torch():
    __all__ += ["critic_mlp", "critic_mlp_reference", "quantize_w1", "warmup"]

# No module here is called critic_mlp: importing it would replace the function of that name.
_HOME = {
    "critic_mlp": "bavt_fast.kernels.critic",
    "warmup": "bavt_fast.kernels.critic",
    "critic_mlp_reference": "bavt_fast.kernels.critic_reference",
    "quantize_w1": "bavt_fast.kernels.critic_reference",
}


def __getattr__(name: str) -> Any:
    value = _optional.load(__name__, name, _HOME)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
