"""Depthwise convolutions over time, and the choice of what computes them.

Mamba's short convolution has a silu after it; the encoder's convolution module has none.

Glossary:
    B: rows.
    L: steps.
    E: channels.
    K: width of the convolution.
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
    """Compute the silu of a depthwise convolution without padding.

    It runs as a C++ kernel where the scan does; on a GPU by the package causal-conv1d where that is
    installed and takes these operands; otherwise as K shifted multiplications.

    Args:
        window: (B, L + K - 1, E), the steps with K - 1 steps of history before them.
        weight: (E, 1, K).
        bias: (E,).

    Returns:
        (B, L, E).
    """
    if _has_kernel(window, weight):
        return conv_cpp(window, weight, bias, silu=True)
    width = weight.shape[2]
    dtype = torch.promote_types(window.dtype, weight.dtype)
    causal_conv1d_fn = _causal_conv1d(window.device)
    if causal_conv1d_fn is None or not _causal_conv1d_takes(weight, dtype):
        return F.silu(ShiftedConv.apply(window, weight, bias))
    channels_first = window.to(dtype).mT  # (B, E, L + K - 1)
    y = causal_conv1d_fn(channels_first, weight[:, 0], bias, activation="silu")
    # The package puts zeros before the window, but the window already has its history: the K - 1
    # outputs that depend on those zeros are dropped.
    return y.mT[:, width - 1 :]


def depthwise_conv(window: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute a depthwise convolution without padding, by the C++ kernel or by torch.

    Args:
        window: (B, L + K - 1, E), the steps with K - 1 steps of history before them.
        weight: (E, 1, K).
        bias: (E,).

    Returns:
        (B, L, E).
    """
    if _has_kernel(window, weight):
        return conv_cpp(window, weight, bias, silu=False)
    channels_first = window.mT  # (B, E, L + K - 1)
    return F.conv1d(channels_first, weight, bias, groups=len(weight)).mT


class ShiftedConv(torch.autograd.Function):
    """A depthwise convolution as K shifted multiplications, without silu.

    For the K = 4 of Mamba this takes an eighth to a half of the time of F.conv1d on a CPU, which
    needs channels before steps.
    """

    @staticmethod
    def forward(ctx: Any, window: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """(B, L + K - 1, E), (E, 1, K), (E,) -> (B, L, E)."""
        ctx.save_for_backward(window, weight)
        width = weight.shape[2]
        steps = window.shape[1] - width + 1
        out = torch.addcmul(bias, window[:, :steps], weight[:, 0, 0])
        for k in range(1, width):
            out.addcmul_(window[:, k : k + steps], weight[:, 0, k])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of window, weight and bias from that of the output, (B, L, E)."""
        window, weight = ctx.saved_tensors
        steps = grad.shape[1]
        d_window = torch.zeros_like(window)
        d_weight = torch.empty_like(weight)
        for k in range(weight.shape[2]):
            shifted = slice(k, k + steps)
            d_window[:, shifted].addcmul_(grad, weight[:, 0, k])
            d_weight[:, 0, k] = (window[:, shifted] * grad).sum((0, 1))
        return d_window, d_weight, grad.sum((0, 1))


def _has_kernel(window: Tensor, weight: Tensor) -> bool:
    """Check whether the C++ kernel runs here and takes these operands."""
    if window.device.type != "cpu":
        return False
    if window.dtype != torch.float32 or weight.dtype != torch.float32:
        return False
    return scan_path(window) == "cpp" and len(weight) % vector_width() == 0


def _causal_conv1d_takes(weight: Tensor, dtype: torch.dtype) -> bool:
    """Check the limits of causal-conv1d: dtype, channels in eights, widths 2 to 4."""
    channels, _, width = weight.shape
    return dtype != torch.float64 and channels % 8 == 0 and 2 <= width <= 4


@functools.cache
def _causal_conv1d(device: torch.device) -> Callable[..., Tensor] | None:
    """Return the function of the package causal-conv1d, or None where it cannot run."""
    if device.type != "cuda":
        return None
    try:
        from causal_conv1d import causal_conv1d_fn  # type: ignore[import]
    except ImportError:
        return None
    return causal_conv1d_fn
