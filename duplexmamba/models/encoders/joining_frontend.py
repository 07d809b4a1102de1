"""Front end behind a pretrained encoder: some of its frames become one encoder frame."""

from torch import nn

from duplexmamba.config import FrontendConfig
from duplexmamba.models.pretrained_encoders import FRAMES_PER_STEP, PretrainedEncoderInfo
from duplexmamba.models.spec_augment import perturb
from duplexmamba.streaming.buffer import StreamBuffer, stream_windows
from duplexmamba.streaming.padded import Padded


class JoiningFrontend(nn.Module):
    """Joins FRAMES_PER_STEP frames of a pretrained encoder and projects them to encoder frames.

    In training, the frames are masked and disturbed as configured (`perturb`).

    Args:
        config: masks and noise.
        info: the pretrained encoder.
        d_model: width of encoder frames.
    """

    def __init__(self, config: FrontendConfig, info: PretrainedEncoderInfo, d_model: int):
        super().__init__()
        self.config = config
        self.frame_ms = 1000 * info.frame_samples / info.sample_rate_hz
        self.linear = nn.Linear(FRAMES_PER_STEP * info.width, d_model)

    def forward(self, x: Padded, state: StreamBuffer | None = None) -> tuple[Padded, StreamBuffer]:
        """Frames (B, T, width) -> encoder frames (B, T / FRAMES_PER_STEP, d_model), and the state."""
        if self.training:
            x = perturb(x, self.config, self.frame_ms)
        joined, state = stream_windows(x, state, history=0, hop=FRAMES_PER_STEP)
        steps = joined.values.unflatten(1, (-1, FRAMES_PER_STEP)).flatten(2)
        return joined.with_values(self.linear(steps)), state
