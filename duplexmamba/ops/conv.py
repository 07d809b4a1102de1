"""Depthwise convolutions over time, the short one of a Mamba with its silu, and the choice of what runs them.

B rows, L steps, E channels, K convolution width.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from duplexmamba.ops.build import vector_width
from duplexmamba.ops.conv_cpp import conv_cpp
from duplexmamba.ops.scan import scan_path


def short_conv(window: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """silu of a depthwise convolution without padding: (B, L + K - 1, E), (E, 1, K), (E,) -> (B, L, E).

    By a C++ kernel where the scan has one; on a GPU by the package causal-conv1d, where it is installed and takes the
    operands; else as K shifted multiplications.
    """
    if _has_kernel(window, weight):
        return conv_cpp(window, weight, bias, silu=True)
    e, _, k = weight.shape
    dtype = torch.promote_types(window.dtype, weight.dtype)
    kernel = _causal_conv1d(window.device)
    if kernel is None or dtype == torch.float64 or e % 8 or not 2 <= k <= 4:
        return F.silu(ShiftedConv.apply(window, weight, bias))
    # It puts zeros before the window, which holds its history already: the outputs that see them are dropped.
    return kernel(window.to(dtype).mT, weight[:, 0], bias, activation="silu").mT[:, k - 1 :]


def depthwise_conv(window: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A depthwise convolution without padding: (B, L + K - 1, E), (E, 1, K), (E,) -> (B, L, E).

    By the C++ kernel where there is one, else by torch's.
    """
    if _has_kernel(window, weight):
        return conv_cpp(window, weight, bias, silu=False)
    return F.conv1d(window.mT, weight, bias, groups=len(weight)).mT


def _has_kernel(window: Tensor, weight: Tensor) -> bool:
    """Whether the C++ kernel runs here and takes these operands."""
    plain = window.device.type == "cpu" and window.dtype == weight.dtype == torch.float32
    return plain and scan_path(window) == "cpp" and len(weight) % vector_width() == 0


class ShiftedConv(torch.autograd.Function):
    """The convolution alone, as K shifted multiplications: for the K = 4 of a Mamba this takes an eighth to a half of
    F.conv1d's time on a CPU, which wants channels first."""

    @staticmethod
    def forward(ctx: Any, window: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(window, weight)
        steps = window.shape[1] - weight.shape[2] + 1
        out = torch.addcmul(bias, window[:, :steps], weight[:, 0, 0])
        for k in range(1, weight.shape[2]):
            out.addcmul_(window[:, k : k + steps], weight[:, 0, k])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        window, weight = ctx.saved_tensors
        steps = grad.shape[1]
        d_window, d_weight = torch.zeros_like(window), torch.empty_like(weight)
        for k in range(weight.shape[2]):
            d_window[:, k : k + steps].addcmul_(grad, weight[:, 0, k])
            d_weight[:, 0, k] = (window[:, k : k + steps] * grad).sum((0, 1))
        return d_window, d_weight, grad.sum((0, 1))


@functools.cache
def _causal_conv1d(device: torch.device) -> Callable[..., Tensor] | None:
    if device.type != "cuda":
        return None
    try:
        from causal_conv1d import causal_conv1d_fn  # type: ignore[import]
    except ImportError:
        return None
    return causal_conv1d_fn
