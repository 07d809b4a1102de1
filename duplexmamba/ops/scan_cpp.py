"""The selective scan as a C++ kernel for the CPU, kernels/scan.cpp.

B batch, L steps, E channels, N states per channel, K chunks, P places.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from duplexmamba.ops import build as native
from duplexmamba.streaming.padded import Positions

SMALL = 2**16  # states x steps below which waking other threads costs more than it saves


class _CppScan(torch.autograd.Function):
    """The scan with A (N, E) and h0 (B, N, E), all in contiguous float32 with E a multiple of the kernel's width.

    Returns y, the last states, and those before each chunk (B, K, N, E), where `ends` (B, K) says that the chunks end.
    """

    @staticmethod
    def forward(ctx: Any, u, dt, A, B, C, D, h0, ends):
        y, h, starts = _cpp_forward(True, u, dt, A, B, C, D, h0, ends)
        ctx.save_for_backward(u, dt, A, B, C, D, starts, ends)
        ctx.set_materialize_grads(False)
        return y, h, starts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy, dh, dstarts):
        u, dt, A, B, C, D, starts, ends = ctx.saved_tensors
        sizes = _sizes(u, A, ends)
        groups = sizes[5]
        dy = torch.zeros_like(u) if dy is None else dy.contiguous()
        dh = (
            torch.zeros_like(starts[:, 0])
            if dh is None
            else dh.clone(memory_format=torch.contiguous_format)
        )
        dstarts = None if dstarts is None else dstarts.contiguous()
        du, ddt = torch.empty_like(u), torch.empty_like(u)
        dA, dD = u.new_zeros(len(u), *A.shape), u.new_zeros(len(u), *D.shape)
        dB, dC = u.new_empty(groups, *B.shape), u.new_empty(groups, *C.shape)
        tensors = (u, dt, A, B, C, D, starts, dy, dh, du, ddt, dA, dB, dC, dD, dstarts, ends)
        native.library().scan_backward(*map(_address, tensors), *sizes)
        return du, ddt, dA.sum(0), dB.sum(0), dC.sum(0), dD.sum(0), dh, None


def _cpp_forward(
    keep: bool,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    h0: Tensor,
    ends: Tensor,
) -> tuple[Tensor, Tensor, Tensor | None]:
    y, h = torch.empty_like(u), h0.clone()
    starts = u.new_empty(*ends.shape, *h0.shape[1:]) if keep else None
    tensors = (u, dt, A, B, C, D, h, y, starts, ends)
    native.library().scan_forward(*map(_address, tensors), *_sizes(u, A, ends))
    return y, h, starts


def _address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


def _sizes(u: Tensor, A: Tensor, ends: Tensor) -> tuple[int, ...]:
    """chunks, batch, length, E, N, then into how many channel groups each row is cut so that all threads get the same
    share."""
    (batch, length, e), n = u.shape, len(A)
    threads = torch.get_num_threads() if u.numel() * n > SMALL else 1
    groups = min(threads // math.gcd(batch, threads), e // native.vector_width())
    return ends.shape[1], batch, length, e, n, groups, threads


def _chunks(
    batch: int, length: int, return_states_at: Positions | None
) -> tuple[Tensor, Tensor | None]:
    """Ends (B, K) of each row's chunks, none longer than the kernel takes, and (P,) the chunk that begins at each
    place. Where a row has fewer chunks than others, empty ones follow."""
    size = native.library().scan_chunk()
    if return_states_at is None:
        ends = torch.arange(size, length + size, size).clamp_(max=length)
        return ends.expand(batch, -1).contiguous(), None
    begins = torch.zeros(batch, length + 1, dtype=torch.bool)
    begins[:, ::size] = True
    begins[:, length] = True
    begins[return_states_at.rows, return_states_at.steps] = True
    numbers = begins.cumsum(1) - 1
    ends = torch.full((batch, int(numbers.max()) + 1), length)
    rows, steps = begins[:, 1:].nonzero(as_tuple=True)
    ends[rows, numbers[rows, steps + 1] - 1] = steps + 1
    return ends, numbers[return_states_at.rows, return_states_at.steps]


def scan_cpp(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    h0: Tensor,
    return_states_at: Positions | None = None,
) -> tuple[Tensor, Tensor]:
    """As `scan.selective_scan`, in float32 on the CPU."""
    # The kernel is handed bare addresses: another device's would crash the process.
    if u.dtype != torch.float32 or any(x.device.type != "cpu" for x in (u, dt, A, B, C, D, h0)):
        raise ValueError(
            f'scan path "cpp" needs CPU tensors below float64; u is {u.dtype} on {u.device}: use "torch"'
        )
    A, e = A.T, u.shape[2]
    if padding := -e % native.vector_width():
        u, dt, A, D, h0 = (F.pad(x, (0, padding)) for x in (u, dt, A, D, h0))
    ends, chunk_at = _chunks(len(u), u.shape[1], return_states_at)
    operands = [x.contiguous() for x in (u, dt, A, B, C, D, h0, ends)]
    if torch.is_grad_enabled() and any(x.requires_grad for x in operands):
        y, h, starts = _CppScan.apply(*operands)
    else:
        y, h, starts = _cpp_forward(return_states_at is not None, *operands)
    if return_states_at is not None:
        h = starts[return_states_at.rows, chunk_at]
    return (y[..., :e], h[..., :e]) if padding else (y, h)
