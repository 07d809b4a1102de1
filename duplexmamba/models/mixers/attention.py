"""Self-attention over a bounded past, with streaming state.

Letters in shapes:
    B: rows of the batch
    T: steps
    D: model width
    E: inner width
    H: heads
    P: past steps
    C: steps of a block
    N: blocks of all rows

Source: Vaswani et al., arXiv 1706.03762; rotary positions, Su et al., arXiv 2104.09864. A score
depends only on the distance of two steps, so that a stream needs no step counter and any attention
kernel can be used. In speech recognition rotary positions do as well as the relative positions of
the Conformer (arXiv 2501.06051).
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duplexmamba.config import EncoderConfig
from duplexmamba.models.mixers.mamba import build_encoder_mamba
from duplexmamba.models.sizes import ALIGNMENT, nearest_multiple, num_parameters
from duplexmamba.streaming.buffer import StreamBuffer, stream_windows
from duplexmamba.streaming.padded import Padded, rows_to_slices, slices_to_rows

ROTARY_BASE = 1e4
"""Steps in which the slowest pair of channels rotates by one radian."""


def build_attention(config: EncoderConfig, past_frames: int) -> "SelfAttention":
    """Build self-attention with as many parameters as the Mamba mixer of the same configuration.

    Args:
        config: encoder section of the configuration.
        past_frames: frames before its own slice that a frame sees in a streaming context.
    """
    target = num_parameters(lambda: build_encoder_mamba(config, past_frames))
    # queries, keys, values and output: four matrices of D x E weights
    width = target / (4 * config.d_model)
    d_inner = nearest_multiple(width, ALIGNMENT * config.num_heads)
    is_streaming = config.context in ("causal", "causal_lookahead")
    past_steps = past_frames if is_streaming else None
    return SelfAttention(config.d_model, d_inner, config.num_heads, past_steps)


@dataclasses.dataclass(frozen=True)
class AttentionState:
    """Keys and values of the past."""

    past: StreamBuffer
    """(B, P, 2 E), newest last, before rotation."""
    num_valid: Tensor
    """(B,) int64: how many of the P steps the stream has had; the others are masked."""


class SelfAttention(nn.Module):
    """(B, T, D) -> (B, T, D).

    Args:
        d_inner: E, a multiple of 2 H.
        num_heads: H.
        past_steps: P, steps that a step sees before its own slice; the slice is seen whole. None: a
            step sees the whole row.
    """

    def __init__(self, d_model: int, d_inner: int, num_heads: int, past_steps: int | None):
        super().__init__()
        self.num_heads = num_heads
        self.past_steps = past_steps
        self.in_proj = nn.Linear(d_model, 3 * d_inner, bias=False)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def forward(
        self, x: Padded, state: AttentionState | None = None, slice_frames: int | None = None
    ) -> tuple[Padded, AttentionState]:
        """Attend to the own slice and the past. An empty chunk returns one step of padding.

        Args:
            x: (B, T, D).
            state: what the previous chunk of the stream returned; None at its start.
            slice_frames: length of a slice, counted from the start of `x`; None: 1, which is causal.

        Returns:
            (B, T, D), and the state for the next chunk.
        """
        x = x.at_least_one_step()
        past_steps = self.past_steps or 0
        if self.past_steps is None:
            slice_frames = x.values.shape[1]

        d_inner = self.out_proj.in_features
        queries, key_values = self.in_proj(x.values).split([d_inner, 2 * d_inner], -1)
        past = None if state is None else state.past
        window, past = stream_windows(x.with_values(key_values), past, past_steps)  # (B, P + T, 2E)

        lengths = x.row_lengths()
        num_valid = torch.zeros_like(lengths) if state is None else state.num_valid
        positions = torch.arange(past_steps + x.values.shape[1], device=lengths.device)
        has_begun = positions >= past_steps - num_valid[:, None]
        is_valid = has_begun & (positions < past_steps + lengths[:, None])  # (B, P + T)

        y = self._attend(x.with_values(queries), window.values, is_valid, slice_frames or 1)
        num_valid = (num_valid + lengths).clamp(max=past_steps)
        return x.with_values(self.out_proj(y)), AttentionState(past, num_valid)

    def _attend(
        self, queries: Padded, window: Tensor, is_valid: Tensor, slice_frames: int
    ) -> Tensor:
        """Attend in blocks of whole slices that are about as long as the past.

        Time and memory therefore grow with T and not with its square.

        Args:
            queries: (B, T, E), before rotation.
            window: (B, P + T, 2 E) keys and values, before rotation.
            is_valid: (B, P + T) bool: steps of the window that are neither padding nor before the
                start of the stream.
            slice_frames: length of a slice.

        Returns:
            (B, T, E).
        """
        num_steps = queries.values.shape[1]
        past_steps = window.shape[1] - num_steps
        slices_per_block = -(-max(past_steps, 1) // slice_frames)  # rounded up
        block_steps = min(num_steps, slice_frames * slices_per_block)

        query_blocks = slices_to_rows(queries, block_steps).values  # (N, C, E)
        keys, values = overlapping_blocks(window, block_steps, past_steps).chunk(2, -1)
        valid_keys = overlapping_blocks(is_valid[..., None], block_steps, past_steps).mT
        device = is_valid.device
        mask = slice_mask(block_steps, past_steps, slice_frames, device) & valid_keys  # (N, C, P+C)
        # padding sees itself: a row of scores without any key would give NaN
        mask = mask | self_mask(block_steps, past_steps, device)

        q = rotate(self._split_heads(query_blocks), past_steps)
        k = rotate(self._split_heads(keys))
        v = self._split_heads(values)
        y = F.scaled_dot_product_attention(q, k, v, mask[:, None])  # (N, H, C, E / H)
        return rows_to_slices(y.transpose(1, 2).flatten(2), queries)

    def _split_heads(self, x: Tensor) -> Tensor:
        """(N, T, E) -> (N, H, T, E / H)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def overlapping_blocks(window: Tensor, block_steps: int, past_steps: int) -> Tensor:
    """Return every block of C steps together with the P steps before it.

    Args:
        window: (B, P + T, E).
        block_steps: C.
        past_steps: P.

    Returns:
        (N, P + C, E); the last block of a row is padded with zeros.
    """
    num_missing = -(window.shape[1] - past_steps) % block_steps
    padded = F.pad(window, (0, 0, 0, num_missing))
    blocks = padded.unfold(1, past_steps + block_steps, block_steps)  # (B, N / B, E, P + C)
    return blocks.flatten(0, 1).transpose(1, 2)


