"""The Mamba-2 mixer: one short convolution over x, B and C, and the scan of `ssd`, both carried from chunk to chunk.

Glossary: B rows, L steps, D model width, E inner width (expand * D) of H heads of P channels, G groups of heads that
share B and C, N state size, K convolution width.
Source: Dao and Gu, "Transformers are SSMs", arXiv 2405.21060; the layout of transformers' Mamba2Mixer.
"""

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duplexmamba.models.mamba import wide
from duplexmamba.ops.conv import short_conv
from duplexmamba.ops.gates import gated, softplus
from duplexmamba.ops.ssd import ssd
from duplexmamba.streaming.padded import Padded, Positions, StreamBuffer, buffer_at, stream_windows


@dataclasses.dataclass(frozen=True)
class Mamba2State:
    """All that one mixer remembers, whatever the length of its past."""

    conv: StreamBuffer
    """The last K - 1 steps, (B, K - 1, E + 2 G N)."""
    ssm: Tensor
    """(B, H, P, N)"""


class GatedRMSNorm(nn.Module):
    """Gate, then normalise each group of channels."""

    def __init__(self, d_inner: int, num_groups: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_inner))
        self.num_groups = num_groups

    def forward(self, y: Tensor, gate: Tensor) -> Tensor:
        """(B, L, E), (B, L, E) -> (B, L, E), normalised in float32 at least."""
        groups = gated(wide(y), wide(gate)).unflatten(-1, (self.num_groups, -1))
        return F.rms_norm(groups, groups.shape[-1:], eps=1e-5).flatten(-2).to(y.dtype) * self.weight


class Mamba2Mixer(nn.Module):
    """Mamba-2, forward only; E must be a multiple of head_dim, the number of heads one of num_groups."""

    def __init__(
        self,
        d_model: int,
        d_state: int,
        d_conv: int,
        expand: int,
        head_dim: int,
        num_groups: int = 1,
    ):
        super().__init__()
        d_inner, self.head_dim, self.num_groups = expand * d_model, head_dim, num_groups
        num_heads, d_groups = d_inner // head_dim, num_groups * d_state
        self.conv_sizes = [d_inner, d_groups, d_groups]
        self.sizes = [d_inner, sum(self.conv_sizes), num_heads]
        self.in_proj = nn.Linear(d_model, sum(self.sizes), bias=False)
        self.conv1d = nn.Conv1d(self.sizes[1], self.sizes[1], d_conv, groups=self.sizes[1])
        self.A_log = nn.Parameter(torch.empty(num_heads).uniform_(1, 16).log())
        # softplus(dt_bias) log-uniform in [0.001, 0.1], as in Mamba-1
        dt = torch.empty(num_heads).uniform_(math.log(1e-3), math.log(0.1)).exp()
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        self.D = nn.Parameter(torch.ones(num_heads))
        self.norm = GatedRMSNorm(d_inner, num_groups)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def forward(
        self, x: Padded, state: Mamba2State | None = None, return_states_at: Positions | None = None
    ) -> tuple[Padded, Mamba2State]:
        """(B, L, D) -> (B, L, D); an empty chunk comes back as one step of padding, which leaves the state as it is.
        behind: as in `lm.MambaLM`."""
        x = x.at_least_one_step()
        gate, inner, dt = self.in_proj(x.values).split(self.sizes, -1)
        past, history = None if state is None else state.conv, self.conv1d.kernel_size[0] - 1
        window, conv = stream_windows(x.with_values(inner), past, history)
        if return_states_at is not None:
            conv = buffer_at(window, history, return_states_at)
        assert self.conv1d.bias is not None
        inner = short_conv(window.values, self.conv1d.weight, self.conv1d.bias).to(inner.dtype)
        u, B, C = inner.split(self.conv_sizes, -1)
        B, C = (groups.unflatten(-1, (self.num_groups, -1)) for groups in (B, C))
        dt = softplus(wide(dt) + self.dt_bias)
        if x.lengths is not None:
            dt = dt * x.mask()[..., None]  # dt = 0: the scan neither forgets nor takes in
        A = -torch.exp(wide(self.A_log))
        h0 = None if state is None else state.ssm
        y, ssm = ssd(
            u.unflatten(-1, (-1, self.head_dim)),
            dt,
            A,
            B,
            C,
            self.D,
            h0,
            return_states_at=return_states_at,
        )
        return x.with_values(self.out_proj(self.norm(y.flatten(2), gate))), Mamba2State(conv, ssm)
