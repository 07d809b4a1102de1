"""Speech encoders: frames in, frames of the same number and width out."""

from duplexmamba.models.encoders.encoder import Encoder, EncoderState

__all__ = ["Encoder", "EncoderState"]
