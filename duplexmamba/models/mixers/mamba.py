"""The Mamba-1 mixer: a short convolution and a selective scan, both with streaming state.

Letters in shapes:
    B: rows of the batch
    L: steps
    D: model width
    E: inner width, expand * D
    N: state size per channel
    K: width of the short convolution
    R: rank of dt

Source: Gu and Dao, "Mamba", arXiv 2312.00752, algorithm 2; the second direction as in Vim, arXiv
2401.09417.
"""

import dataclasses
import math

import torch
from torch import Tensor, nn

from duplexmamba.config import EncoderConfig
from duplexmamba.ops.build import vector_width
from duplexmamba.ops.conv import short_conv
from duplexmamba.ops.gates import gated, softplus
from duplexmamba.ops.scan import selective_scan
from duplexmamba.ops.step_cpp import is_step, step_cpp
from duplexmamba.streaming.buffer import StreamBuffer, buffer_at, stream_windows
from duplexmamba.streaming.padded import Padded, Positions, rows_to_slices, slices_to_rows

MIN_DT = 1e-3
"""Smallest step size that a channel starts with."""
MAX_DT = 0.1
"""Largest step size that a channel starts with."""


def build_encoder_mamba(config: EncoderConfig, past_frames: int) -> "MambaMixer":
    """Build the encoder's Mamba mixer, with a second direction wherever a frame sees the future.

    Args:
        config: encoder section of the configuration.
        past_frames: unused; the recurrent state covers the whole past.
    """
    return MambaMixer(
        config.d_model,
        config.d_state,
        config.d_conv,
        config.expand,
        bidirectional=config.context != "causal",
    )


@dataclasses.dataclass(frozen=True)
class MambaState:
    """Streaming state of one mixer, of the same size whatever the length of its past."""

    conv: StreamBuffer
    """(B, K - 1, E): the last inputs of the short convolution."""
    ssm: Tensor
    """(B, N, E)"""


