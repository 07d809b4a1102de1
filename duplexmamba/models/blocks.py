"""Blocks of the encoder, around a mixer of `duplexmamba.models.mixers`.

Letters in shapes:
    B: rows of the batch
    T: encoder frames
    D: model width

`ConvBlock` with Mamba is the published block, ConMamba (arXiv 2502.11123): half-step feed-forward,
mixer, convolution module, half-step feed-forward, each with a residual connection. With
self-attention it is the block of the Conformer (arXiv 2005.08100). `TransformerBlock` is that of
arXiv 1706.03762, normalised before each part.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from duplexmamba.config import EncoderConfig
from duplexmamba.models.sizes import ALIGNMENT, nearest_multiple, num_parameters
from duplexmamba.ops.conv import depthwise_conv
from duplexmamba.ops.gates import SiLU
from duplexmamba.streaming.buffer import StreamBuffer, stream_windows
from duplexmamba.streaming.padded import Padded


class FeedForward(nn.Sequential):
    """(B, T, D) -> (B, T, D): layer norm and two linear layers with a SiLU between them."""

    def __init__(self, d_model: int, d_ffn: int, dropout: float):
        super().__init__(
            nn.LayerNorm(d_model),
            nn.Linear(d_model, d_ffn),
            SiLU(),
            nn.Dropout(dropout),
            nn.Linear(d_ffn, d_model),
            nn.Dropout(dropout),
        )


class ConvModule(nn.Module):
    """Gated pointwise convolution, depthwise convolution, pointwise convolution.

    Args:
        symmetric: centre the depthwise convolution, so that it sees the future as well; false makes
            it causal.
    """

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
        """Compute the module without its residual connection.

        Args:
            x: (B, T, D).
            state: the last conv_kernel - 1 steps; None at the start, and always if symmetric.

        Returns:
            (B, T, D), and the state for the next chunk.
        """
        gated = F.glu(self.gated(self.norm(x.values)), dim=-1)
        inner = x.with_values(gated)
        history = self.conv.kernel_size[0] - 1
        if self.symmetric:
            # a centred window would see the padding behind short rows: set it to zero
            inside = inner.values * inner.mask()[..., None]
            window = F.pad(inside, (0, 0, history // 2, history // 2))
        else:
            stream, state = stream_windows(inner, state, history)
            window = stream.values  # (B, history + T, D)
        assert self.conv.bias is not None
        convolved = depthwise_conv(window, self.conv.weight, self.conv.bias)
        return self.after(convolved), state


@dataclasses.dataclass(frozen=True)
class BlockState:
    """Streaming state of one block."""

    mixer: Any
    """State of the mixer: a dataclass of tensors, of a class of its own for each kind."""
    conv: StreamBuffer | None
    """(B, conv_kernel - 1, D); None without a convolution, and with a symmetric one."""


class ConvBlock(nn.Module):
    """(B, T, D) -> (B, T, D): feed-forward, mixer, convolution module, feed-forward.

    Args:
        build_mixer: returns the mixer; called between the layers before and after it, so that
            weights are drawn in that order.
    """

    def __init__(self, config: EncoderConfig, build_mixer: Callable[[], nn.Module]):
        super().__init__()
        d = config.d_model
        self.ffn1 = FeedForward(d, config.d_ffn, config.dropout)
        self.ffn2 = FeedForward(d, config.d_ffn, config.dropout)
        self.norm_mixer = nn.LayerNorm(d)
        self.mixer = build_mixer()
        self.dropout = nn.Dropout(config.dropout)
        self.conv = ConvModule(config, symmetric=config.context in ("full", "slice"))
        self.norm = nn.LayerNorm(d)

    def forward(
        self, x: Padded, state: BlockState | None = None, slice_frames: int | None = None
    ) -> tuple[Padded, BlockState]:
        """Encode frames.

        Args:
            x: (B, T, D).
            state: what the previous chunk of the stream returned; None at its start.
            slice_frames: length of a slice, counted from the start of `x`: a frame sees no further
                than the end of its own slice. None in the contexts causal, full and slice, where
                the context alone says what a frame sees.

        Returns:
            (B, T, D), and the state for the next chunk.
        """
        mixer_state = None
        conv_state = None
        if state is not None:
            mixer_state = state.mixer
            conv_state = state.conv
        # the feed-forward layers are added by half, as in the Conformer
        h = x.values + self.ffn1(x.values) / 2
        normed = x.with_values(self.norm_mixer(h))
        mixed, mixer_state = self.mixer(normed, mixer_state, slice_frames)
        h = h + self.dropout(mixed.values)
        convolved, conv_state = self.conv(x.with_values(h), conv_state)
        h = h + convolved
        h = self.norm(h + self.ffn2(h) / 2)
        return x.with_values(h), BlockState(mixer_state, conv_state)


class TransformerBlock(nn.Module):
    """(B, T, D) -> (B, T, D): mixer and one wide feed-forward layer.

    The feed-forward layer has the parameters that a `ConvBlock` with the same mixer has in its
    feed-forward layers and its convolution, to the rounding of its width.

    Args:
        build_mixer: returns the mixer.
    """

    def __init__(self, config: EncoderConfig, build_mixer: Callable[[], nn.Module]):
        super().__init__()
        d = config.d_model
        self.norm_mixer = nn.LayerNorm(d)
        self.mixer = build_mixer()
        self.dropout = nn.Dropout(config.dropout)
        target = num_parameters(lambda: ConvBlock(config, build_mixer))
        so_far = sum(parameter.numel() for parameter in self.parameters())
        # a hidden channel has 2 D weights and a bias; norm and output bias have 3 D parameters
        num_hidden = (target - so_far - 3 * d) / (2 * d + 1)
        self.ffn = FeedForward(d, nearest_multiple(num_hidden, ALIGNMENT), config.dropout)

    def forward(
        self, x: Padded, state: BlockState | None = None, slice_frames: int | None = None
    ) -> tuple[Padded, BlockState]:
        """Encode frames; arguments and results as in `ConvBlock.forward`."""
        mixer_state = None if state is None else state.mixer
        normed = x.with_values(self.norm_mixer(x.values))
        mixed, mixer_state = self.mixer(normed, mixer_state, slice_frames)
        h = x.values + self.dropout(mixed.values)
        return x.with_values(h + self.ffn(h)), BlockState(mixer_state, None)
