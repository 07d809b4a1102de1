"""The selective scan by the CUDA kernel of the package mamba-ssm, which starts from zero.

The scan is linear in its initial state, so what h0 adds comes on top, exactly: with S_t = dt_1 + ... + dt_t,

    y_t += C_t . (exp(S_t A) h0)        h_L += exp(S_L A) h0

That holds a (B, L, N, E) tensor: little for a slice, much for an hour. Gradients of y reach every operand, h0 too; of
its last state the kernel has no gradient, and backward through it raises RuntimeError.
B batch, L steps, E channels, N states per channel.
Source: selective_scan_fn of https://github.com/state-spaces/mamba, mamba_ssm/ops/selective_scan_interface.py.
"""

from typing import Any

import torch
from torch import Tensor


def scan_mamba_ssm(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As `scan.selective_scan`, all in float32 on a GPU. h0 None: zeros, at no cost.

    Trailing steps with dt = 0 leave h_L as it is bit for bit; but how the kernel groups its sums, and so the last bit
    of a state, depends on L.
    """
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # type: ignore[import]

    if u.shape[1] == 0:  # which the kernel does not take
        return u, u.new_zeros(u.shape[0], A.shape[1], u.shape[2]) if h0 is None else h0
    # channels before steps: (B, E, L), (B, N, L) -> (B, E, L), (B, E, N)
    y, last = selective_scan_fn(u.mT, dt.mT, A, B.mT, C.mT, D, return_last_state=True)
    y, h = y.mT, _Ungraded.apply(last).mT
    if h0 is not None:
        decay = torch.exp(dt.cumsum(1)[:, :, None] * A.T)  # (B, L, N, E)
        y, h = y + (C[..., None] * decay * h0[:, None]).sum(2), h + decay[:, -1] * h0
    return y, h


class _Ungraded(torch.autograd.Function):
    """The same tensor; raises where backward would lose its gradient in silence."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise RuntimeError(
            'scan path "mamba_ssm" has no gradient through the last state: set DUPLEXMAMBA_SCAN=triton (or torch)'
        )
