"""A few vectors through a Mamba-1 mixer, or through one matrix, as one C++ call for the CPU, kernels/step.cpp.

B rows, D model width, E inner width, N states per channel, K convolution width, R rank of dt.
"""

import torch
from torch import Tensor

from duplexmamba.ops import build as native
from duplexmamba.ops.scan import scan_path

MOST_ROWS = 8  # with more, the library's products of whole batches win
SMALL = 2**19  # weights below which waking other threads costs more than it saves


def is_step(x: Tensor, rows: int) -> bool:
    """Whether `x`, of so many vectors, is for the functions below: few, float32, on a CPU, with nothing to learn."""
    # The functions are handed bare addresses: another device's would crash the process.
    if (
        rows > MOST_ROWS
        or x.device.type != "cpu"
        or x.dtype != torch.float32
        or torch.is_grad_enabled()
    ):
        return False
    return scan_path(x) == "cpp" and not torch.is_autocast_enabled("cpu")


def step_cpp(
    x: Tensor, weights: tuple[Tensor, ...], tail: Tensor, h: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(B, D) -> (B, D), and the next tail and h. All are float32 on the CPU.

    Args:
        weights: in_proj (2 E, D), convolution (E, 1, K) and bias (E,), x_proj (R + 2 N, E), dt_proj (E, R) and bias
            (E,), A_log (E, N), D (E,), out_proj (D, E). E is a multiple of `native.vector_width()`.
        tail: (B, K - 1, E) inputs of the convolution before this one.
        h: (B, N, E).
    """
    batch, d_model = x.shape
    (e, n), k, r = weights[6].shape, tail.shape[1] + 1, weights[4].shape[1]
    operands = [t.contiguous() for t in (x, *weights, tail, h)]
    new_tail, new_h, y = (
        torch.empty_like(operands[-2]),
        torch.empty_like(operands[-1]),
        torch.empty_like(operands[0]),
    )
    addresses = [t.data_ptr() for t in (*operands, new_tail, new_h, y)]
    library = native.library()
    library.mamba_step(*addresses, batch, d_model, e, n, k, r, _threads(weights[0]))
    return y, new_tail, new_h


def matrix_vectors(matrix: Tensor, x: Tensor) -> Tensor:
    """(V, D) times each of (B, D) -> (B, V), float32 on the CPU, at the pace at which the matrix can be read."""
    matrix, x = matrix.contiguous(), x.contiguous()
    out = x.new_empty(len(x), len(matrix))
    library = native.library()
    library.matrix_vectors(
        matrix.data_ptr(), x.data_ptr(), out.data_ptr(), len(x), *matrix.shape, _threads(matrix)
    )
    return out


def _threads(matrix: Tensor) -> int:
    return torch.get_num_threads() if matrix.numel() > SMALL else 1
