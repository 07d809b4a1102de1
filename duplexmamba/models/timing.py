"""Durations of samples, frames and speech embeddings, in exact integer ratios."""

import dataclasses

from duplexmamba.config import DuplexConfig, ModelConfig
from duplexmamba.models.pretrained_encoders import find_encoder, num_joined

SUBSAMPLING = 4
"""Log-mel frames per encoder frame: two convolutions of stride 2."""


@dataclasses.dataclass(frozen=True)
class FrameTiming:
    """Samples per frame and per speech embedding of one model."""

    sample_rate_hz: int
    samples_per_encoder_frame: int
    samples_per_token: int
    """Samples of one window of the connector, which is one speech embedding for most kinds."""

    @classmethod
    def of(cls, config: ModelConfig) -> "FrameTiming":
        """Return the timing of a configured model."""
        frame_samples = config.features.hop_samples * SUBSAMPLING
        if config.encoder.pretrained:
            info = find_encoder(config.encoder.pretrained)
            frame_samples = info.frame_samples * num_joined(config.encoder)
        return cls(
            sample_rate_hz=config.features.sample_rate_hz,
            samples_per_encoder_frame=frame_samples,
            samples_per_token=frame_samples * config.connector.stack,
        )

    def encoder_frames(self, field: str, ms: float) -> int:
        """Return the number of encoder frames in a slice.

        Args:
            field: name of the configuration field, for the message.
            ms: duration of the slice in milliseconds.

        Raises:
            ValueError: the slice does not hold a whole number of speech embeddings.
        """
        num_tokens = ms / self.token_ms
        if num_tokens < 1 or num_tokens != int(num_tokens):
            nearest = max(round(num_tokens), 1) * self.token_ms
            raise ValueError(
                f"{field}={ms:g} ms: a slice holds whole speech embeddings; "
                f"give a multiple of {self.token_ms:g}, such as {nearest:g}"
            )
        return int(num_tokens) * (self.samples_per_token // self.samples_per_encoder_frame)

    def whole_frames(self, ms: float) -> int:
        """Return the number of whole encoder frames in a duration of milliseconds."""
        num_samples = int(ms * self.sample_rate_hz / 1000)
        return num_samples // self.samples_per_encoder_frame

    @property
    def token_ms(self) -> float:
        """Milliseconds of audio in one window of the connector."""
        return 1000 * self.samples_per_token / self.sample_rate_hz


def check_slices(config: ModelConfig, duplex: DuplexConfig) -> None:
    """Check that the encoder can return whole speech embeddings slice by slice.

    Raises:
        ValueError: the encoder needs whole utterances, or the slices of a session are no multiple
            of one speech embedding or of the encoder's slices.
    """
    encoder = config.encoder
    if encoder.context == "full":
        remedy = "encoder.context=slice (the same weights fit), causal or causal_lookahead"
        if encoder.kind == "pretrained":
            remedy = "encoder.context=window"
        raise ValueError(f"encoder.context=full encodes whole utterances only; set {remedy}")
    FrameTiming.of(config).encoder_frames("duplex.slice_ms", duplex.slice_ms)
    has_slices = encoder.context != "causal"
    if has_slices and duplex.slice_ms % encoder.slice_ms:
        raise ValueError(
            f"duplex.slice_ms={duplex.slice_ms:g} is no multiple of "
            f"encoder.slice_ms={encoder.slice_ms:g}: set duplex.slice_ms={encoder.slice_ms:g}"
        )
