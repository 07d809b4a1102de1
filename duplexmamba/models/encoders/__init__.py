"""Registry of speech encoders, by `encoder.kind`.

A speech encoder has three modules, `EncoderParts`: features, front end and encoder, from audio
samples (B, n) to encoder frames (B, T, D). To add a kind, write the modules and add an `EncoderKind`
to `ENCODERS`.
"""

import dataclasses
import os
from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from duplexmamba.config import EncoderConfig, FeaturesConfig, ModelConfig
from duplexmamba.models.encoders.encoder import Encoder, EncoderState
from duplexmamba.models.encoders.joining_frontend import JoiningFrontend
from duplexmamba.models.encoders.pretrained import (
    PretrainedEncoder,
    WindowState,
    backend_of_process,
)
from duplexmamba.models.features import Features, LogMel
from duplexmamba.models.frontend import Frontend
from duplexmamba.models.pretrained_encoders import PretrainedEncoderInfo, find_encoder
from duplexmamba.models.timing import FrameTiming

__all__ = [
    "ENCODERS",
    "Encoder",
    "EncoderKind",
    "EncoderParts",
    "EncoderState",
    "PretrainedEncoder",
    "WindowState",
    "build_encoder_parts",
    "check_pretrained_encoder",
    "check_encoder_kind",
    "check_sample_rate",
]


class EncoderParts(NamedTuple):
    """The modules of a speech encoder, each `forward(x, state) -> (y, state)`."""

    features: Features
    """Samples (B, n) to features (B, F, M); also called with `final`."""
    frontend: nn.Module
    """Features to frames (B, T, D)."""
    encoder: nn.Module
    """Frames to frames; also called with `final`."""


@dataclasses.dataclass(frozen=True)
class EncoderKind:
    """A kind of speech encoder, selected by `encoder.kind`."""

    name: str
    """Value of `encoder.kind`."""
    build: Callable[[ModelConfig], EncoderParts]
    """Build the modules."""
    contexts: tuple[str, ...]
    """Values of `encoder.context` that it can be used with."""
    is_pretrained: bool
    """Whether its features need no stage `encoder`, and are computed before training if frozen."""
    description: str


def build_conmamba(config: ModelConfig) -> EncoderParts:
    """Log-mel frames, the convolutional front end, and blocks with random weights."""
    features = config.features
    frame_ms = 1000 * features.hop_samples / features.sample_rate_hz
    d_model = config.encoder.d_model
    return EncoderParts(
        features=LogMel(features),
        frontend=Frontend(config.frontend, features.num_mels, frame_ms, d_model),
        encoder=Encoder(config.encoder, FrameTiming.of(config)),
    )


def build_pretrained(config: ModelConfig) -> EncoderParts:
    """The encoder that `encoder.pretrained` names, and causal blocks with random weights."""
    features: PretrainedEncoder
    if config.encoder.context == "cache":
        # imported here, because transformers takes seconds and most models start without it
        from duplexmamba.models.encoders.cache_aware import CacheAwareEncoder

        features = CacheAwareEncoder(config)
    elif config.encoder.trainable:
        from duplexmamba.models.encoders.trainable import TrainableEncoder

        features = TrainableEncoder(config)
    else:
        features = PretrainedEncoder(config)
    # the blocks stream by their states, whatever the pretrained encoder sees
    causal = dataclasses.replace(config.encoder, context="causal")
    return EncoderParts(
        features=features,
        frontend=JoiningFrontend(config.frontend, features.info, config.encoder, features.width),
        encoder=Encoder(causal, FrameTiming.of(config)),
    )


ENCODERS = {
    kind.name: kind
    for kind in (
        EncoderKind(
            "conmamba",
            build_conmamba,
            contexts=("full", "slice", "causal", "causal_lookahead"),
            is_pretrained=False,
            description="blocks with the mixer of `encoder.mixer`, trained here",
        ),
        EncoderKind(
            "pretrained",
            build_pretrained,
            contexts=("full", "window", "cache"),
            is_pretrained=True,
            description="the encoder that `encoder.pretrained` names, and blocks trained here",
        ),
    )
}
"""All kinds of speech encoders by name."""


def build_encoder_parts(config: ModelConfig) -> EncoderParts:
    """Build the modules of a speech encoder with random weights."""
    return ENCODERS[config.encoder.kind].build(config)


