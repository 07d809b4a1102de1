"""The selective scan by the CUDA kernel of the package mamba-ssm, which starts from zero.

The scan is linear in its initial state, so the contribution of h0 can be added exactly. With
S_t = dt_1 + ... + dt_t:

    y_t += C_t . (exp(S_t A) h0)
    h_L += exp(S_L A) h0

This needs a (B, L, N, E) tensor: little for a slice of a stream, much for an hour. Gradients of y
reach every operand, h0 included. The kernel has no gradient for its last state, so a backward pass
through it raises RuntimeError.

Glossary:
    B: rows (the tensor B is the input matrix of the state space model).
    L: steps.
    E: channels.
    N: states per channel.

Source: selective_scan_fn of https://github.com/state-spaces/mamba,
mamba_ssm/ops/selective_scan_interface.py.
"""

from typing import Any

import torch
from torch import Tensor


def scan_mamba_ssm(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, h0: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Run `scan.selective_scan` in float32 on a GPU; arguments and results are the same.

    An h0 of None means zeros and costs nothing. Trailing steps with dt = 0 leave h_L as it is, bit
    for bit. The kernel groups its sums by L, however, so the last bit of a state depends on L.

    Raises:
        ImportError: mamba-ssm is not installed.
    """
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # type: ignore[import]

    if u.shape[1] == 0:
        # The kernel does not take L = 0.
        if h0 is None:
            h0 = u.new_zeros(u.shape[0], A.shape[1], u.shape[2])
        return u, h0
    # The kernel has channels before steps: y (B, E, L), last state (B, E, N).
    y, last = selective_scan_fn(u.mT, dt.mT, A, B.mT, C.mT, D, return_last_state=True)
    y = y.mT  # (B, L, E)
    h = _WithoutGradient.apply(last).mT  # (B, N, E)
    if h0 is None:
        return y, h
    decay = torch.exp(dt.cumsum(1)[:, :, None] * A.T)  # (B, L, N, E)
    y = y + (C[..., None] * decay * h0[:, None]).sum(2)
    h = h + decay[:, -1] * h0
    return y, h


class _WithoutGradient(torch.autograd.Function):
    """Identity that raises in the backward pass, where a gradient would otherwise be lost."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise RuntimeError(
            'scan path "mamba_ssm" has no gradient through the last state: '
            "set DUPLEXMAMBA_SCAN=triton (or torch)"
        )