class SelectiveSSM(nn.Module):
    """One direction: depthwise convolution, then the scan whose dt, B and C depend on the input."""

    def __init__(self, d_inner: int, d_state: int, d_conv: int, dt_rank: int):
        super().__init__()
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner)
        self.x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(dt_rank, d_inner)
        rates = torch.arange(1, d_state + 1).float()
        self.A_log = nn.Parameter(rates.log().repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        self.sizes = [dt_rank, d_state, d_state]
        self._init_dt(dt_rank)

    @torch.no_grad()
    def _init_dt(self, dt_rank: int) -> None:
        """Draw softplus(bias) log-uniformly in [MIN_DT, MAX_DT] (arXiv 2312.00752, section 3.6)."""
        bound = dt_rank**-0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        uniform = torch.rand_like(self.dt_proj.bias)
        dt = torch.exp(uniform * math.log(MAX_DT / MIN_DT) + math.log(MIN_DT))
        # the inverse of softplus
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def forward(
        self, x: Padded, state: MambaState | None = None, return_states_at: Positions | None = None
    ) -> tuple[Tensor, MambaState]:
        """Run the convolution and the scan; padding leaves the state unchanged.

        Args:
            x: (B, L, E).
            state: what the previous chunk of the stream returned; None at its start.
            return_states_at: return the states at these positions, as in `MambaLM.forward`.

        Returns:
            (B, L, E), and the state for the next chunk.
        """
        past_conv = None
        past_ssm = None
        if state is not None:
            past_conv = state.conv
            past_ssm = state.ssm
        history = self.conv1d.kernel_size[0] - 1
        window, conv = stream_windows(x, past_conv, history)  # (B, K - 1 + L, E)
        if return_states_at is not None:
            conv = buffer_at(window, history, return_states_at)

        assert self.conv1d.bias is not None
        u = short_conv(window.values, self.conv1d.weight, self.conv1d.bias)  # (B, L, E)
        dt, B, C = self.x_proj(u).split(self.sizes, -1)  # (B, L, R), (B, L, N), (B, L, N)
        dt = softplus(at_least_float32(self._project_dt(dt)))  # (B, L, E)
        if x.lengths is not None:
            # dt = 0 at padding: the scan neither decays the state nor adds an input
            dt = dt * x.mask()[..., None]
        A = -torch.exp(at_least_float32(self.A_log))
        y, ssm = selective_scan(u, dt, A, B, C, self.D, past_ssm, return_states_at=return_states_at)
        return y, MambaState(conv, ssm)

    def _project_dt(self, dt: Tensor) -> Tensor:
        """(B, L, R) -> (B, L, E): the time step before softplus."""
        device_type = dt.device.type
        if not torch.is_autocast_enabled(device_type):
            return self.dt_proj(dt)
        # the bias, of -7 to -2, would be added in bfloat16: a time step could be 1 % off
        with torch.autocast(device_type, enabled=False):
            return self.dt_proj(dt.to(self.dt_proj.weight.dtype))


class MambaMixer(nn.Module):
    """(B, L, D) -> (B, L, D): Mamba in one direction or in two.

    Two directions share in_proj and out_proj; their outputs are averaged before the gate.
    """

    def __init__(
        self, d_model: int, d_state: int, d_conv: int, expand: int, bidirectional: bool = False
    ):
        super().__init__()
        d_inner = expand * d_model
        dt_rank = math.ceil(d_model / 16)
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.ssm = SelectiveSSM(d_inner, d_state, d_conv, dt_rank)
        self.ssm_reverse = None
        if bidirectional:
            self.ssm_reverse = SelectiveSSM(d_inner, d_state, d_conv, dt_rank)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def forward(
        self,
        x: Padded,
        state: MambaState | None = None,
        slice_frames: int | None = None,
        return_states_at: Positions | None = None,
    ) -> tuple[Padded, MambaState]:
        """Mix steps. An empty chunk returns one step of padding.

        Args:
            x: (B, L, D).
            state: state of the forward direction; the backward direction has no past.
            slice_frames: the backward direction starts at the end of each slice of that many steps,
                counted from the start of `x`; None: at the end of the row.
            return_states_at: return the states at these positions, as in `MambaLM.forward`.

        Returns:
            (B, L, D), and the state of the forward direction for the next chunk.
        """
        if state is not None and return_states_at is None and self._can_use_step_kernel(x):
            return self._step(x, state)
        x = x.at_least_one_step()
        inner, gate = self.in_proj(x.values).chunk(2, -1)  # (B, L, E) each
        y, state = self.ssm(x.with_values(inner), state, return_states_at)
        if self.ssm_reverse is not None:
            backward = self._scan_backward(self.ssm_reverse, x.with_values(inner), slice_frames)
            y = (y + backward) / 2
        return x.with_values(self.out_proj(gated(y, gate))), state

    def _scan_backward(self, ssm: SelectiveSSM, inner: Padded, slice_frames: int | None) -> Tensor:
        """(B, L, E) -> (B, L, E)."""
        # slices become rows, each of which the backward scan starts from an empty state
        rows = slices_to_rows(inner, slice_frames) if slice_frames else inner
        scanned, _ = ssm(reverse(rows))
        y = reverse(rows.with_values(scanned)).values
        return rows_to_slices(y, inner) if slice_frames else y

    def _can_use_step_kernel(self, x: Padded) -> bool:
        """Whether the fused CPU kernel can compute this call: one token of every row.

        The kernel reads bare float32 weights, so that no linear layer may have an adapter.
        """
        batch, num_steps, _ = x.values.shape
        if num_steps != 1 or x.lengths is not None or self.ssm_reverse is not None:
            return False
        if not is_step(x.values, batch):
            return False
        linear_layers = (self.in_proj, self.ssm.x_proj, self.ssm.dt_proj, self.out_proj)
        if any(type(layer) is not nn.Linear for layer in linear_layers):
            return False
        d_inner, _, d_conv = self.ssm.conv1d.weight.shape
        fits_kernel = d_conv > 1 and d_inner % vector_width() == 0
        return fits_kernel and self.in_proj.weight.dtype == torch.float32

    def _step(self, x: Padded, state: MambaState) -> tuple[Padded, MambaState]:
        ssm = self.ssm
        assert ssm.conv1d.bias is not None
        weights = (
            self.in_proj.weight,
            ssm.conv1d.weight,
            ssm.conv1d.bias,
            ssm.x_proj.weight,
            ssm.dt_proj.weight,
            ssm.dt_proj.bias,
            ssm.A_log,
            ssm.D,
            self.out_proj.weight,
        )
        y, tail, h = step_cpp(x.values[:, 0], weights, state.conv.tail, state.ssm)
        conv = StreamBuffer(tail, state.conv.pending)
        return Padded(y[:, None]), MambaState(conv, h)


def at_least_float32(x: Tensor) -> Tensor:
    """Convert to float32, and leave float64 as it is.

    Values that are exponentiated or summed over a whole past need the precision.
    """
    return x if x.dtype == torch.float64 else x.float()


def reverse(x: Padded) -> Padded:
    """Reverse the steps of every row (B, L, ...); padding stays at the end."""
    if x.lengths is None:
        return x.with_values(x.values.flip(1))
    steps = torch.arange(x.values.shape[1], device=x.values.device)
    last = x.lengths[:, None] - 1
    index = torch.where(x.mask(), last - steps, steps)  # (B, L)
    return x.with_values(x.values.gather(1, index[..., None].expand_as(x.values)))
