"""Registry of encoder mixers, by `encoder.mixer`.

A mixer is a module `forward(x, state, slice_frames) -> (y, state)` over padded frames (B, T, D). It
is the layer of a block in which frames see each other. `duplexmamba.streaming` says what a state
must be. What `encoder.context` asks of a mixer:

- full: `x` is a whole utterance, `state` and `slice_frames` are None. A frame may see every frame.
- slice: the same; each slice is a row of its own.
- causal: `x` is a chunk of any length, possibly empty. A frame sees the past, by the state;
  `slice_frames` is None.
- causal_lookahead: the chunk consists of whole slices of `slice_frames` frames, counted from the
  start of `x`; only the last slice of a stream may be shorter. A frame sees the past, by the state,
  and may see the frames up to the end of its own slice, none beyond.

A mixer that sees nothing but the past is right in every context and may ignore `slice_frames`. To
add a mixer, write its module with a function that builds it, and add an `EncoderMixer` to `MIXERS`.
"""

import dataclasses
import functools
from collections.abc import Callable

from torch import nn

from duplexmamba.config import EncoderConfig
from duplexmamba.models.blocks import ConvBlock, TransformerBlock
from duplexmamba.models.mixers.attention import build_attention
from duplexmamba.models.mixers.mamba import build_encoder_mamba

EncoderBlock = ConvBlock | TransformerBlock


@dataclasses.dataclass(frozen=True)
class EncoderMixer:
    """A kind of mixer and the block around it, selected by `encoder.mixer`."""

    name: str
    """Value of `encoder.mixer`."""
    build: Callable[[EncoderConfig, int], nn.Module]
    """Build the mixer from the configuration and `past_frames`.

    past_frames is `encoder.left_context_ms` in encoder frames: how far attention looks back. A mixer
    whose state covers the whole past ignores it.
    """
    block: type[EncoderBlock]
    """Block that contains the mixer: `ConvBlock`, as in the Conformer, or `TransformerBlock`."""
    matches_size: bool
    """Whether the block has as many parameters as that of Mamba, to 2 % of the whole encoder.

    tests/test_baselines.py checks it where it is true.
    """
    description: str
    """For `duplexmamba config --explain encoder.mixer`."""


MIXERS = {
    kind.name: kind
    for kind in (
        EncoderMixer(
            "mamba",
            build_encoder_mamba,
            ConvBlock,
            matches_size=True,
            description="Mamba in a Conformer block (ConMamba), as published",
        ),
        EncoderMixer(
            "attention",
            build_attention,
            ConvBlock,
            matches_size=True,
            description="self-attention in place of Mamba: the Conformer",
        ),
        EncoderMixer(
            "transformer",
            build_attention,
            TransformerBlock,
            matches_size=True,
            description="self-attention and one wide feed-forward layer, without convolutions",
        ),
    )
}
"""All encoder mixers by name."""


def build_block(config: EncoderConfig, past_frames: int) -> EncoderBlock:
    """Build an encoder block with random weights.

    Args:
        config: its `mixer` selects the kind.
        past_frames: encoder frames before its own slice that a frame of attention sees in a
            streaming context.
    """
    kind = MIXERS[config.mixer]
    build_mixer = functools.partial(kind.build, config, past_frames)
    return kind.block(config, build_mixer)
