"""Front end behind a pretrained encoder: some of its frames become one encoder frame."""

import dataclasses

from torch import nn

from duplexmamba.config import EncoderConfig, FrontendConfig
from duplexmamba.models.pretrained_encoders import PretrainedEncoderInfo, num_joined
from duplexmamba.models.relative_level import RelativeLevel, RelativeLevelState
from duplexmamba.models.spec_augment import perturb
from duplexmamba.streaming.buffer import StreamBuffer, stream_windows
from duplexmamba.streaming.padded import Padded


@dataclasses.dataclass(frozen=True)
class JoiningState:
    """Streaming state of `JoiningFrontend`; all zero at the start of a stream."""

    pending: StreamBuffer
    """(B, 0 to num_joined - 1, width) frames that wait for others to be joined with."""
    level: RelativeLevelState | None
    """None where the level is no channel."""


class JoiningFrontend(nn.Module):
    """Joins frames of a pretrained encoder and projects them to encoder frames.

    Without blocks behind it (`encoder.num_layers=0`) it hands them on as they are. Where the level
    is one of the channels, it becomes relative to the loudest speech so far. In training, the frames
    are masked and disturbed as configured (`perturb`).

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
        self.level = RelativeLevel(info.frame_ms) if width > info.width else None
        self.frame_ms = info.frame_ms
        self.num_joined = num_joined(encoder)
        self.linear: nn.Module = nn.Identity()
        if encoder.num_layers > 0:
            self.linear = nn.Linear(self.num_joined * width, encoder.d_model)

    def forward(self, x: Padded, state: JoiningState | None = None) -> tuple[Padded, JoiningState]:
        """Frames (B, T, width) -> encoder frames (B, T / num_joined, d_model), and the state."""
        pending = None if state is None else state.pending
        level_state = None if state is None else state.level
        if self.level is not None:
            x, level_state = self.level(x, level_state)
        if self.training:
            x = perturb(x, self.config, self.frame_ms)
        joined, pending = stream_windows(x, pending, history=0, hop=self.num_joined)
        steps = joined.values.unflatten(1, (-1, self.num_joined)).flatten(2)
        return joined.with_values(self.linear(steps)), JoiningState(pending, level_state)
