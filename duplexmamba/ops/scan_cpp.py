"""The selective scan by the C++ kernel kernels/scan.cpp, on a CPU.

Glossary:
    B: rows (the tensor B is the input matrix of the state space model).
    L: steps.
    E: channels.
    N: states per channel.
    K: chunks of steps per row.
    G: groups of channels; threads share rows and groups.
    P: positions.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from duplexmamba.ops import build as native
from duplexmamba.streaming.padded import Positions

SMALL = 2**16
"""States times steps up to which one thread is faster than several."""


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
    """Run the selective scan in float32 on the CPU.

    Args:
        u: (B, L, E).
        dt: (B, L, E).
        A: (E, N).
        B: (B, L, N).
        C: (B, L, N).
        D: (E,).
        h0: (B, N, E).
        return_states_at: P positions, for the states there instead of the last ones.

    Returns:
        y (B, L, E), and the last states (B, N, E) or those at the positions (P, N, E).

    Raises:
        ValueError: an operand is not on the CPU, or u is not float32.
    """
    _check_operands(u, dt, A, B, C, D, h0)
    A = A.T  # (N, E)
    channels = u.shape[2]
    padding = -channels % native.vector_width()
    if padding:
        # The kernel takes whole vectors of channels.
        u, dt, A, D, h0 = (F.pad(x, (0, padding)) for x in (u, dt, A, D, h0))
    ends, chunks_at = _chunks(len(u), u.shape[1], return_states_at)
    operands = [x.contiguous() for x in (u, dt, A, B, C, D, h0, ends)]
    needs_grad = any(operand.requires_grad for operand in operands)
    if torch.is_grad_enabled() and needs_grad:
        y, h, starts = _CppScan.apply(*operands)
    else:
        keep_starts = return_states_at is not None
        y, h, starts = _forward(keep_starts, *operands)
    if return_states_at is not None:
        h = starts[return_states_at.rows, chunks_at]  # (P, N, E)
    if padding:
        return y[..., :channels], h[..., :channels]
    return y, h


class _CppScan(torch.autograd.Function):
    """The scan with A (N, E), h0 (B, N, E) and the ends (B, K) of the chunks of each row.

    All operands are contiguous float32, E a multiple of the vector width. It returns y, the last
    states, and the states at the start of each chunk, (B, K, N, E).
    """

    @staticmethod
    def forward(ctx: Any, u, dt, A, B, C, D, h0, ends):
        y, h, starts = _forward(True, u, dt, A, B, C, D, h0, ends)
        ctx.save_for_backward(u, dt, A, B, C, D, starts, ends)
        # Unused outputs have the gradient None instead of zeros.
        ctx.set_materialize_grads(False)
        return y, h, starts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy, dh, dstarts):
        u, dt, A, B, C, D, starts, ends = ctx.saved_tensors
        sizes = _sizes(u, A, ends)
        batch_size = len(u)
        *_, num_groups, _ = sizes
        dy = torch.zeros_like(u) if dy is None else dy.contiguous()
        if dh is None:
            dh = u.new_zeros(batch_size, *A.shape)  # (B, N, E)
        else:
            # A copy, since the kernel overwrites it.
            dh = dh.clone(memory_format=torch.contiguous_format)
        dstarts = None if dstarts is None else dstarts.contiguous()
        du = torch.empty_like(u)
        ddt = torch.empty_like(dt)
        # Parts that no two threads share, summed below: the kernel needs no atomics.
        dA = u.new_zeros(batch_size, *A.shape)  # (B, N, E)
        dD = u.new_zeros(batch_size, *D.shape)  # (B, E)
        dB = u.new_empty(num_groups, *B.shape)  # (G, B, L, N)
        dC = u.new_empty(num_groups, *C.shape)  # (G, B, L, N)
        operands = (u, dt, A, B, C, D, starts, dy)
        gradients = (dh, du, ddt, dA, dB, dC, dD)
        addresses = _addresses(*operands, *gradients, dstarts, ends)
        native.library().scan_backward(*addresses, *sizes)
        dh0 = dh  # the kernel has turned it into the gradient of h0, in place
        return (
            du,
            ddt,
            dA.sum(0),
            dB.sum(0),
            dC.sum(0),
            dD.sum(0),
            dh0,
            None,
        )


def _forward(
    keep_starts: bool,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    h0: Tensor,
    ends: Tensor,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return y, the last states and, if requested, the states at the start of each chunk."""
    y = torch.empty_like(u)
    h = h0.clone()  # the kernel updates it in place
    starts = u.new_empty(*ends.shape, *h0.shape[1:]) if keep_starts else None
    addresses = _addresses(u, dt, A, B, C, D, h, y, starts, ends)
    native.library().scan_forward(*addresses, *_sizes(u, A, ends))
    return y, h, starts


def _addresses(*tensors: Tensor | None) -> list[int | None]:
    """Return the addresses of tensors; None is a null pointer."""
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]


def _sizes(u: Tensor, A: Tensor, ends: Tensor) -> tuple[int, ...]:
    """Return the sizes that the kernel takes: K, B, L, E, N, G, threads."""
    num_chunks = ends.shape[1]
    batch_size, steps, channels = u.shape
    num_states = len(A)
    threads = native.num_threads(u.numel() * num_states, SMALL)
    # As many groups as give every thread the same share of rows times groups.
    equal_groups = threads // math.gcd(batch_size, threads)
    num_groups = min(equal_groups, channels // native.vector_width())
    return num_chunks, batch_size, steps, channels, num_states, num_groups, threads


def _chunks(
    batch_size: int, length: int, return_states_at: Positions | None
) -> tuple[Tensor, Tensor | None]:
    """Divide each row into chunks that are no longer than the kernel takes.

    Args:
        batch_size: B.
        length: L.
        return_states_at: P positions, at each of which a chunk must begin.

    Returns:
        The ends (B, K) int64 of the chunks of each row, and (P,) the chunk that begins at each
        position. A row with fewer chunks than others has empty ones at its end.
    """
    size = native.library().scan_chunk()
    if return_states_at is None:
        ends = torch.arange(size, length + size, size).clamp_(max=length)  # (K,)
        return ends.expand(batch_size, -1).contiguous(), None
    # True where a chunk begins; `length` is the beginning of the empty ones.
    begins = torch.zeros(batch_size, length + 1, dtype=torch.bool)  # (B, L + 1)
    begins[:, ::size] = True
    begins[:, length] = True
    positions = (return_states_at.rows, return_states_at.steps)
    begins[positions] = True
    chunk_of = begins.cumsum(1) - 1  # (B, L + 1)
    num_chunks = int(chunk_of.max()) + 1
    ends = torch.full((batch_size, num_chunks), length)
    # A chunk ends where the next one begins. Every row begins its first chunk at step 0.
    rows, steps = begins[:, 1:].nonzero(as_tuple=True)
    steps = steps + 1
    next_chunk = chunk_of[rows, steps]
    ends[rows, next_chunk - 1] = steps
    return ends, chunk_of[positions]


def _check_operands(u: Tensor, *others: Tensor) -> None:
    """Raise ValueError for operands that the kernel cannot take."""
    # It gets bare addresses: those of another device would crash the process.
    on_cpu = all(operand.device.type == "cpu" for operand in (u, *others))
    if u.dtype != torch.float32 or not on_cpu:
        raise ValueError(
            'scan path "cpp" needs CPU tensors below float64; '
            f'u is {u.dtype} on {u.device}: use "torch"'
        )
