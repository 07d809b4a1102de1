"""Batches of sequences of unequal length, and positions in them.

Glossary:
    B: rows of a batch.
    T: time steps; T_i of the i-th sequence where several are joined.
    S: steps of one slice.
    U: slices per row.
    P: positions.
    D: channels of one step.
"""

import dataclasses
import functools

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Padded:
    """Rows of unequal length in one tensor.

    Values past the length of a row are padding. They may be anything, so no result may depend on
    them.
    """

    values: Tensor
    """(B, T, ...)"""
    lengths: Tensor | None = None
    """(B,) int64, steps of each row; None: every row has all T steps."""

    def with_values(self, values: Tensor) -> "Padded":
        """Combine other values (B, T, ...) with the lengths of this batch."""
        return Padded(values, self.lengths)

    def to(self, device: torch.device | str) -> "Padded":
        """Move values and lengths to another device."""
        lengths = self.lengths
        if lengths is not None:
            lengths = lengths.to(device)
        return Padded(self.values.to(device), lengths)

    def at_least_one_step(self) -> "Padded":
        """Add one step of padding to a batch without steps, since no convolution takes T = 0."""
        if self.values.shape[1]:
            return self
        batch_size, _, *step_shape = self.values.shape
        padding = self.values.new_zeros(batch_size, 1, *step_shape)
        return Padded(padding, self.row_lengths())

    def row_lengths(self) -> Tensor:
        """Return the length of each row, (B,) int64, even where `lengths` is None."""
        if self.lengths is not None:
            return self.lengths
        batch_size, steps = self.values.shape[:2]
        return torch.full((batch_size,), steps, device=self.values.device)

    def mask(self) -> Tensor:
        """Return (B, T) bool, True at the steps within each row and False at padding."""
        steps = torch.arange(self.values.shape[1], device=self.values.device)
        return steps < self.row_lengths()[:, None]


@dataclasses.dataclass(frozen=True)
class Positions:
    """Positions in the rows of a batch, in any order and number.

    A row may have several positions or none, and one position may occur twice.
    """

    rows: Tensor
    """(P,) int64, index of the row."""
    steps: Tensor
    """(P,) int64, number of steps of that row before the position: 0 to its length."""

    @functools.cached_property
    def most_steps(self) -> int:
        """The largest of `steps`, read from the device once and not by every layer."""
        return int(self.steps.max())


def slices_to_rows(x: Padded, steps: int) -> Padded:
    """Turn consecutive slices of each row into rows of their own.

    Args:
        x: (B, T, ...).
        steps: S, steps per slice.

    Returns:
        (B * U, S, ...) with U = ceil(T / S). The slices of one row follow each other, the last one
        padded with zeros.
    """
    batch_size, total, *step_shape = x.values.shape
    num_slices = -(-total // steps)
    missing = num_slices * steps - total
    values = pad_steps(x.values, missing)
    starts = torch.arange(num_slices, device=x.values.device) * steps  # (U,)
    # A row may end before its last slices begin: those get length 0.
    lengths = (x.row_lengths()[:, None] - starts).clamp(0, steps)  # (B, U)
    values = values.reshape(batch_size * num_slices, steps, *step_shape)
    return Padded(values, lengths.flatten())


def rows_to_slices(values: Tensor, like: Padded) -> Tensor:
    """Undo `slices_to_rows`: put the slices of each row after each other again.

    Args:
        values: (B * U, S, D), one slice per row.
        like: (B, T, ...), the batch before it was sliced.

    Returns:
        (B, T, D).
    """
    batch_size, total = like.values.shape[:2]
    # (B * U, S, D) -> (B, U * S, D); the padding of the last slice is dropped
    joined = values.reshape(batch_size, -1, values.shape[-1])
    return joined[:, :total]


def join(parts: list[Padded]) -> Padded:
    """Concatenate batches along time, row by row, without gaps between the parts of a row.

    Args:
        parts: (B, T_i, ...) each. Their dtypes may differ, as they do under autocast; the result
            has the smallest dtype that holds all of them.

    Returns:
        (B, T, ...), where T is the largest sum of a row's lengths.
    """
    lengths = torch.stack([part.row_lengths() for part in parts])  # (number of parts, B)
    total = lengths.sum(0)
    first = parts[0].values
    dtype = functools.reduce(torch.promote_types, [part.values.dtype for part in parts])
    shape = (first.shape[0], int(total.max()), *first.shape[2:])
    joined = first.new_zeros(shape, dtype=dtype)
    offset = torch.zeros_like(total)  # (B,) steps of each row written so far
    for part, length in zip(parts, lengths, strict=True):
        row, step = part.mask().nonzero(as_tuple=True)
        target = (row, offset[row] + step)
        # Out of place, so that gradients reach every part.
        joined = joined.index_put(target, part.values[row, step].to(dtype))
        offset = offset + length
    return Padded(joined, total)


def take(x: Tensor, start: Tensor, length: int) -> Tensor:
    """Take `length` consecutive steps of each row, each row from its own start.

    Args:
        x: (B, T, ...).
        start: (B,) int64, the first step to take of each row.
        length: steps to take. Past the end of x, its last step repeats.

    Returns:
        (B, length, ...).
    """
    steps = start[:, None] + torch.arange(length, device=x.device)  # (B, length)
    rows = torch.arange(x.shape[0], device=x.device)[:, None]  # (B, 1)
    last_step = x.shape[1] - 1
    return x[rows, steps.clamp(max=last_step)]


def pad_steps(x: Tensor, steps: int) -> Tensor:
    """Append steps of zeros along the second dimension: (B, T, ...) -> (B, T + steps, ...)."""
    # F.pad starts with the last dimension, two numbers each; only the second one grows.
    other_dimensions = (0, 0) * (x.dim() - 2)
    return F.pad(x, (*other_dimensions, 0, steps))
