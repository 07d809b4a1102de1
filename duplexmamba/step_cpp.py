"""One token through a Mamba-1 mixer as one C++ call for the CPU, kernels/step.cpp.

B rows, D model width, E inner width, N states per channel, K convolution width, R rank of dt.
"""

import torch
from torch import Tensor

from duplexmamba import native

MOST_ROWS = 8  # with more, matrix products of whole batches win
SMALL = 2**19  # weights below which waking other threads costs more than it saves


def step_cpp(x: Tensor, weights: tuple[Tensor, ...], tail: Tensor, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B, D) -> (B, D), and the next tail and h. All are float32 on the CPU.

    Args:
        weights: in_proj (2 E, D), convolution (E, 1, K) and bias (E,), x_proj (R + 2 N, E), dt_proj (E, R) and bias
            (E,), A (N, E), D (E,), out_proj (D, E). E is a multiple of `step_width`.
        tail: (B, K - 1, E) inputs of the convolution before this one.
        h: (B, N, E).
    """
    batch, d_model = x.shape
    (n, e), k, r = weights[6].shape, tail.shape[1] + 1, weights[4].shape[1]
    operands = [t.contiguous() for t in (x, *weights, tail, h)]
    results = [torch.empty_like(t) for t in (operands[-2], operands[-1], operands[0])]
    threads = torch.get_num_threads() if weights[0].numel() > SMALL else 1
    addresses = (t.data_ptr() for t in (*operands, *results))
    native.load_library(native.FLAGS).mamba_step(*addresses, batch, d_model, e, n, k, r, threads)
    return results[2], results[0], results[1]


def step_width() -> int:
    """What E must be a multiple of."""
    return native.load_library(native.FLAGS).step_width()
