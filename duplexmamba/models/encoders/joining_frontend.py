"""Front end behind a pretrained encoder: some of its frames become one encoder frame."""

from torch import nn

from duplexmamba.config import EncoderConfig, FrontendConfig
from duplexmamba.models.pretrained_encoders import PretrainedEncoderInfo, num_joined
from duplexmamba.models.spec_augment import perturb
from duplexmamba.streaming.buffer import StreamBuffer, stream_windows
from duplexmamba.streaming.padded import Padded


class JoiningFrontend(nn.Module):
    """Joins frames of a pretrained encoder and projects them to encoder frames.

    Without blocks behind it (`encoder.num_layers=0`) it hands them on as they are. In training, the
    frames are masked and disturbed as configured (`perturb`).

    Args:
        config: masks and noise.
        info: the pretrained encoder.
        encoder: its number of blocks, and the width of encoder frames.
    """

    def __init__(self, config: FrontendConfig, info: PretrainedEncoderInfo, encoder: EncoderConfig):
        super().__init__()
        self.config = config
        self.frame_ms = info.frame_ms
        self.num_joined = num_joined(encoder)
        self.linear: nn.Module = nn.Identity()
        if encoder.num_layers > 0:
            self.linear = nn.Linear(self.num_joined * info.width, encoder.d_model)

    def forward(self, x: Padded, state: StreamBuffer | None = None) -> tuple[Padded, StreamBuffer]:
        """Frames (B, T, width) -> encoder frames (B, T / num_joined, d_model), and the state."""
        if self.training:
            x = perturb(x, self.config, self.frame_ms)
        joined, state = stream_windows(x, state, history=0, hop=self.num_joined)
        steps = joined.values.unflatten(1, (-1, self.num_joined)).flatten(2)
        return joined.with_values(self.linear(steps)), state
