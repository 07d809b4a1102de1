"""The Mamba-1 mixer: a short convolution and a selective scan, with the state of both carried from chunk to chunk.

Glossary: B rows, L steps, D model width, E inner width (expand * D), N state size, K convolution width, R rank of dt.
Source: Gu and Dao, "Mamba", arXiv 2312.00752, algorithm 2; the two directions as in Vim, arXiv 2401.09417.
"""

import dataclasses
import math

import torch
from torch import Tensor, nn

from duplexmamba.ops.build import vector_width
from duplexmamba.ops.conv import short_conv
from duplexmamba.ops.gates import gated, softplus
from duplexmamba.ops.scan import selective_scan
from duplexmamba.ops.step_cpp import is_step, step_cpp
from duplexmamba.streaming.padded import (
    Padded,
    Positions,
    StreamBuffer,
    buffer_at,
    rows_to_slices,
    slices_to_rows,
    stream_windows,
)


@dataclasses.dataclass(frozen=True)
class MambaState:
    """All that one mixer remembers, whatever the length of its past."""

    conv: StreamBuffer
    """The last K - 1 steps, (B, K - 1, E)."""
    ssm: Tensor
    """(B, N, E)"""


class SelectiveSSM(nn.Module):
    """One direction: depthwise convolution, then the scan whose dt, B and C depend on the input."""

    def __init__(self, d_inner: int, d_state: int, d_conv: int, dt_rank: int):
        super().__init__()
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner)
        self.x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.arange(1, d_state + 1).float().log().repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        self.sizes = [dt_rank, d_state, d_state]
        self._init_dt(dt_rank)

    @torch.no_grad()
    def _init_dt(self, dt_rank: int, low: float = 1e-3, high: float = 0.1) -> None:
        """softplus(bias) log-uniform in [low, high] (arXiv 2312.00752, section 3.6)."""
        nn.init.uniform_(self.dt_proj.weight, -(dt_rank**-0.5), dt_rank**-0.5)
        dt = torch.exp(torch.rand_like(self.dt_proj.bias) * math.log(high / low) + math.log(low))
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def forward(
        self, x: Padded, state: MambaState | None = None, return_states_at: Positions | None = None
    ) -> tuple[Tensor, MambaState]:
        """(B, L, E) -> (B, L, E); padding leaves the state as it is. behind: as in `lm.MambaLM`."""
        history = self.conv1d.kernel_size[0] - 1
        window, conv = stream_windows(x, None if state is None else state.conv, history)
        if return_states_at is not None:
            conv = buffer_at(window, history, return_states_at)
        assert self.conv1d.bias is not None
        u = short_conv(window.values, self.conv1d.weight, self.conv1d.bias)
        dt, B, C = self.x_proj(u).split(self.sizes, -1)
        dt = softplus(wide(self.dt_proj(dt)))
        if x.lengths is not None:
            dt = dt * x.mask()[..., None]  # dt = 0: the scan neither forgets nor takes in
        h0 = None if state is None else state.ssm
        y, ssm = selective_scan(
            u, dt, -torch.exp(wide(self.A_log)), B, C, self.D, h0, return_states_at=return_states_at
        )
        return y, MambaState(conv, ssm)


class MambaMixer(nn.Module):
    """Mamba with one direction, or with two that share in_proj and out_proj and are averaged before the latter."""

    def __init__(
        self, d_model: int, d_state: int, d_conv: int, expand: int, bidirectional: bool = False
    ):
        super().__init__()
        d_inner, dt_rank = expand * d_model, math.ceil(d_model / 16)
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.ssm = SelectiveSSM(d_inner, d_state, d_conv, dt_rank)
        self.ssm_reverse = (
            SelectiveSSM(d_inner, d_state, d_conv, dt_rank) if bidirectional else None
        )
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def forward(
        self,
        x: Padded,
        state: MambaState | None = None,
        slice_steps: int | None = None,
        return_states_at: Positions | None = None,
    ) -> tuple[Padded, MambaState]:
        """(B, L, D) -> (B, L, D); an empty chunk comes back as one step of padding.

        Args:
            state: of the forward direction; the other one, if there is one, has no past.
            slice_steps: the other direction sees no further than the end of a slice of so many steps, counted from the
                start of `x`; None: to the end of the row.
            behind: as in `lm.MambaLM`.
        """
        if state is not None and return_states_at is None and self._takes_one_call(x):
            return self._step(x, state)
        x = x.at_least_one_step()
        inner, gate = self.in_proj(x.values).chunk(2, -1)
        y, state = self.ssm(x.with_values(inner), state, return_states_at)
        if self.ssm_reverse is not None:
            backward = (
                slices_to_rows(x.with_values(inner), slice_steps)
                if slice_steps
                else x.with_values(inner)
            )
            backward = reverse(backward.with_values(self.ssm_reverse(reverse(backward))[0]))
            y = (y + (rows_to_slices(backward.values, x) if slice_steps else backward.values)) / 2
        return x.with_values(self.out_proj(gated(y, gate))), state

    def _takes_one_call(self, x: Padded) -> bool:
        """One token, nothing between the weights and what they multiply, and a shape that the kernel takes."""
        (rows, steps, _), ssm = x.values.shape, self.ssm
        if (
            steps != 1
            or x.lengths is not None
            or self.ssm_reverse is not None
            or not is_step(x.values, rows)
        ):
            return False
        plain = (
            type(self.in_proj)
            is type(ssm.x_proj)
            is type(ssm.dt_proj)
            is type(self.out_proj)
            is nn.Linear
        )
        e, _, k = ssm.conv1d.weight.shape
        return (
            plain
            and k > 1
            and e % vector_width() == 0
            and self.in_proj.weight.dtype == torch.float32
        )

    def _step(self, x: Padded, state: MambaState) -> tuple[Padded, MambaState]:
        ssm = self.ssm
        assert ssm.conv1d.bias is not None
        weights = (
            self.in_proj.weight, ssm.conv1d.weight, ssm.conv1d.bias, ssm.x_proj.weight, ssm.dt_proj.weight,
            ssm.dt_proj.bias, ssm.A_log, ssm.D, self.out_proj.weight,
        )  # fmt: skip
        y, tail, h = step_cpp(x.values[:, 0], weights, state.conv.tail, state.ssm)
        return Padded(y[:, None]), MambaState(StreamBuffer(tail, state.conv.pending), h)


def wide(x: Tensor) -> Tensor:
    """At least float32: what is exponentiated and summed over a whole past has no bits to spare."""
    return x if x.dtype == torch.float64 else x.float()


def reverse(x: Padded) -> Padded:
    """Each row back to front; padding stays behind."""
    if x.lengths is None:
        return x.with_values(x.values.flip(1))
    steps = torch.arange(x.values.shape[1], device=x.values.device)
    index = torch.where(x.mask(), x.lengths[:, None] - 1 - steps, steps)
    return x.with_values(x.values.gather(1, index[..., None].expand_as(x.values)))
