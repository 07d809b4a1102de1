"""Masks and noise on normalised features, in training.

Source of the masks over blocks of frames and of mel bands: SpecAugment, arXiv 1904.08779, with a
number of time masks that grows with the length as in arXiv 1912.05533.

Letters in shapes:
    B: rows of the batch
    T: log-mel frames
    M: mel bands
    K: masks
"""

import torch
from torch import Tensor

from duplexmamba.config import FrontendConfig
from duplexmamba.streaming.padded import Padded

MAX_MASKED_MS = 400
"""Longest masked block of frames."""
NUM_BAND_MASKS = 2


def perturb(x: Padded, config: FrontendConfig, frame_ms: float) -> Padded:
    """Mask and disturb features as configured.

    Args:
        x: (B, T, M), normalised.
        config: share of the masks and deviation of the noise.
        frame_ms: time from one frame to the next in milliseconds.

    Returns:
        (B, T, M).
    """
    if config.noise_std:
        noise = torch.randn_like(x.values)
        x = x.with_values(x.values + config.noise_std * noise)
    if config.masked_share:
        x = mask_blocks(x, config.masked_share, round(MAX_MASKED_MS / frame_ms))
    return x


def mask_blocks(x: Padded, share: float, longest: int) -> Padded:
    """Set random blocks of frames and of mel bands to zero, the mean of normalised features.

    Args:
        x: (B, T, M).
        share: mean share of the frames, and of the bands, that are masked; overlaps count twice.
        longest: frames of the longest masked block.

    Returns:
        (B, T, M).
    """
    lengths = x.row_lengths().to(x.values.dtype)
    num_bands = torch.full_like(lengths, x.values.shape[2])
    # A width is drawn between 0 and its maximum, so that its mean is half of that.
    num_time_masks = (2 * share * lengths / longest).round()
    num_band_masks = torch.full_like(lengths, NUM_BAND_MASKS)
    max_bands = 2 * share * num_bands / NUM_BAND_MASKS
    max_frames = torch.full_like(lengths, longest).minimum(lengths)
    frames = _blocks(x.values.shape[1], lengths, num_time_masks, max_frames)  # (B, T)
    bands = _blocks(x.values.shape[2], num_bands, num_band_masks, max_bands)  # (B, M)
    masked = frames[:, :, None] | bands[:, None, :]
    return x.with_values(x.values.masked_fill(masked, 0.0))


def _blocks(size: int, lengths: Tensor, num_masks: Tensor, max_widths: Tensor) -> Tensor:
    """Draw blocks within the length of each row.

    Args:
        size: number of positions.
        lengths: (B,) positions of each row that may be masked.
        num_masks: (B,)
        max_widths: (B,) largest width of a block.

    Returns:
        (B, size) bool, True at masked positions.
    """
    most_masks = int(num_masks.max())
    widths, starts = torch.rand(2, len(lengths), most_masks, device=lengths.device)  # (B, K)
    widths = widths * max_widths[:, None]
    starts = starts * (lengths[:, None] - widths)
    # Rows with fewer masks than others have empty ones.
    is_used = torch.arange(most_masks, device=lengths.device) < num_masks[:, None]
    stops = starts + widths * is_used
    positions = torch.arange(size, device=lengths.device) + 0.5
    inside = (positions >= starts[..., None]) & (positions < stops[..., None])  # (B, K, size)
    return inside.any(1)
