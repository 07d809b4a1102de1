"""Registry of the sequence mixers of encoder blocks, by `encoder.mixer`.

A mixer is a module `forward(x, state=None, slice_frames=None) -> (y, state)` on `Padded` frames
(B, T, D). `slice_frames` is the length of a slice where frames see the rest of theirs. To add one,
write its module, and an entry here that builds it.
"""

import dataclasses
from collections.abc import Callable

from torch import nn

from duplexmamba.config import EncoderConfig
from duplexmamba.models.attention import SelfAttention
from duplexmamba.models.mamba import MambaMixer
from duplexmamba.models.sizes import nearest_multiple, num_parameters

ALIGNED = 8
"""Derived widths are multiples of this, which suits matrix units."""


@dataclasses.dataclass(frozen=True)
class Mixer:
    """A kind of sequence mixer."""

    name: str
    build: Callable[[EncoderConfig, int], nn.Module]
    """Builds the module from the configuration and the number of past frames that a bounded context
    may keep (`encoder.left_context_ms`)."""
    description: str
    convolutional_block: bool = True
    """Whether the block around it has ConMamba's two feed-forward and convolution modules; otherwise
    it is a Transformer block with one wide feed-forward module, of the same size."""


def mamba_mixer(config: EncoderConfig, past_frames: int = 0) -> MambaMixer:
    """Mamba, with a second direction wherever a part of the future is visible."""
    return MambaMixer(
        config.d_model,
        config.d_state,
        config.d_conv,
        config.expand,
        bidirectional=config.context != "causal",
    )


def self_attention(config: EncoderConfig, past_frames: int) -> SelfAttention:
    """Self-attention with as many parameters as the Mamba mixer of the same configuration."""
    budget = num_parameters(lambda: mamba_mixer(config))
    # Four projections of d_model x d_inner: queries, keys, values, output.
    d_inner = nearest_multiple(budget / (4 * config.d_model), ALIGNED * config.num_heads)
    has_state = config.context in ("causal", "causal_lookahead")
    return SelfAttention(
        config.d_model, d_inner, config.num_heads, past_frames if has_state else None
    )


MIXERS = {
    mixer.name: mixer
    for mixer in (
        Mixer("mamba", mamba_mixer, "ConMamba, the published encoder"),
        Mixer("attention", self_attention, "self-attention in place of Mamba: a Conformer"),
        Mixer(
            "transformer",
            self_attention,
            "a Transformer: self-attention and a wide feed-forward layer, no convolutions",
            convolutional_block=False,
        ),
    )
}
"""Every mixer by its name."""
