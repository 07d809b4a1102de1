"""Encoder frames to language-model embeddings. Every kind takes whole windows of `stack` frames, each on its own, so it
streams exactly and holds no more than the frames of a window that is not full yet (and `conv` the window before it).

Glossary: B rows, T frames, k frames of a window, D encoder width, S embeddings, E language-model width, N windows.

All have as many weights as the stacking one of the same configuration, to the rounding of their hidden layer.
"""

import abc
import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duplexmamba.config import ConnectorConfig
from duplexmamba.streaming.padded import Padded, StreamBuffer, stream_windows

BYTE_LABELS = 257
"""Of the encoder's CTC: the blank and the bytes; byte b is label b + 1."""
BLANK_SHARE = 0.01
"""What a frame that is certainly blank weighs beside one that is certainly not."""


@dataclasses.dataclass(frozen=True)
class Compressed(Padded):
    """Embeddings whose number differs from window to window."""

    counts: Tensor = dataclasses.field(kw_only=True)
    """(B, T / k) int64: embeddings of each window, 1 to k; 0 past a row's end."""


class Connector(nn.Module, abc.ABC):
    """(B, T, D) -> (B, S, E)."""

    history = 0
    """Frames before a window that it sees too."""

    def __init__(self, config: ConnectorConfig):
        super().__init__()
        self.stack = config.stack

    def forward(self, x: Padded, state: StreamBuffer | None = None) -> tuple[Padded, StreamBuffer]:
        """Frames left over from a window wait in the state."""
        frames, state = stream_windows(x, state, self.history, self.stack)
        return self.connect(frames), state

    @abc.abstractmethod
    def connect(self, frames: Padded) -> Padded:
        """(B, history + U k, D), `lengths` counting windows -> (B, S, E)."""


class StackConnector(Connector):
    """The frames of a window side by side, then two linear layers: S = T / k (SLAM-ASR, arXiv 2402.08846; DuplexMamba,
    arXiv 2502.11123)."""

    def __init__(self, config: ConnectorConfig, d_encoder: int, d_lm: int):
        super().__init__(config)
        d_in = config.stack * d_encoder
        self.layers = nn.Sequential(
            nn.Linear(d_in, config.d_hidden), nn.ReLU(), nn.Linear(config.d_hidden, d_lm)
        )

    def connect(self, frames: Padded) -> Padded:
        return frames.with_values(
            self.layers(frames.values.unflatten(1, (-1, self.stack)).flatten(2))
        )


class ConvConnector(Connector):
    """A convolution of stride k that also sees the window before its own, then a linear layer: S = T / k."""

    def __init__(self, config: ConnectorConfig, d_encoder: int, d_lm: int):
        super().__init__(config)
        self.history = config.stack
        width = 2 * config.stack
        d_hidden = matched(config, d_encoder, d_lm, width * d_encoder)
        self.conv = nn.Conv1d(d_encoder, d_hidden, width, stride=config.stack)
        self.out = nn.Linear(d_hidden, d_lm)

    def connect(self, frames: Padded) -> Padded:
        return frames.with_values(self.out(F.relu(self.conv(frames.values.mT).mT)))


class MergeConnector(Connector):
    """Frames of a window that are like the one before are averaged with it: 1 to k embeddings each (the idea of
    FastAdaSP, arXiv 2410.03007, before the language model instead of inside it)."""

    def __init__(self, config: ConnectorConfig, d_encoder: int, d_lm: int, beside: int = 0):
        """beside: weights that a subclass has besides."""
        super().__init__(config)
        self.merge_threshold = config.merge_threshold
        d_hidden = matched(config, d_encoder, d_lm, d_encoder, beside)
        self.layers = nn.Sequential(
            nn.Linear(d_encoder, d_hidden), nn.ReLU(), nn.Linear(d_hidden, d_lm)
        )

    def connect(self, frames: Padded) -> Padded:
        windows = frames.values.unflatten(1, (-1, self.stack))
        begins, weights = self.groups(windows)
        pooled, counts = pool(windows, begins, weights)
        if frames.lengths is not None:
            counts = counts * (
                torch.arange(counts.shape[1], device=counts.device) < frames.lengths[:, None]
            )
        inside = torch.arange(self.stack, device=counts.device) < counts[..., None]
        packed = pack(pooled.flatten(1, 2), inside.flatten(1))
        return Compressed(self.layers(packed), counts.sum(1), counts=counts)

    def groups(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """(B, U, k, D) -> where a frame is no more like the one before it (B, U, k - 1) bool, and what each frame
        weighs (B, U, k)."""
        likeness = F.cosine_similarity(windows[:, :, 1:], windows[:, :, :-1], dim=-1)
        return likeness <= self.merge_threshold, torch.ones_like(windows[..., 0])


class CTCConnector(MergeConnector):
    """A new label of the encoder's CTC begins a new embedding, the mean of the frames up to the next one, weighed by
    how little blank they are: 1 to k embeddings a window (the idea of AlignFormer, arXiv 2412.01145).

    `head` begins as that of stage encoder and goes on learning with the connector.
    """

    def __init__(self, config: ConnectorConfig, d_encoder: int, d_lm: int):
        super().__init__(config, d_encoder, d_lm, beside=BYTE_LABELS * (d_encoder + 1))
        self.head = nn.Linear(d_encoder, BYTE_LABELS)

    def groups(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.head(windows)
        labels = logits.argmax(-1)
        begins = (labels[:, :, 1:] != labels[:, :, :-1]) & (labels[:, :, 1:] != 0)
        return begins, 1 - (1 - BLANK_SHARE) * logits.softmax(-1)[..., 0]


def matched(config: ConnectorConfig, d_encoder: int, d_lm: int, d_in: int, beside: int = 0) -> int:
    """Width of a hidden layer behind `d_in` inputs, with which a connector has as many weights as `StackConnector` with its own:
    the nearest multiple of 8."""
    weights = (config.stack * d_encoder + 1 + d_lm) * config.d_hidden - beside
    return 8 * max(1, round(weights / (d_in + 1 + d_lm) / 8))


def pool(windows: Tensor, begins: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted means of groups of adjacent frames.

    Args:
        windows: (B, U, k, D).
        begins: (B, U, k - 1) bool: the second frame and those after it that begin a group, as the first one does.
        weights: (B, U, k), all above 0.

    Returns:
        (B, U, k, D), one group after the other, zero behind the last; and how many there are, (B, U) int64.
    """
    group = F.pad(begins.long().cumsum(-1), (1, 0))
    member = F.one_hot(group, windows.shape[2]) * weights[..., None]  # (B, U, k frames, k groups)
    shares = member / member.sum(-2, keepdim=True).clamp_min(torch.finfo(weights.dtype).tiny)
    return shares.mT @ windows, group[..., -1] + 1


def pack(x: Tensor, inside: Tensor) -> Tensor:
    """(B, S', E) -> (B, S, E): the steps of each row that are inside (B, S') bool, without gaps; S the most of any."""
    lengths = inside.sum(1)
    order = (~inside).to(torch.uint8).argsort(dim=1, stable=True)[:, : max(1, int(lengths.max()))]
    return x.gather(1, order[..., None].expand(-1, -1, x.shape[2]))
