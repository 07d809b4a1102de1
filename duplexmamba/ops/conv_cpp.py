"""Depthwise convolutions, with a silu or without, as a C++ kernel for the CPU, kernels/conv.cpp.

B rows, L steps, E channels, K convolution width.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from duplexmamba.ops import build as native

SMALL = 2**16  # values below which waking other threads costs more than it saves


def conv_cpp(window: Tensor, weight: Tensor, bias: Tensor, silu: bool) -> Tensor:
    """(B, L + K - 1, E), (E, 1, K), (E,) -> (B, L, E), all float32 on the CPU, E whole vectors (`native`)."""
    operands = window.contiguous(), weight[:, 0].T.contiguous(), bias.contiguous()
    grad = torch.is_grad_enabled() and any(x.requires_grad for x in operands)
    return _CppConv.apply(*operands, silu) if grad else _forward(*operands, silu)


class _CppConv(torch.autograd.Function):
    """The convolution with weight (K, E), all contiguous."""

    @staticmethod
    def forward(ctx: Any, window, weight, bias, silu):
        ctx.save_for_backward(window, weight, bias)
        ctx.silu = silu
        return _forward(window, weight, bias, silu)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy):
        window, weight, bias = ctx.saved_tensors
        dy, sizes = dy.contiguous(), _sizes(window, weight, ctx.silu)
        batch, steps, e, k, *_ = sizes
        units = batch * math.ceil(steps / native.library().conv_block())
        dc = torch.empty_like(dy) if ctx.silu else dy
        dwindow, parts = torch.empty_like(window), window.new_zeros(units, k + 1, e)
        tensors = (window, weight, bias, dy, dc, parts, dwindow)
        native.library().conv_backward(*(x.data_ptr() for x in tensors), *sizes)
        total = parts.sum(0)
        return dwindow, total[:k], total[k], None


def _forward(window: Tensor, weight: Tensor, bias: Tensor, silu: bool) -> Tensor:
    sizes = _sizes(window, weight, silu)
    y = window.new_empty(sizes[0], sizes[1], sizes[2])
    native.library().conv_forward(*(x.data_ptr() for x in (window, weight, bias, y)), *sizes)
    return y


def _sizes(window: Tensor, weight: Tensor, silu: bool) -> tuple[int, ...]:
    """batch, steps, E, K, whether there is a silu, threads."""
    batch, width, e = window.shape
    threads = torch.get_num_threads() if window.numel() > SMALL else 1
    return batch, width - len(weight) + 1, e, len(weight), int(silu), threads
