"""Log-mel frames to encoder frames, one for every four: two causal convolutions of stride 2.

Letters in shapes:
    B: rows of the batch
    T: log-mel frames
    M: mel bands
    C: channels
    D: width of encoder frames
"""

import torch.nn.functional as F
from torch import nn

from duplexmamba.config import FrontendConfig
from duplexmamba.models.spec_augment import perturb
from duplexmamba.streaming.buffer import StreamBuffer, stream_windows
from duplexmamba.streaming.padded import Padded

FrontendState = tuple[StreamBuffer, StreamBuffer]
"""Input frames that the first and the second convolution still need."""


class Frontend(nn.Module):
    """(B, T, M) -> (B, T / 4, D): both convolutions halve time and mel.

    In training, the input is masked and disturbed as configured (`perturb`).

    Args:
        config: channels, masks and noise.
        num_mels: bands M.
        frame_ms: time from one frame to the next in milliseconds.
        d_model: width D of encoder frames.
    """

    def __init__(self, config: FrontendConfig, num_mels: int, frame_ms: float, d_model: int):
        super().__init__()
        self.config = config
        self.frame_ms = frame_ms
        first, second = config.channels
        # the stream buffer pads time on the left, the convolution pads mel on both sides
        self.conv1 = nn.Conv2d(1, first, 3, stride=2, padding=(0, 1))
        self.conv2 = nn.Conv2d(first, second, 3, stride=2, padding=(0, 1))
        self.linear = nn.Linear(second * num_mels // 4, d_model)

    def forward(
        self, x: Padded, state: FrontendState | None = None
    ) -> tuple[Padded, FrontendState]:
        """Encode log-mel frames; frames that do not fill a group of four stay in the state.

        Args:
            x: (B, T, M).
            state: what the previous chunk of the stream returned; None at its start.

        Returns:
            (B, T / 4, D), and the state for the next chunk.
        """
        past1, past2 = state or (None, None)
        if self.training:
            x = perturb(x, self.config, self.frame_ms)
        x = x.with_values(x.values[..., None])  # (B, T, M, 1)
        x, past1 = self._halve(x, self.conv1, past1)  # (B, T / 2, M / 2, C)
        x, past2 = self._halve(x, self.conv2, past2)  # (B, T / 4, M / 4, C)
        return x.with_values(self.linear(x.values.flatten(2))), (past1, past2)

    def _halve(
        self, x: Padded, conv: nn.Conv2d, past: StreamBuffer | None
    ) -> tuple[Padded, StreamBuffer]:
        """(B, T, M, C) -> (B, T / 2, M / 2, C)."""
        window, past = stream_windows(x, past, history=1, hop=2)  # (B, 1 + T, M, C)
        # the values stay in the layout channels-last, which is fast on CPUs; permute only renames
        convolved = conv(window.values.permute(0, 3, 1, 2))
        activated = F.silu(convolved).permute(0, 2, 3, 1)
        return window.with_values(activated), past
