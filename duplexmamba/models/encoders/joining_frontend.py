"""Front end behind a pretrained encoder: some of its frames become one encoder frame."""

from torch import nn

from duplexmamba.models.pretrained_encoders import FRAMES_PER_STEP
from duplexmamba.streaming.buffer import StreamBuffer, stream_windows
from duplexmamba.streaming.padded import Padded


class JoiningFrontend(nn.Module):
    """Joins FRAMES_PER_STEP frames of a pretrained encoder and projects them to encoder frames.

    Args:
        width: of the frames of the pretrained encoder.
        d_model: width of encoder frames.
    """

    def __init__(self, width: int, d_model: int):
        super().__init__()
        self.linear = nn.Linear(FRAMES_PER_STEP * width, d_model)

    def forward(self, x: Padded, state: StreamBuffer | None = None) -> tuple[Padded, StreamBuffer]:
        """Frames (B, T, width) -> encoder frames (B, T / FRAMES_PER_STEP, d_model), and the state."""
        joined, state = stream_windows(x, state, history=0, hop=FRAMES_PER_STEP)
        steps = joined.values.unflatten(1, (-1, FRAMES_PER_STEP)).flatten(2)
        return joined.with_values(self.linear(steps)), state
