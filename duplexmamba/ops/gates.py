"""Silu, softplus and the gate of a Mamba layer.

On a CPU they run as C++ kernels, kernels/gates.cpp. Elsewhere torch computes the same functions.

Glossary:
    B: rows.
    L: steps.
    E: channels.
    R: B * L, rows of channels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from duplexmamba.ops import build as native
from duplexmamba.ops.scan import scan_path

SMALL = 2**16
"""Numbers up to which one thread is faster than several."""


def silu(x: Tensor) -> Tensor:
    """Compute x * sigmoid(x) of a tensor of any shape."""
    if _has_kernel(x):
        return _Pointwise.apply(x.contiguous(), "silu")
    return F.silu(x)


def softplus(x: Tensor) -> Tensor:
    """Compute log(1 + exp(x)) of a tensor of any shape."""
    if _has_kernel(x):
        return _Pointwise.apply(x.contiguous(), "softplus")
    return F.softplus(x)


def gated(y: Tensor, z: Tensor) -> Tensor:
    """Compute y * silu(z).

    Args:
        y: (B, L, E).
        z: (B, L, E); it may be a view of a wider tensor, as half of a projection is.

    Returns:
        (B, L, E).
    """
    has_kernel = _has_kernel(y) and _has_kernel(z)
    if not has_kernel or y.shape[2] % native.vector_width():
        return y * F.silu(z)
    flat_y = y.flatten(0, 1).contiguous()  # (R, E)
    flat_z = z.flatten(0, 1)  # (R, E)
    if flat_z.stride(1) != 1:
        flat_z = flat_z.contiguous()
    return _Gated.apply(flat_y, flat_z).view(y.shape)


class SiLU(nn.Module):
    """The function `silu` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Compute x * sigmoid(x) of a tensor of any shape."""
        return silu(x)


def _has_kernel(x: Tensor) -> bool:
    """Check whether the C++ kernels run here and take this tensor."""
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.numel() == 0:
        return False
    return scan_path(x) == "cpp" and x.numel() % native.vector_width() == 0


class _Pointwise(torch.autograd.Function):
    """A function of each number of a contiguous tensor, by the name of its kernel."""

    @staticmethod
    def forward(ctx: Any, x, name):
        ctx.save_for_backward(x)
        ctx.name = name
        y = torch.empty_like(x)
        kernel = getattr(native.library(), f"{name}_forward")
        threads = native.num_threads(x.numel(), SMALL)
        kernel(x.data_ptr(), y.data_ptr(), x.numel(), threads)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy):
        [x] = ctx.saved_tensors
        dy = dy.contiguous()
        dx = torch.empty_like(x)
        kernel = getattr(native.library(), f"{ctx.name}_backward")
        threads = native.num_threads(x.numel(), SMALL)
        kernel(x.data_ptr(), dy.data_ptr(), dx.data_ptr(), x.numel(), threads)
        return dx, None


class _Gated(torch.autograd.Function):
    """The gate for y (R, E), contiguous, and z (R, E), whose rows may be further apart than E."""

    @staticmethod
    def forward(ctx: Any, y, z):
        ctx.save_for_backward(y, z)
        out = torch.empty_like(y)
        addresses = [tensor.data_ptr() for tensor in (y, z, out)]
        native.library().gated_forward(*addresses, *_gate_sizes(y, z))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout):
        y, z = ctx.saved_tensors
        dout = dout.contiguous()
        dy = torch.empty_like(y)
        dz = torch.empty_like(y)  # contiguous, unlike z
        addresses = [tensor.data_ptr() for tensor in (y, z, dout, dy, dz)]
        native.library().gated_backward(*addresses, *_gate_sizes(y, z))
        return dy, dz


def _gate_sizes(y: Tensor, z: Tensor) -> tuple[int, ...]:
    """Return the sizes that the kernels take: R, E, distance between rows of z, threads."""
    num_rows, channels = y.shape
    threads = native.num_threads(y.numel(), SMALL)
    return num_rows, channels, z.stride(0), threads
