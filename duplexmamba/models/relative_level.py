"""Level of the frames of a stream, relative to the loudest speech so far.

Somebody further away is softer than the user by about as much with any microphone, whereas the
level itself depends on the microphone. Levels are in units of `SCALE_DB` above `START_DB`, so that
the state at the start of a stream is zero. The loudest speech is a recursion over frames,

    loudest[t] = max(sustained[t], loudest[t - 1] - fall, 0)

where `sustained` is the smallest level of the last frames, so that a click leaves no trace. It is a
cumulative maximum, which computes all frames at once.

Letters in shapes:
    B: rows of the batch
    T: frames
    W: channels of a frame, of which the last is its level
"""

import dataclasses

from torch import Tensor, nn

from duplexmamba.models.level import frame_numbers, value_at_end
from duplexmamba.streaming.buffer import StreamBuffer, stream_windows
from duplexmamba.streaming.padded import Padded

START_DB = -50.0
"""Level, in dB of full scale, that counts as the loudest before anything was louder: the softest
that speech of the user usually is."""
SCALE_DB = 20.0
"""Decibels of one unit of level."""
SUSTAINED_S = 0.06
"""Duration for which a level must last to be that of speech."""
FALL_DB_PER_S = 1.0
"""Fall of the loudest level, so that a slammed door or a user who walks away is forgotten."""


@dataclasses.dataclass(frozen=True)
class RelativeLevelState:
    """Streaming state of `RelativeLevel`; all zero at the start of a stream."""

    recent: StreamBuffer
    """(B, H) levels of the last frames."""
    loudest: Tensor
    """(B,) level of the loudest speech so far."""


class RelativeLevel(nn.Module):
    """Subtracts the level of the loudest speech so far from the last channel of frames.

    Args:
        frame_ms: milliseconds of a frame.
    """

    def __init__(self, frame_ms: float):
        super().__init__()
        frames_per_s = 1000 / frame_ms
        self.history = round(SUSTAINED_S * frames_per_s)
        self.fall = FALL_DB_PER_S / SCALE_DB / frames_per_s

    def forward(
        self, x: Padded, state: RelativeLevelState | None
    ) -> tuple[Padded, RelativeLevelState]:
        """Make the levels of a chunk relative.

        Args:
            x: (B, T, W) frames with levels in units of `SCALE_DB` above `START_DB`.
            state: what the previous chunk of the stream returned; None at its start.

        Returns:
            (B, T, W) frames with relative levels in the same units, and the state for the next
            chunk.
        """
        level = x.values[..., -1]  # (B, T)
        recent = None
        last = level.new_zeros(len(level))
        if state is not None:
            recent, last = state.recent, state.loudest
        window, recent = stream_windows(x.with_values(level), recent, self.history)
        sustained = window.values.unfold(1, self.history + 1, 1).amin(-1)  # (B, T)
        fall = self.fall * frame_numbers(level)  # (T,)
        largest = (sustained + fall).cummax(1).values.maximum(last[:, None])
        loudest = (largest - fall).clamp_min(0)  # (B, T)
        values = x.values.clone()
        values[..., -1] = level - loudest
        after = RelativeLevelState(recent, value_at_end(loudest, last, x.row_lengths()))
        return x.with_values(values), after
