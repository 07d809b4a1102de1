"""The past steps that a causal window keeps from one chunk of a stream to the next.

A layer that looks back over time, such as a convolution, processes a stream in hops. Its window
holds H steps of history and then one or more hops of new steps. A stream buffer keeps the last
H + hop - 1 steps, so that any split of the stream into chunks gives the same windows.

Glossary:
    B: rows of a batch.
    T: steps of the new chunk.
    H: history, steps that a window holds before its own hops.
    U: hops in a window.
    P: positions.
"""

import dataclasses

import torch
from torch import Tensor

from duplexmamba.streaming.padded import Padded, Positions, pad_steps, take


@dataclasses.dataclass(frozen=True)
class StreamBuffer:
    """Past steps that the next window of a stream needs. All zero at the start of a stream."""

    tail: Tensor
    """(B, H + hop - 1, ...), the last steps of the stream, newest last."""
    pending: Tensor
    """(B,) int64, how many of them belong to a hop that is not complete yet; below hop."""


def stream_windows(
    x: Padded, past: StreamBuffer | None, history: int, hop: int = 1
) -> tuple[Padded, StreamBuffer]:
    """Divide a stream into windows of whole hops, each row at its own pace.

    Args:
        x: (B, T, ...), the next chunk.
        past: the buffer that the previous call returned; None at the start of the stream, which
            counts as preceded by zeros.
        history: H.
        hop: steps per hop.

    Returns:
        The window (B, H + U * hop, ...), whose `lengths` count hops, not steps, and the buffer for
        the next call. U is the largest number of complete hops in any row, but at least 1, so that
        no convolution gets an input shorter than its kernel.
    """
    x = x.at_least_one_step()
    kept_steps = history + hop - 1
    starts_stream = past is None
    if past is None:
        past = _empty_buffer(x.values, kept_steps)
    joined = torch.cat([past.tail, x.values], 1)  # (B, kept + T, ...)
    chunk_lengths = x.values.shape[1] if x.lengths is None else x.lengths
    newest = _take_from(joined, chunk_lengths, kept_steps)
    if hop == 1:
        # Every step completes a hop, so nothing is ever pending.
        return Padded(joined, x.lengths), StreamBuffer(newest, past.pending)
    total = past.pending + x.row_lengths()
    num_hops = total // hop
    window_steps = history + max(int(num_hops.max()), 1) * hop
    # Pending steps are the newest of the tail. None are at the start, where an int avoids a gather.
    window_start = hop - 1 if starts_stream else hop - 1 - past.pending
    window = _take_from(joined, window_start, window_steps)
    return Padded(window, num_hops), StreamBuffer(newest, total % hop)


def buffer_at(window: Padded, history: int, return_states_at: Positions) -> StreamBuffer:
    """Return the buffers that a stream would have at some positions of a chunk.

    Args:
        window: the window that `stream_windows` returned for this chunk with a hop of 1.
        history: H of that call.
        return_states_at: P positions in the chunk.

    Returns:
        A buffer with P rows, one per position.
    """
    offsets = torch.arange(history, device=return_states_at.steps.device)
    steps = return_states_at.steps[:, None] + offsets  # (P, H)
    rows = return_states_at.rows[:, None]  # (P, 1)
    pending = torch.zeros_like(return_states_at.steps)
    return StreamBuffer(window.values[rows, steps], pending)


def pending_steps(past: StreamBuffer) -> Padded:
    """Return the steps of the incomplete hop of each row, for a buffer without history (H = 0)."""
    start = past.tail.shape[1] - past.pending
    steps = take(past.tail, start, int(past.pending.max()))
    return Padded(steps, past.pending)


def _empty_buffer(like: Tensor, kept_steps: int) -> StreamBuffer:
    """Return the buffer before a stream starts, for steps shaped like those of (B, T, ...)."""
    batch_size, _, *step_shape = like.shape
    tail = like.new_zeros(batch_size, kept_steps, *step_shape)
    pending = torch.zeros(batch_size, dtype=torch.int64, device=like.device)
    return StreamBuffer(tail, pending)


def _take_from(x: Tensor, start: int | Tensor, length: int) -> Tensor:
    """Take `length` steps from `start`: one for all rows (a view, zeros past the end) or (B,)."""
    if isinstance(start, Tensor):
        return take(x, start, length)
    missing = start + length - x.shape[1]
    if missing > 0:
        x = pad_steps(x, missing)
    return x[:, start : start + length]
