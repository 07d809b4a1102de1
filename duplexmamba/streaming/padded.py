"""Batches of unequal length, and what a causal window keeps from one chunk to the next.

Glossary: B rows of the batch, T time steps, H history: steps a window sees before its own.
"""

import dataclasses
import functools

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Padded:
    """Rows of unequal length in one tensor. What lies past a row's length is padding and may be anything."""

    values: Tensor
    """(B, T, ...)"""
    lengths: Tensor | None = None
    """(B,) int64; None: every row is T long."""

    def with_values(self, values: Tensor) -> "Padded":
        """The same lengths around other values."""
        return Padded(values, self.lengths)

    def to(self, device: torch.device | str) -> "Padded":
        """The same on another device."""
        return Padded(
            self.values.to(device), None if self.lengths is None else self.lengths.to(device)
        )

    def at_least_one_step(self) -> "Padded":
        """With one step of padding if there is no step at all: no convolution takes an empty input."""
        if self.values.shape[1]:
            return self
        batch, _, *rest = self.values.shape
        return Padded(self.values.new_zeros(batch, 1, *rest), self.row_lengths())

    def row_lengths(self) -> Tensor:
        """(B,) int64, also where `lengths` is None."""
        if self.lengths is not None:
            return self.lengths
        return torch.full((self.values.shape[0],), self.values.shape[1], device=self.values.device)

    def mask(self) -> Tensor:
        """(B, T) True inside each row."""
        steps = torch.arange(self.values.shape[1], device=self.values.device)
        return steps < self.row_lengths()[:, None]


@dataclasses.dataclass(frozen=True)
class Positions:
    """Moments within the rows of a batch, in any order and number."""

    rows: Tensor
    """(P,) int64"""
    steps: Tensor
    """(P,) int64: how many of its row's steps lie before each."""


@dataclasses.dataclass(frozen=True)
class StreamBuffer:
    """What a window of H + hop steps, moving by hop, still needs of the past. All zero at the start of a stream."""

    tail: Tensor
    """(B, H + hop - 1, ...): the last steps seen, newest last."""
    pending: Tensor
    """(B,) int64: how many of them no window has begun at yet; below hop."""


def stream_windows(
    x: Padded, past: StreamBuffer | None, history: int, hop: int = 1
) -> tuple[Padded, StreamBuffer]:
    """Cut a stream into whole hops, each row at its own pace.

    Args:
        x: (B, T, ...) new steps.
        past: what the previous call returned; None at the start of the stream (silence came before).
        history: H, steps before a hop that its window sees too.
        hop: steps that make one unit.

    Returns:
        Window (B, H + U * hop, ...) whose `lengths` count units, U the most units of any row but at least 1, so that no
        convolution meets an input shorter than its kernel; and what the next call needs.
    """
    x = x.at_least_one_step()
    batch, steps = x.values.shape[:2]
    kept = history + hop - 1
    first = past is None
    if past is None:
        tail = x.values.new_zeros(batch, kept, *x.values.shape[2:])
        past = StreamBuffer(tail, torch.zeros(batch, dtype=torch.int64, device=x.values.device))
    joined = torch.cat([past.tail, x.values], 1)
    newest = _take(joined, steps if x.lengths is None else x.lengths, kept)
    if hop == 1:
        return Padded(joined, x.lengths), StreamBuffer(newest, past.pending)
    total = past.pending + x.row_lengths()
    units = total // hop
    window = _take(
        joined,
        hop - 1 if first else hop - 1 - past.pending,
        history + max(int(units.max()), 1) * hop,
    )
    return Padded(window, units), StreamBuffer(newest, total % hop)


def buffer_at(window: Padded, history: int, return_states_at: Positions) -> StreamBuffer:
    """What `carry` with a hop of 1 would have kept at these places, from the window that it has returned."""
    steps = return_states_at.steps[:, None] + torch.arange(
        history, device=return_states_at.steps.device
    )
    return StreamBuffer(
        window.values[return_states_at.rows[:, None], steps],
        torch.zeros_like(return_states_at.steps),
    )


def pending_steps(past: StreamBuffer) -> Padded:
    """The steps at which no window has begun yet, where H is 0."""
    start = past.tail.shape[1] - past.pending
    return Padded(take(past.tail, start, int(past.pending.max())), past.pending)


def slices_to_rows(x: Padded, steps: int) -> Padded:
    """Consecutive slices as rows of their own: (B, T, ...) -> (B * ceil(T / steps), steps, ...)."""
    batch, total, *rest = x.values.shape
    slices = -(-total // steps)
    values = F.pad(x.values, (0, 0) * len(rest) + (0, slices * steps - total))
    begins = torch.arange(slices, device=x.values.device) * steps
    lengths = (x.row_lengths()[:, None] - begins).clamp(0, steps).flatten()
    return Padded(values.reshape(batch * slices, steps, *rest), lengths)


def rows_to_slices(values: Tensor, like: Padded) -> Tensor:
    """The inverse of `fold`: slices (B * U, S, D) side by side again, as many steps as `like` has."""
    batch, total = like.values.shape[:2]
    return values.reshape(batch, -1, values.shape[-1])[:, :total]


def join(parts: list[Padded]) -> Padded:
    """Concatenate along time, row by row, without gaps: (B, T_i, D) each -> (B, max of the sums, D).

    Parts of different dtypes, as autocast leaves them, meet in the one that holds all.
    """
    lengths = torch.stack([p.row_lengths() for p in parts])
    total = lengths.sum(0)
    first = parts[0].values
    dtype = functools.reduce(torch.promote_types, (part.values.dtype for part in parts))
    out = first.new_zeros(first.shape[0], int(total.max()), *first.shape[2:], dtype=dtype)
    offset = torch.zeros_like(total)
    for part, length in zip(parts, lengths, strict=True):
        row, step = part.mask().nonzero(as_tuple=True)
        out = out.index_put((row, offset[row] + step), part.values[row, step].to(dtype))
        offset = offset + length
    return Padded(out, total)


def take(x: Tensor, start: Tensor, length: int) -> Tensor:
    """(B, T, ...) -> (B, length, ...), row b from step start[b]; past the end the last step repeats."""
    index = (start[:, None] + torch.arange(length, device=x.device)).clamp(max=x.shape[1] - 1)
    return x[torch.arange(x.shape[0], device=x.device)[:, None], index]


def _take(x: Tensor, start: int | Tensor, length: int) -> Tensor:
    if isinstance(start, Tensor):
        return take(x, start, length)
    short = start + length - x.shape[1]
    if short > 0:
        x = F.pad(x, (0, 0) * (x.dim() - 2) + (0, short))
    return x[:, start : start + length]
