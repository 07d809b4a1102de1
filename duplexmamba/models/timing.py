"""How samples, frames and language-model tokens divide time, exactly."""

import dataclasses

from duplexmamba.config import DuplexConfig, ModelConfig

SUBSAMPLING = 4
"""Log-mel frames per encoder frame: two convolutions of stride 2."""


@dataclasses.dataclass(frozen=True)
class FrameTiming:
    """The rates of one model."""

    sample_rate_hz: int
    samples_per_mel_frame: int
    samples_per_encoder_frame: int
    samples_per_token: int

    @classmethod
    def of(cls, config: ModelConfig) -> "FrameTiming":
        frame = config.features.hop_samples * SUBSAMPLING
        return cls(
            config.features.sample_rate_hz,
            config.features.hop_samples,
            frame,
            frame * config.connector.stack,
        )

    def encoder_frames(self, field: str, ms: float) -> int:
        """Encoder frames in a slice. Raises ValueError, naming the field, unless it is whole speech embeddings."""
        tokens = ms / self.token_ms
        if tokens < 1 or tokens != int(tokens):
            raise ValueError(
                f"{field}={ms:g} ms: a slice holds whole speech embeddings; give a multiple of {self.token_ms:g}"
            )
        return int(tokens) * (self.samples_per_token // self.samples_per_encoder_frame)

    def whole_frames(self, ms: float) -> int:
        """Encoder frames that fit into so many milliseconds."""
        return int(ms * self.sample_rate_hz / 1000) // self.samples_per_encoder_frame

    @property
    def token_ms(self) -> float:
        """Milliseconds of audio behind one speech embedding."""
        return 1000 * self.samples_per_token / self.sample_rate_hz


def check_slices(config: ModelConfig, duplex: DuplexConfig) -> None:
    """Raises ValueError: the encoder cannot give whole embeddings slice by slice."""
    encoder = config.encoder
    if encoder.context == "full":
        raise ValueError(
            "encoder.context=full hears whole utterances only; set encoder.context=slice (the same weights fit), "
            "causal or causal_lookahead"
        )
    FrameTiming.of(config).encoder_frames("duplex.slice_ms", duplex.slice_ms)
    if encoder.context != "causal" and duplex.slice_ms % encoder.slice_ms:
        raise ValueError(
            f"duplex.slice_ms={duplex.slice_ms:g} is no multiple of encoder.slice_ms={encoder.slice_ms:g}: "
            f"set duplex.slice_ms={encoder.slice_ms:g}"
        )
