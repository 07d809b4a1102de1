"""The Mamba-1 mixer: a short convolution and a selective scan, with the state of both carried from chunk to chunk.

Glossary: B rows, L steps, D model width, E inner width (expand * D), N state size, K convolution width, R rank of dt.
Source: Gu and Dao, "Mamba", arXiv 2312.00752, algorithm 2; the two directions as in Vim, arXiv 2401.09417.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duplexmamba.padded import Carry, Padded, carry, fold, unfold
from duplexmamba.scan import scan_path, selective_scan
from duplexmamba.step_cpp import MOST_ROWS, step_cpp, step_width


@dataclasses.dataclass(frozen=True)
class MambaState:
    """All that one mixer remembers, whatever the length of its past."""

    conv: Carry
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

    def forward(self, x: Padded, state: MambaState | None = None) -> tuple[Tensor, MambaState]:
        """(B, L, E) -> (B, L, E); padding leaves the state as it is."""
        window, conv = carry(x, None if state is None else state.conv, self.conv1d.kernel_size[0] - 1)
        u = F.silu(ShortConv.apply(window.values, self.conv1d.weight, self.conv1d.bias))
        dt, B, C = self.x_proj(u).split(self.sizes, -1)
        dt = F.softplus(wide(self.dt_proj(dt)))
        if x.lengths is not None:
            dt = dt * x.mask()[..., None]  # dt = 0: the scan neither forgets nor takes in
        y, ssm = selective_scan(u, dt, -torch.exp(wide(self.A_log)), B, C, self.D, None if state is None else state.ssm)
        return y, MambaState(conv, ssm)


class MambaMixer(nn.Module):
    """Mamba with one direction, or with two that share in_proj and out_proj and are averaged before the latter."""

    def __init__(self, d_model: int, d_state: int, d_conv: int, expand: int, bidirectional: bool = False):
        super().__init__()
        d_inner, dt_rank = expand * d_model, math.ceil(d_model / 16)
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.ssm = SelectiveSSM(d_inner, d_state, d_conv, dt_rank)
        self.ssm_reverse = SelectiveSSM(d_inner, d_state, d_conv, dt_rank) if bidirectional else None
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def forward(
        self, x: Padded, state: MambaState | None = None, slice_steps: int | None = None
    ) -> tuple[Padded, MambaState]:
        """(B, L, D) -> (B, L, D); an empty chunk comes back as one step of padding.

        Args:
            state: of the forward direction; the other one, if there is one, has no past.
            slice_steps: the other direction sees no further than the end of a slice of so many steps, counted from the
                start of `x`; None: to the end of the row.
        """
        if state is not None and self._takes_single_steps(x):
            return self._step(x, state)
        x = x.not_empty()
        inner, gate = self.in_proj(x.values).chunk(2, -1)
        y, state = self.ssm(x.with_values(inner), state)
        if self.ssm_reverse is not None:
            backward = fold(x.with_values(inner), slice_steps) if slice_steps else x.with_values(inner)
            backward = reverse(backward.with_values(self.ssm_reverse(reverse(backward))[0]))
            y = (y + (unfold(backward.values, x) if slice_steps else backward.values)) / 2
        return x.with_values(self.out_proj(y * F.silu(gate))), state

    def _takes_single_steps(self, x: Padded) -> bool:
        """One token of few rows, nothing to learn, plain float32 weights on a CPU: there one C++ call does it all."""
        rows, steps, _ = x.values.shape
        if steps != 1 or rows > MOST_ROWS or x.lengths is not None or self.ssm_reverse is not None:
            return False
        if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or scan_path(x.values) != "cpp":
            return False
        linears = self.in_proj, self.ssm.x_proj, self.ssm.dt_proj, self.out_proj
        plain = all(type(linear) is nn.Linear and linear.weight.dtype == torch.float32 for linear in linears)
        e, _, k = self.ssm.conv1d.weight.shape
        return plain and k > 1 and e % step_width() == 0

    def _step(self, x: Padded, state: MambaState) -> tuple[Padded, MambaState]:
        ssm = self.ssm
        assert ssm.conv1d.bias is not None
        weights = (
            self.in_proj.weight, ssm.conv1d.weight, ssm.conv1d.bias, ssm.x_proj.weight, ssm.dt_proj.weight,
            ssm.dt_proj.bias, -torch.exp(ssm.A_log.T), ssm.D, self.out_proj.weight,
        )  # fmt: skip
        y, tail, h = step_cpp(x.values[:, 0], weights, state.conv.tail, state.ssm)
        return x.with_values(y[:, None]), MambaState(dataclasses.replace(state.conv, tail=tail), h)


class ShortConv(torch.autograd.Function):
    """(B, L + K - 1, E), (E, 1, K), (E,) -> (B, L, E): depthwise convolution without padding, channels last.

    As K shifted multiplications: for the K = 4 of a Mamba this takes an eighth to a half of F.conv1d's time on a CPU,
    which wants channels first. On a GPU by the kernel of the package causal-conv1d, where it is installed and takes the
    operands.
    """

    @classmethod
    def apply(cls, *operands: Any) -> Any:
        window, weight, bias = operands
        kernel, dtype = _causal_conv1d(window.device), torch.promote_types(window.dtype, weight.dtype)
        e, _, k = weight.shape
        if kernel is None or dtype == torch.float64 or e % 8 or not 2 <= k <= 4:
            return super().apply(*operands)
        # It puts zeros before the window, which holds its history already: the outputs that see them are dropped.
        return kernel(window.to(dtype).mT, weight[:, 0], bias).mT[:, k - 1 :]

    @staticmethod
    def forward(ctx: Any, window: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(window, weight)
        steps = window.shape[1] - weight.shape[2] + 1
        out = torch.addcmul(bias, window[:, :steps], weight[:, 0, 0])
        for k in range(1, weight.shape[2]):
            out.addcmul_(window[:, k : k + steps], weight[:, 0, k])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        window, weight = ctx.saved_tensors
        steps = grad.shape[1]
        d_window, d_weight = torch.zeros_like(window), torch.empty_like(weight)
        for k in range(weight.shape[2]):
            d_window[:, k : k + steps].addcmul_(grad, weight[:, 0, k])
            d_weight[:, 0, k] = (window[:, k : k + steps] * grad).sum((0, 1))
        return d_window, d_weight, grad.sum((0, 1))


@functools.cache
def _causal_conv1d(device: torch.device) -> Callable[..., Tensor] | None:
    if device.type != "cuda":
        return None
    try:
        from causal_conv1d import causal_conv1d_fn  # type: ignore[import]
    except ImportError:
        return None
    return causal_conv1d_fn


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
