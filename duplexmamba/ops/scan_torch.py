"""The selective scan in plain torch, for any device: chunks of whole tensors and a backward pass of its own.

Products are elementwise, not matmul, which autocast, TF32 or a lower `float32_matmul_precision` would round.
B batch, L steps, S steps of a chunk, E channels, N states per channel.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 16  # steps whose (B, CHUNK, N, E) tensors are held at once


def scan_torch(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor
) -> tuple[Tensor, Tensor]:
    """As `scan.selective_scan`, all of one dtype."""
    return _TorchScan.apply(u, dt, A.T.contiguous(), B, C, D, h0)


class _TorchScan(torch.autograd.Function):
    """The scan with u, dt (B, L, E), A (N, E), B, C (B, L, N), D (E,), h0 (B, N, E), all of one dtype."""

    @staticmethod
    def forward(ctx: Any, u, dt, A, B, C, D, h):
        y, starts = torch.empty_like(u), []
        for t in _chunks(u.shape[1]):
            starts.append(h)
            _, hs = _chunk_states(u[:, t], dt[:, t], A, B[:, t], h)
            torch.sum(hs * C[:, t, :, None], 2, out=y[:, t])
            h = hs[:, -1].clone()  # a view would keep the whole chunk alive
        ctx.save_for_backward(u, dt, A, B, C, D, *starts)
        return y + D * u, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy, dh):
        u, dt, A, B, C, D, *starts = ctx.saved_tensors
        du, ddt, dA, dB, dC = (
            torch.empty_like(x) if x is not A else torch.zeros_like(x) for x in (u, dt, A, B, C)
        )
        for t, h in reversed(list(zip(_chunks(u.shape[1]), starts, strict=True))):
            du[:, t], ddt[:, t], part, dB[:, t], dC[:, t], dh = _chunk_backward(
                u[:, t], dt[:, t], A, B[:, t], C[:, t], h, dy[:, t], dh
            )
            dA += part
        return du + D * dy, ddt, dA, dB, dC, (dy * u).sum((0, 1)), dh


def _chunks(length: int) -> list[slice]:
    return [slice(t, min(t + CHUNK, length)) for t in range(0, length, CHUNK)]


def _chunk_states(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """Decays and states (B, S, N, E) of S steps after h."""
    decay = (dt[:, :, None] * A).exp_()
    hs = (dt * u)[:, :, None] * B[..., None]
    for i in range(u.shape[1]):
        h = hs[:, i].addcmul_(decay[:, i], h)
    return decay, hs


def _chunk_backward(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor, dy: Tensor, dh: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of u (without the D term), dt, A, B, C and of h, the state before the chunk, from those of y, h_S."""
    decay, hs = _chunk_states(u, dt, A, B, h)
    dhs = dy[:, :, None] * C[..., None]
    dC = (hs * dy[:, :, None]).sum(3)
    ddecay = torch.cat([h[:, None], hs[:, :-1]], 1).mul_(decay)  # times dhs: the gradient of dt A
    for i in reversed(range(u.shape[1])):
        dh = dhs[:, i].add_(dh) * decay[:, i]
    ddtu = (dhs * B[..., None]).sum(2)
    ddecay *= dhs
    dB = dhs.mul_((dt * u)[:, :, None]).sum(3)
    ddt = ddtu * u + (ddecay * A).sum(2)
    dA = ddecay.mul_(dt[:, :, None]).sum((0, 1))
    return ddtu * dt, ddt, dA, dB, dC, dh
