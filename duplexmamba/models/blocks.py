"""The encoder's blocks: the published one (ConMamba), and the baselines that have self-attention in its mixer's place.

Glossary: B rows, T frames, D model width.
Source: the published encoder as duplexmamba describes it (arXiv 2502.11123): half-step feed-forward, Mamba, convolution
module, half-step feed-forward, each with a residual. With self-attention for Mamba that is the Conformer's block (arXiv
2005.08100). The Transformer's is that of arXiv 1706.03762, normalised before each part.

All have as many weights as the ConMamba block of the same configuration, to the rounding of a width: attention takes
over those of the mixer, the Transformer's one feed-forward those of both feed-forwards and the convolution module.
"""

import dataclasses

import torch.nn.functional as F
from torch import Tensor, nn

from duplexmamba.config import EncoderConfig
from duplexmamba.models.attention import AttentionState
from duplexmamba.models.mamba import MambaState
from duplexmamba.models.mixers import ALIGNED, MIXERS
from duplexmamba.models.sizes import nearest_multiple, num_parameters
from duplexmamba.ops.conv import depthwise_conv
from duplexmamba.ops.gates import SiLU
from duplexmamba.streaming.padded import Padded, StreamBuffer, stream_windows


class FeedForward(nn.Sequential):
    """Normalise, widen, narrow."""

    def __init__(self, d: int, d_ffn: int, dropout: float):
        widen, narrow = nn.Linear(d, d_ffn), nn.Linear(d_ffn, d)
        super().__init__(
            nn.LayerNorm(d), widen, SiLU(), nn.Dropout(dropout), narrow, nn.Dropout(dropout)
        )


class ConvModule(nn.Module):
    """Gated pointwise, depthwise and pointwise convolution; the depthwise one looks back only unless `symmetric`."""

    def __init__(self, config: EncoderConfig, symmetric: bool):
        super().__init__()
        d = config.d_model
        self.symmetric = symmetric
        self.norm = nn.LayerNorm(d)
        self.gated = nn.Linear(d, 2 * d)
        self.conv = nn.Conv1d(d, d, config.conv_kernel, groups=d)
        self.after = nn.Sequential(
            nn.LayerNorm(d), SiLU(), nn.Linear(d, d), nn.Dropout(config.dropout)
        )

    def forward(self, x: Padded, state: StreamBuffer | None) -> tuple[Tensor, StreamBuffer | None]:
        x = x.with_values(F.glu(self.gated(self.norm(x.values)), -1))
        history = self.conv.kernel_size[0] - 1
        if self.symmetric:
            inside = x.values * x.mask()[..., None]
            window = F.pad(inside, (0, 0, history // 2, history // 2))
        else:
            carried, state = stream_windows(x, state, history)
            window = carried.values
        assert self.conv.bias is not None
        return self.after(depthwise_conv(window, self.conv.weight, self.conv.bias)), state


@dataclasses.dataclass(frozen=True)
class BlockState:
    """What one block remembers."""

    mixer: MambaState | AttentionState
    conv: StreamBuffer | None
    """None where there is no convolution, or one that looks both ways."""


class ConvBlock(nn.Module):
    """(B, T, D) -> (B, T, D): ConMamba's block, or with self-attention the Conformer's."""

    def __init__(self, config: EncoderConfig, past_frames: int):
        super().__init__()
        c = config
        self.ffn1, self.ffn2 = (FeedForward(c.d_model, c.d_ffn, c.dropout) for _ in range(2))
        self.norm_mixer = nn.LayerNorm(c.d_model)
        self.mixer = MIXERS[c.mixer].build(c, past_frames)
        self.dropout = nn.Dropout(c.dropout)
        self.conv = ConvModule(c, symmetric=c.context in ("full", "slice"))
        self.norm = nn.LayerNorm(c.d_model)

    def forward(
        self, x: Padded, state: BlockState | None = None, slice_frames: int | None = None
    ) -> tuple[Padded, BlockState]:
        """slice_frames: a frame sees no further than to the end of its slice; None: as its mixer has it."""
        h = x.values + self.ffn1(x.values) / 2
        normed = x.with_values(self.norm_mixer(h))
        mixed, mixer = self.mixer(normed, None if state is None else state.mixer, slice_frames)
        h = h + self.dropout(mixed.values)
        out, conv = self.conv(x.with_values(h), None if state is None else state.conv)
        h = h + out
        h = self.norm(h + self.ffn2(h) / 2)
        return x.with_values(h), BlockState(mixer, conv)


class TransformerBlock(nn.Module):
    """(B, T, D) -> (B, T, D): self-attention and one wide feed-forward."""

    def __init__(self, config: EncoderConfig, past_frames: int):
        super().__init__()
        c = config
        self.norm_mixer = nn.LayerNorm(c.d_model)
        self.mixer = MIXERS[c.mixer].build(c, past_frames)
        self.dropout = nn.Dropout(c.dropout)
        budget = (
            num_parameters(lambda: ConvBlock(c, past_frames))
            - sum(p.numel() for p in self.parameters())
            - 3 * c.d_model
        )
        self.ffn = FeedForward(
            c.d_model, nearest_multiple(budget / (2 * c.d_model + 1), ALIGNED), c.dropout
        )

    def forward(
        self, x: Padded, state: BlockState | None = None, slice_frames: int | None = None
    ) -> tuple[Padded, BlockState]:
        """As in `ConvBlock`."""
        normed = x.with_values(self.norm_mixer(x.values))
        mixed, mixer = self.mixer(normed, None if state is None else state.mixer, slice_frames)
        h = x.values + self.dropout(mixed.values)
        return x.with_values(h + self.ffn(h)), BlockState(mixer, None)


def build_block(config: EncoderConfig, past_frames: int) -> ConvBlock | TransformerBlock:
    """A block of the configured kind; past_frames: of attention, where the context carries anything."""
    if MIXERS[config.mixer].convolutional_block:
        return ConvBlock(config, past_frames)
    return TransformerBlock(config, past_frames)
