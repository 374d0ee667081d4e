"""Error of the critic in low precision and with int8 weights: the table in docs/critic_kernel.md.

``python -m benchmarks.kernel.critic_error`` runs plain torch on the CPU, on freshly initialised layers. The kernel
rounds less often than torch does, so on a GPU these are upper bounds but for the order of sums.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bavt_fast.kernels import critic_mlp_reference, quantize_w1


def error(rows: int, hidden_size: int, dtype: torch.dtype, quantized: bool) -> float:
    """||result - exact|| / ||exact||; exact is float64 on what `dtype` holds of hidden states and weights."""
    torch.manual_seed(0)
    first, last = nn.Linear(hidden_size, 2 * hidden_size), nn.Linear(2 * hidden_size, 1)
    layers = (first.weight, first.bias, last.weight, last.bias)
    hidden, w1, *rest = (tensor.detach().to(dtype) for tensor in (torch.randn(rows, hidden_size), *layers))
    exact = critic_mlp_reference(*(tensor.double() for tensor in (hidden, w1, *rest)))
    scale: Tensor | None = None
    if quantized:
        w1, scale = quantize_w1(w1)
    result = critic_mlp_reference(hidden, w1, *rest, w1_scale=scale)
    return float((result.double() - exact).norm() / exact.norm())


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m benchmarks.kernel.critic_error", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=256, help="rows of random hidden states")
    parser.add_argument("--hidden", type=int, nargs="+", default=[768, 2048], help="H")
    options = parser.parse_args(arguments)
    print("| H | bf16 | bf16, int8 `w1` | fp16 | fp16, int8 `w1` |\n|---|---|---|---|---|")
    for size in options.hidden:
        cells = [
            error(options.rows, size, dtype, quantized)
            for dtype in (torch.bfloat16, torch.float16)
            for quantized in (False, True)
        ]
        print(f"| {size} | " + " | ".join(f"{cell:.1e}" for cell in cells) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
