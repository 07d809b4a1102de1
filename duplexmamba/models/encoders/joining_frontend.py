"""Front end behind a pretrained encoder: some of its frames become one encoder frame."""

import torch
from torch import Tensor, nn

from duplexmamba.config import EncoderConfig, FrontendConfig
from duplexmamba.models.pretrained_encoders import PretrainedEncoderInfo, num_joined
from duplexmamba.models.spec_augment import perturb
from duplexmamba.streaming.buffer import StreamBuffer, stream_windows
from duplexmamba.streaming.padded import Padded

MAX_LEVEL_OFFSET = 1.0
"""Largest offset of the level in training, in standard deviations, which are about 20 dB."""


class JoiningFrontend(nn.Module):
    """Joins frames of a pretrained encoder and projects them to encoder frames.

    Without blocks behind it (`encoder.num_layers=0`) it hands them on as they are. In training, the
    frames are masked and disturbed as configured (`perturb`), and each row has a microphone of
    another level where the level is one of the channels.

    Args:
        config: masks and noise.
        info: the pretrained encoder.
        encoder: its number of blocks, and the width of encoder frames.
        width: channels of the frames: those of the encoder, and the level if there is one more.
    """

    def __init__(
        self,
        config: FrontendConfig,
        info: PretrainedEncoderInfo,
        encoder: EncoderConfig,
        width: int,
    ):
        super().__init__()
        self.config = config
        self.has_level = width > info.width
        self.frame_ms = info.frame_ms
        self.num_joined = num_joined(encoder)
        self.linear: nn.Module = nn.Identity()
        if encoder.num_layers > 0:
            self.linear = nn.Linear(self.num_joined * width, encoder.d_model)

    def forward(self, x: Padded, state: StreamBuffer | None = None) -> tuple[Padded, StreamBuffer]:
        """Frames (B, T, width) -> encoder frames (B, T / num_joined, d_model), and the state."""
        if self.training:
            x = perturb(x, self.config, self.frame_ms)
            if self.has_level:
                x = x.with_values(_other_levels(x.values))
        joined, state = stream_windows(x, state, history=0, hop=self.num_joined)
        steps = joined.values.unflatten(1, (-1, self.num_joined)).flatten(2)
        return joined.with_values(self.linear(steps)), state


def _other_levels(values: Tensor) -> Tensor:
    """Add an offset to the last channel of frames (B, T, width), one for each row."""
    offsets = torch.zeros(len(values), 1, values.shape[-1]).to(values)
    offsets[..., -1].uniform_(-MAX_LEVEL_OFFSET, MAX_LEVEL_OFFSET)
    return values + offsets
