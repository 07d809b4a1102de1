"""Self-attention over a bounded past, with that past carried from chunk to chunk.

Glossary: B rows, T steps, D model width, E inner width, H heads, P past steps, C steps of a block, N blocks of
all rows.
Source: Vaswani et al., arXiv 1706.03762; rotary positions, Su et al., arXiv 2104.09864: a score depends on the distance
of two steps alone, so a stream needs no count of its steps, and any kernel takes it. In speech recognition they do as
well as the Conformer's own relative positions (arXiv 2501.06051).
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duplexmamba.streaming.padded import (
    Padded,
    StreamBuffer,
    rows_to_slices,
    slices_to_rows,
    stream_windows,
)

SLOWEST = 1e4
"""Steps in which the slowest pair of channels turns by one radian."""


@dataclasses.dataclass(frozen=True)
class AttentionState:
    """Keys and values of the past."""

    past: StreamBuffer
    """(B, P, 2 E), newest last, not rotated yet."""
    seen: Tensor
    """(B,) int64: how many of them there have been: the others are not looked at."""


class SelfAttention(nn.Module):
    """(B, T, D) -> (B, T, D).

    Args:
        d_inner: E, a multiple of 2 H.
        past_steps: P, steps seen before a step's own slice, which is seen whole; None: a step sees the whole row.
    """

    def __init__(self, d_model: int, d_inner: int, num_heads: int, past_steps: int | None):
        super().__init__()
        self.num_heads, self.past_steps = num_heads, past_steps
        self.in_proj = nn.Linear(d_model, 3 * d_inner, bias=False)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def forward(
        self, x: Padded, state: AttentionState | None = None, slice_steps: int | None = None
    ) -> tuple[Padded, AttentionState]:
        """An empty chunk comes back as one step of padding.

        Args:
            slice_steps: of a slice, counted from the start of `x`; None: each step is one.
        """
        x = x.at_least_one_step()
        steps, past_steps = x.values.shape[1], self.past_steps or 0
        slice_steps = steps if self.past_steps is None else slice_steps or 1
        d_inner = self.out_proj.in_features
        queries, new = self.in_proj(x.values).split([d_inner, 2 * d_inner], -1)
        window, past = stream_windows(
            x.with_values(new), None if state is None else state.past, past_steps
        )
        lengths = x.row_lengths()
        seen = torch.zeros_like(lengths) if state is None else state.seen
        places = torch.arange(past_steps + steps, device=lengths.device)
        real = (places >= past_steps - seen[:, None]) & (places < past_steps + lengths[:, None])
        y = self._attend(x.with_values(queries), window.values, real, slice_steps)
        return x.with_values(self.out_proj(y)), AttentionState(
            past, (seen + lengths).clamp(max=past_steps)
        )

    def _attend(self, queries: Padded, window: Tensor, real: Tensor, slice_steps: int) -> Tensor:
        """(B, T, E), (B, P + T, 2 E), (B, P + T) bool -> (B, T, E), in blocks of whole slices, about as long as the
        past: time and memory grow with T, not with its square."""
        past_steps = window.shape[1] - queries.values.shape[1]
        block = min(queries.values.shape[1], slice_steps * -(-max(past_steps, 1) // slice_steps))
        folded = slices_to_rows(queries, block).values
        keys, values = blocks(window, block, past_steps).chunk(2, -1)
        mask = (
            visible(block, past_steps, slice_steps, real.device)
            & blocks(real[..., None], block, past_steps).mT
        )
        mask = mask | own(
            block, past_steps, real.device
        )  # padding sees itself: no row of scores is empty
        q, k = rotate(self._heads(folded), past_steps), rotate(self._heads(keys))
        y = F.scaled_dot_product_attention(q, k, self._heads(values), mask[:, None])
        return rows_to_slices(y.transpose(1, 2).flatten(2), queries)

    def _heads(self, x: Tensor) -> Tensor:
        """(N, T, E) -> (N, H, T, E / H)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def blocks(window: Tensor, block: int, past_steps: int) -> Tensor:
    """(B, P + T, E) -> (N, P + C, E): each block of C steps behind the P steps before it."""
    short = -(window.shape[1] - past_steps) % block
    cut = F.pad(window, (0, 0, 0, short)).unfold(1, past_steps + block, block)
    return cut.flatten(0, 1).transpose(1, 2)


def visible(block: int, past_steps: int, slice_steps: int, device: torch.device) -> Tensor:
    """(C, P + C) bool: a step sees its own slice and the past before that."""
    begins = torch.arange(block, device=device)[:, None] // slice_steps * slice_steps
    places = torch.arange(past_steps + block, device=device)
    return (places >= begins) & (places < begins + past_steps + slice_steps)


def own(block: int, past_steps: int, device: torch.device) -> Tensor:
    """(C, P + C) bool: a step sees itself."""
    return (
        torch.ones(block, past_steps + block, dtype=torch.bool, device=device)
        .triu(past_steps)
        .tril(past_steps)
    )


def rotate(x: Tensor, first: int = 0) -> Tensor:
    """Turn pairs of channels of (N, H, T, W) by angles that grow with the step, counted from `first`."""
    half = x.shape[-1] // 2
    wide = torch.promote_types(x.dtype, torch.float32)
    rates = SLOWEST ** (-torch.arange(half, device=x.device, dtype=wide) / half)
    angles = torch.arange(first, first + x.shape[2], device=x.device, dtype=wide)[:, None] * rates
    a, b = x[..., :half], x[..., half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(x.dtype)
