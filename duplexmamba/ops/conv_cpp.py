"""Depthwise convolutions by the C++ kernel kernels/conv.cpp, on a CPU.

Glossary:
    B: rows.
    L: steps.
    E: channels, a multiple of `build.vector_width()`.
    K: width of the convolution.
    U: blocks of steps; the kernel sums the gradients of the weights for each block separately.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from duplexmamba.ops import build as native

SMALL = 2**16
"""Values in the window up to which one thread is faster than several."""


def conv_cpp(window: Tensor, weight: Tensor, bias: Tensor, silu: bool) -> Tensor:
    """Compute a depthwise convolution without padding.

    Args:
        window: (B, L + K - 1, E), float32 on the CPU as are all operands.
        weight: (E, 1, K).
        bias: (E,).
        silu: whether a silu follows.

    Returns:
        (B, L, E).
    """
    channels_last = weight[:, 0].T.contiguous()  # (K, E)
    operands = (window.contiguous(), channels_last, bias.contiguous())
    needs_grad = any(operand.requires_grad for operand in operands)
    if torch.is_grad_enabled() and needs_grad:
        return _CppConv.apply(*operands, silu)
    return _forward(*operands, silu)


class _CppConv(torch.autograd.Function):
    """The convolution with weight (K, E), all operands contiguous."""

    @staticmethod
    def forward(ctx: Any, window, weight, bias, silu):
        ctx.save_for_backward(window, weight, bias)
        ctx.silu = silu
        return _forward(window, weight, bias, silu)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy):
        window, weight, bias = ctx.saved_tensors
        dy = dy.contiguous()
        sizes = _sizes(window, weight, ctx.silu)
        batch_size, steps, channels, width, *_ = sizes
        num_blocks = batch_size * math.ceil(steps / native.library().conv_block())
        # Gradient before the silu; without a silu it is dy itself.
        d_convolved = torch.empty_like(dy) if ctx.silu else dy
        d_window = torch.empty_like(window)
        # (U, K + 1, E): gradients of the K rows of the weight, then of the bias
        d_parameters = window.new_zeros(num_blocks, width + 1, channels)
        tensors = (window, weight, bias, dy, d_convolved, d_parameters, d_window)
        addresses = [tensor.data_ptr() for tensor in tensors]
        native.library().conv_backward(*addresses, *sizes)
        total = d_parameters.sum(0)
        return d_window, total[:width], total[width], None


def _forward(window: Tensor, weight: Tensor, bias: Tensor, silu: bool) -> Tensor:
    sizes = _sizes(window, weight, silu)
    batch_size, steps, channels, *_ = sizes
    y = window.new_empty(batch_size, steps, channels)
    addresses = [tensor.data_ptr() for tensor in (window, weight, bias, y)]
    native.library().conv_forward(*addresses, *sizes)
    return y


def _sizes(window: Tensor, weight: Tensor, silu: bool) -> tuple[int, ...]:
    """Return the sizes that the kernel takes: B, L, E, K, silu (0 or 1), threads."""
    batch_size, window_steps, channels = window.shape
    width = len(weight)
    steps = window_steps - width + 1
    threads = native.num_threads(window.numel(), SMALL)
    return batch_size, steps, channels, width, int(silu), threads
