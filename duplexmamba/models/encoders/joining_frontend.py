"""Front end behind a pretrained encoder: some of its frames become one encoder frame."""

import torch
from torch import Tensor, nn

from duplexmamba.config import FrontendConfig
from duplexmamba.models.pretrained_encoders import FRAMES_PER_STEP, PretrainedEncoderInfo
from duplexmamba.models.spec_augment import perturb
from duplexmamba.streaming.buffer import StreamBuffer, stream_windows
from duplexmamba.streaming.padded import Padded

MAX_LEVEL_OFFSET = 1.0
"""Largest offset of the level in training, in standard deviations, which are about 20 dB."""


class JoiningFrontend(nn.Module):
    """Joins FRAMES_PER_STEP frames of a pretrained encoder and projects them to encoder frames.

    In training, the frames are masked and disturbed as configured (`perturb`), and each row has a
    microphone of another level where the level is one of the channels.

    Args:
        config: masks and noise.
        info: the pretrained encoder.
        width: channels of the frames: those of the encoder, and the level if there is one more.
        d_model: width of encoder frames.
    """

    def __init__(
        self, config: FrontendConfig, info: PretrainedEncoderInfo, width: int, d_model: int
    ):
        super().__init__()
        self.config = config
        self.has_level = width > info.width
        self.frame_ms = 1000 * info.frame_samples / info.sample_rate_hz
        self.linear = nn.Linear(FRAMES_PER_STEP * width, d_model)

    def forward(self, x: Padded, state: StreamBuffer | None = None) -> tuple[Padded, StreamBuffer]:
        """Frames (B, T, width) -> encoder frames (B, T / FRAMES_PER_STEP, d_model), and the state."""
        if self.training:
            x = perturb(x, self.config, self.frame_ms)
            if self.has_level:
                x = x.with_values(_other_levels(x.values))
        joined, state = stream_windows(x, state, history=0, hop=FRAMES_PER_STEP)
        steps = joined.values.unflatten(1, (-1, FRAMES_PER_STEP)).flatten(2)
        return joined.with_values(self.linear(steps)), state


def _other_levels(values: Tensor) -> Tensor:
    """Add an offset to the last channel of frames (B, T, width), one for each row."""
    offsets = torch.zeros(len(values), 1, values.shape[-1]).to(values)
    offsets[..., -1].uniform_(-MAX_LEVEL_OFFSET, MAX_LEVEL_OFFSET)
    return values + offsets
