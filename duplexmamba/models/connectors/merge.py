"""Merging connector: similar adjacent frames are averaged before two linear layers.

It applies the idea of FastAdaSP (arXiv 2410.03007) before the language model instead of inside it.
Letters as in `base`; S' is the number of embeddings before packing, U k.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duplexmamba.config import ConnectorConfig
from duplexmamba.models.connectors.base import Connector, VariableRateSpeech, matched_width
from duplexmamba.streaming.padded import Padded


class MergeConnector(Connector):
    """(B, T, D) -> (B, S, E): 1 to k embeddings per window, one per run of similar frames.

    Args:
        num_extra: parameters that a subclass adds; the hidden layer gets that many fewer.
    """

    def __init__(self, config: ConnectorConfig, d_encoder: int, d_lm: int, num_extra: int = 0):
        super().__init__(config)
        self.merge_threshold = config.merge_threshold
        d_hidden = matched_width(config, d_encoder, d_lm, d_encoder, num_extra)
        self.layers = nn.Sequential(
            nn.Linear(d_encoder, d_hidden), nn.ReLU(), nn.Linear(d_hidden, d_lm)
        )

    def connect(self, frames: Padded) -> Padded:
        """(B, U k, D) -> (B, S, E), with the number of embeddings of every window."""
        windows = frames.values.unflatten(1, (-1, self.stack))  # (B, U, k, D)
        begins, weights = self.groups(windows)
        pooled, counts = pool(windows, begins, weights)
        device = counts.device
        if frames.lengths is not None:
            # windows past the end of a row are padding
            is_inside = torch.arange(counts.shape[1], device=device) < frames.lengths[:, None]
            counts = counts * is_inside
        is_embedding = torch.arange(self.stack, device=device) < counts[..., None]  # (B, U, k)
        packed = pack(pooled.flatten(1, 2), is_embedding.flatten(1))
        return VariableRateSpeech(self.layers(packed), counts.sum(1), counts=counts)

    def groups(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Group adjacent frames whose cosine similarity is above the threshold.

        Args:
            windows: (B, U, k, D).

        Returns:
            (B, U, k - 1) bool, whether the second frame and those after it begin a group; and the
            weight of each frame in the mean of its group, (B, U, k).
        """
        similarity = F.cosine_similarity(windows[:, :, 1:], windows[:, :, :-1], dim=-1)
        begins = similarity <= self.merge_threshold
        return begins, torch.ones_like(windows[..., 0])


def pool(windows: Tensor, begins: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Compute weighted means of groups of adjacent frames.

    Args:
        windows: (B, U, k, D).
        begins: (B, U, k - 1) bool: whether the second frame and those after it begin a group; the
            first frame always does.
        weights: (B, U, k), positive.

    Returns:
        (B, U, k, D), the means in the order of the groups and zeros after the last; and the number
        of groups, (B, U) int64.
    """
    group = F.pad(begins.long().cumsum(-1), (1, 0))  # (B, U, k): index of each frame's group
    membership = F.one_hot(group, windows.shape[2]) * weights[..., None]  # (B, U, frame, group)
    # unused groups have no weight at all
    totals = membership.sum(-2, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    shares = membership / totals
    return shares.mT @ windows, group[..., -1] + 1


def pack(x: Tensor, is_inside: Tensor) -> Tensor:
    """Move the selected steps of every row to its start, without gaps.

    Args:
        x: (B, S', E).
        is_inside: (B, S') bool: the steps to keep.

    Returns:
        (B, S, E), S being the largest number of steps of any row and at least 1.
    """
    longest = max(1, int(is_inside.sum(1).max()))
    # a stable sort by "outside" keeps the order of the steps inside
    order = (~is_inside).to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]
    return x.gather(1, order[..., None].expand(-1, -1, x.shape[2]))
