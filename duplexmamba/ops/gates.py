"""Silu, softplus and the gate of a Mamba: in C++ on a CPU, kernels/gates.cpp; elsewhere in torch, their twin.

B rows, L steps, E channels, R = B L.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from duplexmamba.ops import build as native
from duplexmamba.ops.scan import scan_path

SMALL = 2**16  # numbers below which waking other threads costs more than it saves


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x), of any shape."""
    return _Pointwise.apply(x.contiguous(), "silu") if _has_kernel(x) else F.silu(x)


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), of any shape."""
    return _Pointwise.apply(x.contiguous(), "softplus") if _has_kernel(x) else F.softplus(x)


def gated(y: Tensor, z: Tensor) -> Tensor:
    """y silu(z), both (B, L, E); z may be a part of wider rows."""
    if not (_has_kernel(y) and _has_kernel(z)) or y.shape[2] % native.vector_width():
        return y * F.silu(z)
    rows = z.flatten(0, 1)
    found = _Gated.apply(
        y.flatten(0, 1).contiguous(), rows if rows.stride(1) == 1 else rows.contiguous()
    )
    return found.view(y.shape)


class SiLU(nn.Module):
    """`silu` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        return silu(x)


def _has_kernel(x: Tensor) -> bool:
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0
    return plain and scan_path(x) == "cpp" and x.numel() % native.vector_width() == 0


def _threads(x: Tensor) -> int:
    return torch.get_num_threads() if x.numel() > SMALL else 1


class _Pointwise(torch.autograd.Function):
    """A function of each number of a contiguous tensor."""

    @staticmethod
    def forward(ctx: Any, x, name):
        ctx.save_for_backward(x)
        ctx.name = name
        y = torch.empty_like(x)
        getattr(native.library(), f"{name}_forward")(
            x.data_ptr(), y.data_ptr(), x.numel(), _threads(x)
        )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy):
        [x] = ctx.saved_tensors
        dy, dx = dy.contiguous(), torch.empty_like(x)
        run = getattr(native.library(), f"{ctx.name}_backward")
        run(x.data_ptr(), dy.data_ptr(), dx.data_ptr(), x.numel(), _threads(x))
        return dx, None


class _Gated(torch.autograd.Function):
    """y (R, E), contiguous; z (R, E), its rows evenly apart."""

    @staticmethod
    def forward(ctx: Any, y, z):
        ctx.save_for_backward(y, z)
        out = torch.empty_like(y)
        native.library().gated_forward(*(x.data_ptr() for x in (y, z, out)), *_sizes(y, z))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout):
        y, z = ctx.saved_tensors
        dout, dy, dz = dout.contiguous(), torch.empty_like(y), torch.empty_like(y)
        native.library().gated_backward(
            *(x.data_ptr() for x in (y, z, dout, dy, dz)), *_sizes(y, z)
        )
        return dy, dz


def _sizes(y: Tensor, z: Tensor) -> tuple[int, ...]:
    """R, E, how far apart z's rows begin, threads."""
    return *y.shape, z.stride(0), _threads(y)