def check_encoder_kind(config: EncoderConfig, features: FeaturesConfig) -> None:
    """Check the fields that depend on the kind.

    Raises:
        ValueError: a field does not fit the kind; names field, value and remedy.
    """
    kind = ENCODERS[config.kind]
    if config.context not in kind.contexts:
        raise ValueError(
            f"encoder.context={config.context}: encoder.kind={config.kind} knows "
            f"{', '.join(kind.contexts)}; set one of these"
        )
    if not kind.is_pretrained and config.pretrained is not None:
        raise ValueError(
            f"encoder.pretrained={config.pretrained} and encoder.kind={config.kind}: set "
            "encoder.kind=pretrained, or encoder.pretrained=null"
        )
    if not kind.is_pretrained and config.trainable:
        raise ValueError(
            f"encoder.trainable=true and encoder.kind={config.kind}: the blocks are trained where "
            "stage.trained names them; set encoder.trainable=false"
        )
    _check_level(config, features)
    if kind.is_pretrained:
        _check_pretrained(config, features)


def _check_level(config: EncoderConfig, features: FeaturesConfig) -> None:
    fitting = "channel" if ENCODERS[config.kind].is_pretrained else "causal"
    if features.level not in ("none", fitting):
        raise ValueError(
            f"features.level={features.level} and encoder.kind={config.kind}: set "
            f"features.level={fitting}, or none"
        )


def _check_pretrained(config: EncoderConfig, features: FeaturesConfig) -> None:
    info = find_encoder(config.pretrained)
    check_sample_rate(info, features.sample_rate_hz)
    _check_context(config, info)
    if features.level == "channel" and config.context == "cache":
        raise ValueError(
            "features.level=channel and encoder.context=cache: such encoders have no channel for the "
            "level; set features.level=none"
        )
    if config.trainable:
        _check_trainable(config, features, info)
    width = info.width + int(features.level == "channel")
    if config.num_layers == 0 and config.d_model != width:
        raise ValueError(
            f"encoder.d_model={config.d_model} and encoder.num_layers=0: without blocks the frames "
            f"of {info.name} go to the connector as they are; set encoder.d_model={width}"
        )


def _check_trainable(
    config: EncoderConfig, features: FeaturesConfig, info: PretrainedEncoderInfo
) -> None:
    """Check that gradients can reach the weights of a pretrained encoder.

    Raises:
        ValueError: they cannot; names field, value, reason and remedy.
    """
    if info.wheel is not None:
        raise ValueError(
            f"encoder.trainable=true: {info.name} is an ONNX file, which has no gradients; set "
            f"encoder.pretrained={info.hub}, or encoder.trainable=false"
        )
    if config.context == "cache":
        raise ValueError(
            f"encoder.trainable=true and encoder.context=cache: the library changes the caches of "
            f"{info.name} in place, through which no gradient passes; set encoder.trainable=false, "
            "or train an encoder of context full and window"
        )
    if features.level == "channel":
        raise ValueError(
            "encoder.trainable=true and features.level=channel: the level is kept beside frames "
            "that are computed once; set features.level=none"
        )


def _check_context(config: EncoderConfig, info: PretrainedEncoderInfo) -> None:
    """Check that a pretrained encoder can hear in the configured way.

    Raises:
        ValueError: it cannot; names field, value, reason and remedy.
    """
    if config.context in info.contexts:
        return
    if config.context == "cache":
        reason = info.no_cache or "it hears whole inputs in both directions and has no caches"
    else:
        reason = "it streams by its caches, in offline stages as well"
    raise ValueError(
        f"encoder.context={config.context}: {info.name} cannot be used so: {reason}; set "
        f"encoder.context={' or '.join(info.contexts)}"
    )


def check_sample_rate(info: PretrainedEncoderInfo, sample_rate_hz: int) -> None:
    """Check that a pretrained encoder takes audio of the configured sample rate.

    Raises:
        ValueError: it does not; names field, value and remedy.
    """
    if sample_rate_hz != info.sample_rate_hz:
        raise ValueError(
            f"features.sample_rate_hz={sample_rate_hz}: {info.name} takes "
            f"{info.sample_rate_hz}; set features.sample_rate_hz={info.sample_rate_hz}"
        )


def check_pretrained_encoder(config: EncoderConfig) -> None:
    """Open the weights of a pretrained encoder, before hours of training.

    Raises:
        ValueError: they are not installed, or do not fit; the message says what to do.
    """
    if config.pretrained is not None:
        backend_of_process(config.pretrained, os.getpid())
