"""The Mamba-2 mixer: one short convolution over x, B and C, and the SSD scan, with streaming state.

Letters in shapes:
    B: rows of the batch
    L: steps
    D: model width
    E: inner width, expand * D, of H heads of P channels
    G: groups of heads that share B and C
    N: state size
    K: width of the short convolution

Source: Dao and Gu, "Transformers are SSMs", arXiv 2405.21060; the layout of the Mamba2Mixer of
transformers.
"""

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duplexmamba.models.mixers.mamba import MAX_DT, MIN_DT, at_least_float32
from duplexmamba.ops.conv import short_conv
from duplexmamba.ops.gates import gated, softplus
from duplexmamba.ops.ssd import ssd
from duplexmamba.streaming.buffer import StreamBuffer, buffer_at, stream_windows
from duplexmamba.streaming.padded import Padded, Positions


@dataclasses.dataclass(frozen=True)
class Mamba2State:
    """Streaming state of one mixer, of the same size whatever the length of its past."""

    conv: StreamBuffer
    """(B, K - 1, E + 2 G N): the last inputs of the short convolution."""
    ssm: Tensor
    """(B, H, P, N)"""


class GatedRMSNorm(nn.Module):
    """Multiply by the gate's SiLU, then normalise each group of channels."""

    def __init__(self, d_inner: int, num_groups: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d_inner))
        self.num_groups = num_groups

    def forward(self, y: Tensor, gate: Tensor) -> Tensor:
        """(B, L, E), (B, L, E) -> (B, L, E), normalised in float32 at least."""
        inner = gated(at_least_float32(y), at_least_float32(gate))
        groups = inner.unflatten(-1, (self.num_groups, -1))  # (B, L, G, E / G)
        normed = F.rms_norm(groups, groups.shape[-1:], eps=1e-5)
        return normed.flatten(-2).to(y.dtype) * self.weight


class Mamba2Mixer(nn.Module):
    """(B, L, D) -> (B, L, D): Mamba-2 in the forward direction.

    Args:
        head_dim: P; E is a multiple of it.
        num_groups: G; the number of heads is a multiple of it.
        min_dt: lower limit of the time step; 0 for none.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int,
        d_conv: int,
        expand: int,
        head_dim: int,
        num_groups: int = 1,
        min_dt: float = 0.0,
    ):
        super().__init__()
        d_inner = expand * d_model
        num_heads = d_inner // head_dim
        d_groups = num_groups * d_state
        self.head_dim = head_dim
        self.num_groups = num_groups
        self.min_dt = min_dt
        # x, B and C pass through the convolution; the gate and dt do not
        self.conv_sizes = [d_inner, d_groups, d_groups]
        d_convolved = sum(self.conv_sizes)
        self.sizes = [d_inner, d_convolved, num_heads]
        self.in_proj = nn.Linear(d_model, sum(self.sizes), bias=False)
        self.conv1d = nn.Conv1d(d_convolved, d_convolved, d_conv, groups=d_convolved)
        self.A_log = nn.Parameter(torch.empty(num_heads).uniform_(1, 16).log())
        # softplus(dt_bias) is log-uniform in [MIN_DT, MAX_DT], as in Mamba-1
        dt = torch.empty(num_heads).uniform_(math.log(MIN_DT), math.log(MAX_DT)).exp()
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        self.D = nn.Parameter(torch.ones(num_heads))
        self.norm = GatedRMSNorm(d_inner, num_groups)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def forward(
        self, x: Padded, state: Mamba2State | None = None, return_states_at: Positions | None = None
    ) -> tuple[Padded, Mamba2State]:
        """Mix steps. An empty chunk returns one step of padding and leaves the state unchanged.

        Args:
            x: (B, L, D).
            state: what the previous chunk of the stream returned; None at its start.
            return_states_at: return the states at these positions, as in `MambaLM.forward`.

        Returns:
            (B, L, D), and the state for the next chunk.
        """
        x = x.at_least_one_step()
        past_ssm = None if state is None else state.ssm
        gate, inner, dt = self.in_proj(x.values).split(self.sizes, -1)
        convolved, conv = self._convolve(x.with_values(inner), state, return_states_at)
        u, B, C = convolved.split(self.conv_sizes, -1)  # (B, L, E), (B, L, G N), (B, L, G N)

        dt = softplus(at_least_float32(dt) + self.dt_bias)  # (B, L, H)
        if self.min_dt:
            dt = dt.clamp(min=self.min_dt)
        if x.lengths is not None:
            # dt = 0 at padding: the scan neither decays the state nor adds an input
            dt = dt * x.mask()[..., None]
        y, ssm = ssd(
            u.unflatten(-1, (-1, self.head_dim)),  # (B, L, H, P)
            dt,
            -torch.exp(at_least_float32(self.A_log)),
            B.unflatten(-1, (self.num_groups, -1)),  # (B, L, G, N)
            C.unflatten(-1, (self.num_groups, -1)),
            self.D,
            past_ssm,
            return_states_at=return_states_at,
        )
        y = self.out_proj(self.norm(y.flatten(2), gate))
        return x.with_values(y), Mamba2State(conv, ssm)

    def _convolve(
        self, inner: Padded, state: Mamba2State | None, return_states_at: Positions | None
    ) -> tuple[Tensor, StreamBuffer]:
        """(B, L, E + 2 G N) -> (B, L, E + 2 G N), and the buffer for the next chunk."""
        past = None if state is None else state.conv
        history = self.conv1d.kernel_size[0] - 1
        window, conv = stream_windows(inner, past, history)
        if return_states_at is not None:
            conv = buffer_at(window, history, return_states_at)
        assert self.conv1d.bias is not None
        convolved = short_conv(window.values, self.conv1d.weight, self.conv1d.bias)
        return convolved.to(inner.values.dtype), conv