def slice_mask(
    block_steps: int, past_steps: int, slice_frames: int, device: torch.device
) -> Tensor:
    """(C, P + C) bool: a step sees its own slice and the P steps before the slice."""
    steps = torch.arange(block_steps, device=device)[:, None]
    # positions in the window are shifted by P: a slice's past begins where the slice begins here
    begins = steps // slice_frames * slice_frames
    positions = torch.arange(past_steps + block_steps, device=device)
    return (positions >= begins) & (positions < begins + past_steps + slice_frames)


def self_mask(block_steps: int, past_steps: int, device: torch.device) -> Tensor:
    """(C, P + C) bool: a step sees itself."""
    ones = torch.ones(block_steps, past_steps + block_steps, dtype=torch.bool, device=device)
    return ones.triu(past_steps).tril(past_steps)


def rotate(x: Tensor, first: int = 0) -> Tensor:
    """Apply rotary positions to pairs of channels.

    Args:
        x: (N, H, T, W), W even.
        first: position of the first step.
    """
    half = x.shape[-1] // 2
    # angles of many steps need more bits than bfloat16 has
    dtype = torch.promote_types(x.dtype, torch.float32)
    rates = ROTARY_BASE ** (-torch.arange(half, device=x.device, dtype=dtype) / half)
    positions = torch.arange(first, first + x.shape[2], device=x.device, dtype=dtype)
    angles = positions[:, None] * rates  # (T, W / 2)
    cos = angles.cos()
    sin = angles.sin()
    a = x[..., :half]
    b = x[..., half:]
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(x.dtype)
