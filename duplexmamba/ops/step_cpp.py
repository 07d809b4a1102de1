"""A few vectors through a Mamba-1 mixer, or through one matrix, on a CPU.

Each is one call of a C++ kernel, kernels/step.cpp. Decoding one token by the general path takes
forty calls of torch, each of which costs as much as the arithmetic of a small model.

Glossary:
    B: rows.
    D: width of the model.
    E: inner width of the mixer.
    N: states per channel.
    K: width of the convolution.
    R: rank of dt.
    V: rows of a matrix.
"""

import torch
from torch import Tensor

from duplexmamba.ops import build as native
from duplexmamba.ops.scan import scan_path

MOST_ROWS = 8
"""Rows up to which these kernels are faster than torch's products of whole batches."""

SMALL = 2**19
"""Weights up to which one thread is faster than several."""


def is_step(x: Tensor, rows: int) -> bool:
    """Check whether the functions of this module can compute a step.

    They need few vectors in float32 on a CPU, and compute no gradients.

    Args:
        x: the input, of any shape.
        rows: number of vectors in it.
    """
    # The kernels get bare addresses: those of another device would crash the process.
    if x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    if rows > MOST_ROWS or torch.is_grad_enabled():
        return False
    return scan_path(x) == "cpp" and not torch.is_autocast_enabled("cpu")


def step_cpp(
    x: Tensor, weights: tuple[Tensor, ...], tail: Tensor, h: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one step of a Mamba-1 mixer.

    Args:
        x: (B, D), float32 on the CPU as are all operands.
        weights: in_proj (2 E, D); convolution (E, 1, K) and its bias (E,); x_proj (R + 2 N, E);
            dt_proj (E, R) and its bias (E,); A_log (E, N); D (E,); out_proj (D, E). E is a multiple
            of `build.vector_width()`.
        tail: (B, K - 1, E), the inputs of the convolution before this step.
        h: (B, N, E), the state of the scan before this step.

    Returns:
        The output (B, D), and tail and h after this step.
    """
    in_proj, _, _, _, dt_proj, _, A_log, _, _ = weights
    batch_size, d_model = x.shape
    channels, num_states = A_log.shape
    width = tail.shape[1] + 1
    dt_rank = dt_proj.shape[1]
    # Operands stay referenced by this list while the kernel reads their addresses.
    operands = [tensor.contiguous() for tensor in (x, *weights, tail, h)]
    new_tail = torch.empty_like(operands[-2])
    new_h = torch.empty_like(operands[-1])
    y = torch.empty_like(operands[0])
    addresses = [tensor.data_ptr() for tensor in (*operands, new_tail, new_h, y)]
    sizes = (batch_size, d_model, channels, num_states, width, dt_rank)
    threads = native.num_threads(in_proj.numel(), SMALL)
    native.library().mamba_step(*addresses, *sizes, threads)
    return y, new_tail, new_h


def matrix_vectors(matrix: Tensor, x: Tensor) -> Tensor:
    """Multiply a matrix with a few vectors, as fast as the matrix can be read from memory.

    Args:
        matrix: (V, D), float32 on the CPU.
        x: (B, D), float32 on the CPU.

    Returns:
        (B, V).
    """
    matrix = matrix.contiguous()
    x = x.contiguous()
    out = x.new_empty(len(x), len(matrix))
    addresses = [tensor.data_ptr() for tensor in (matrix, x, out)]
    threads = native.num_threads(matrix.numel(), SMALL)
    native.library().matrix_vectors(*addresses, len(x), *matrix.shape, threads)
    return out
