"""The selective scan as a C++ kernel for the CPU, kernels/scan.cpp.

B batch, L steps, E channels, N states per channel.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from duplexmamba import native

SMALL = 2**16  # states x steps below which waking other threads costs more than it saves


class _CppScan(torch.autograd.Function):
    """The scan with A (N, E) and h0 (B, N, E), all in contiguous float32 with E a multiple of the kernel's width."""

    @staticmethod
    def forward(ctx: Any, u, dt, A, B, C, D, h0):
        chunks = math.ceil(u.shape[1] / native.library().scan_chunk())
        checkpoints = u.new_empty(h0.shape[0], chunks, *h0.shape[1:])
        ctx.save_for_backward(u, dt, A, B, C, D, checkpoints)
        return _cpp_forward(u, dt, A, B, C, D, h0, checkpoints)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy, dh):
        u, dt, A, B, C, D, checkpoints = ctx.saved_tensors
        sizes = _sizes(u, A)
        groups = sizes[4]
        dy, dh = dy.contiguous(), dh.clone(memory_format=torch.contiguous_format)
        du, ddt = torch.empty_like(u), torch.empty_like(u)
        dA, dD = u.new_zeros(len(u), *A.shape), u.new_zeros(len(u), *D.shape)
        dB, dC = u.new_empty(groups, *B.shape), u.new_empty(groups, *C.shape)
        tensors = (u, dt, A, B, C, D, checkpoints, dy, dh, du, ddt, dA, dB, dC, dD)
        native.library().scan_backward(*(x.data_ptr() for x in tensors), *sizes)
        return du, ddt, dA.sum(0), dB.sum(0), dC.sum(0), dD.sum(0), dh


def _cpp_forward(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor, checkpoints: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    y, h = torch.empty_like(u), h0.clone()
    tensors = (u, dt, A, B, C, D, h, y)
    stored = None if checkpoints is None else checkpoints.data_ptr()
    native.library().scan_forward(*(x.data_ptr() for x in tensors), stored, *_sizes(u, A))
    return y, h


def _sizes(u: Tensor, A: Tensor) -> tuple[int, ...]:
    """batch, length, E, N, then into how many channel groups each row is cut so that all threads get the same share."""
    (batch, length, e), n = u.shape, len(A)
    threads = torch.get_num_threads() if u.numel() * n > SMALL else 1
    groups = min(threads // math.gcd(batch, threads), e // native.vector_width())
    return batch, length, e, n, groups, threads


def scan_cpp(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
    """As `scan.selective_scan`, in float32 on the CPU."""
    # The kernel is handed bare addresses: another device's would crash the process.
    if u.dtype != torch.float32 or any(x.device.type != "cpu" for x in (u, dt, A, B, C, D, h0)):
        raise ValueError(f'scan path "cpp" needs CPU tensors below float64; u is {u.dtype} on {u.device}: use "torch"')
    A, e = A.T, u.shape[2]
    if padding := -e % native.vector_width():
        u, dt, A, D, h0 = (F.pad(x, (0, padding)) for x in (u, dt, A, D, h0))
    operands = [x.contiguous() for x in (u, dt, A, B, C, D, h0)]
    grad = torch.is_grad_enabled() and any(x.requires_grad for x in operands)
    y, h = _CppScan.apply(*operands) if grad else _cpp_forward(*operands)
    return (y[..., :e], h[..., :e]) if padding else (y, h)
