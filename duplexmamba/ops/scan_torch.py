"""The selective scan in plain torch, for any device: chunks of steps, and its own backward pass.

Products are elementwise. Matrix products would be rounded by autocast, TF32 or a lower
`float32_matmul_precision`.

Glossary:
    B: rows (the tensor B is the input matrix of the state space model).
    L: steps.
    S: steps of one chunk.
    E: channels.
    N: states per channel.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 16
"""Steps whose (B, S, N, E) tensors are in memory at once."""


def scan_torch(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    h0: Tensor,
) -> tuple[Tensor, Tensor]:
    """Run `scan.selective_scan` for operands of one dtype; arguments and results are the same."""
    states_first = A.T.contiguous()  # (N, E)
    return _TorchScan.apply(u, dt, states_first, B, C, D, h0)


class _TorchScan(torch.autograd.Function):
    """The scan with u, dt (B, L, E), A (N, E), B, C (B, L, N), D (E,), h0 (B, N, E)."""

    @staticmethod
    def forward(ctx: Any, u, dt, A, B, C, D, h):
        y = torch.empty_like(u)
        starts = []  # state (B, N, E) before each chunk
        for chunk in _chunks(u.shape[1]):
            starts.append(h)
            _, states = _chunk_states(u[:, chunk], dt[:, chunk], A, B[:, chunk], h)
            read = states * C[:, chunk, :, None]  # (B, S, N, E)
            torch.sum(read, 2, out=y[:, chunk])
            # A view would keep the states of the whole chunk alive.
            h = states[:, -1].clone()
        ctx.save_for_backward(u, dt, A, B, C, D, *starts)
        return y + D * u, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy, dh):
        u, dt, A, B, C, D, *starts = ctx.saved_tensors
        du = torch.empty_like(u)
        ddt = torch.empty_like(dt)
        dA = torch.zeros_like(A)
        dB = torch.empty_like(B)
        dC = torch.empty_like(C)
        chunks = list(zip(_chunks(u.shape[1]), starts, strict=True))
        for chunk, start in reversed(chunks):
            of_chunk, dh = _chunk_backward(
                u[:, chunk],
                dt[:, chunk],
                A,
                B[:, chunk],
                C[:, chunk],
                start,
                dy[:, chunk],
                dh,
            )
            du[:, chunk] = of_chunk.u
            ddt[:, chunk] = of_chunk.dt
            dA += of_chunk.A
            dB[:, chunk] = of_chunk.B
            dC[:, chunk] = of_chunk.C
        dD = (dy * u).sum((0, 1))
        return du + D * dy, ddt, dA, dB, dC, dD, dh


class _Gradients(NamedTuple):
    """Gradients of the operands of one chunk; that of u without its part through D."""

    u: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor


def _chunks(length: int) -> list[slice]:
    """Divide steps into chunks of CHUNK, the last one shorter."""
    chunks = []
    for start in range(0, length, CHUNK):
        end = min(start + CHUNK, length)
        chunks.append(slice(start, end))
    return chunks


def _chunk_states(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    h: Tensor,
) -> tuple[Tensor, Tensor]:
    """Compute the decays and the states of a chunk.

    Args:
        u: (B, S, E).
        dt: (B, S, E).
        A: (N, E).
        B: (B, S, N).
        h: (B, N, E), the state before the chunk.

    Returns:
        Decays and states, (B, S, N, E) each.
    """
    decay = (dt[:, :, None] * A).exp_()
    inputs = (dt * u)[:, :, None] * B[..., None]
    # The inputs are turned into states in place.
    states = inputs
    for step in range(u.shape[1]):
        h = states[:, step].addcmul_(decay[:, step], h)
    return decay, states


def _chunk_backward(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    h: Tensor,
    dy: Tensor,
    dh: Tensor,
) -> tuple[_Gradients, Tensor]:
    """Compute the gradients of one chunk.

    Args:
        u: (B, S, E).
        dt: (B, S, E).
        A: (N, E).
        B: (B, S, N).
        C: (B, S, N).
        h: (B, N, E), the state before the chunk.
        dy: (B, S, E), gradient of the output.
        dh: (B, N, E), gradient of the state after the chunk.

    Returns:
        The gradients of the operands, and (B, N, E) that of h.
    """
    decay, states = _chunk_states(u, dt, A, B, h)
    dy_of_states = dy[:, :, None]  # (B, S, 1, E)
    dstates = dy_of_states * C[..., None]  # (B, S, N, E), so far only through y
    dC = (states * dy_of_states).sum(3)
    # Derivative of each state by its exponent dt A; below, multiplied by the state's gradient.
    previous_states = torch.cat([h[:, None], states[:, :-1]], 1)
    dexponent = previous_states.mul_(decay)
    for step in reversed(range(u.shape[1])):
        dh = dstates[:, step].add_(dh) * decay[:, step]
    dinput = (dstates * B[..., None]).sum(2)  # gradient of dt u, (B, S, E)
    dexponent *= dstates
    # In place from here on, to hold few (B, S, N, E) tensors at once.
    inputs = dt * u  # (B, S, E)
    dB = dstates.mul_(inputs[:, :, None]).sum(3)
    ddt = dinput * u + (dexponent * A).sum(2)
    dA = dexponent.mul_(dt[:, :, None]).sum((0, 1))
    return _Gradients(dinput * dt, ddt, dA, dB, dC), dh
