"""Registry of encoder mixers, by `encoder.mixer`.

A mixer is a module `forward(x, state, slice_frames) -> (y, state)` over padded frames (B, T, D).
The state is a frozen dataclass of tensors with the rows of the batch first. To add a mixer, write
its module with a function that builds it, and add an `EncoderMixer` to `MIXERS`.
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
    """Build the mixer from the configuration and the number of past encoder frames it may see.

    A mixer with a recurrent state ignores the latter.
    """
    block: type[EncoderBlock]
    """Block that contains the mixer."""
    matches_size: bool
    """Whether the block has as many parameters as that of Mamba, to the rounding of a width."""
    description: str


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
            description="self-attention in its place: the Conformer",
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
        past_frames: past encoder frames that attention may see in a streaming context.
    """
    kind = MIXERS[config.mixer]
    build_mixer = functools.partial(kind.build, config, past_frames)
    return kind.block(config, build_mixer)
