"""Causal level control of log-mel frames: speech of any microphone gets about the same level.

All levels are in decibels above `QUIETEST_DB`, so that the state at the start of a stream is zero.
Three recursions over frames describe a stream; each is a maximum or minimum of sums and is computed
for all frames at once by a cumulative maximum or minimum:

    noise[t]  = min(level[t], noise[t - 1] + rise)
    speech[t] = max(sustained[t], speech[t - 1] - release)   release only while there is speech
    gain[t]   = target - max(speech[t], level[t])

`sustained` is the smallest level of the last frames, so that a click leaves no trace. The gain of a
frame is one factor, which cannot distort its spectrum.

Letters in shapes:
    B: rows of the batch
    T: log-mel frames
    M: mel bands
    H: frames before the current one that `sustained` sees
"""

import dataclasses

import torch
from torch import Tensor, nn

from duplexmamba.config import FeaturesConfig
from duplexmamba.streaming.buffer import StreamBuffer, stream_windows
from duplexmamba.streaming.padded import Padded

TARGET_DB = -18.0
"""Level, in dB of full scale, to which the loudest frames of speech are brought."""
MAX_GAIN_DB = 36.0
"""Largest gain, so that silence is not amplified without end."""
QUIETEST_DB = TARGET_DB - MAX_GAIN_DB
"""Level at which the largest gain is reached; quieter frames count as that."""
SUSTAINED_S = 0.05
"""Duration for which a level must last to be that of speech."""
RELEASE_DB_PER_S = 2.0
"""Fall of the level of speech during quieter speech. Slow, because a person in the background must
not become as loud as the user."""
NOISE_RISE_DB_PER_S = 3.0
"""Rise of the noise floor while all frames are louder."""
SPEECH_MARGIN_DB = 10.0
"""A frame that exceeds the noise floor by more than this contains speech."""
NOISE_START_DB = 100.0
"""Noise floor before the first frame: above all levels."""
LOWEST_HZ = 150.0
"""Bands below this frequency do not count: they hold the hum of the mains."""


@dataclasses.dataclass(frozen=True)
class LevelState:
    """Streaming state of `LevelControl`; all zero at the start of a stream."""

    recent: StreamBuffer
    """(B, H) levels of the last frames."""
    speech: Tensor
    """(B,) level of speech."""
    noise: Tensor
    """(B,) noise floor, relative to `NOISE_START_DB`."""


class LevelControl(nn.Module):
    """Gain of each frame, from the power of this frame and of those before it.

    Args:
        config: rate and window of the frames.
        filters: (F, M) mel filters.
    """

    counted: Tensor
    """(M,) 1 for the bands that count for the level, 0 for the others."""

    def __init__(self, config: FeaturesConfig, filters: Tensor):
        super().__init__()
        hops_per_s = config.sample_rate_hz / config.hop_samples
        self.history = round(SUSTAINED_S * hops_per_s)
        self.release_db = RELEASE_DB_PER_S / hops_per_s
        self.noise_rise_db = NOISE_RISE_DB_PER_S / hops_per_s
        # Power of noise of full scale in all bins: that of the window, in half of the spectrum.
        window_power = torch.hann_window(config.window_samples).square().sum()
        self.full_scale_power = float(window_power) * config.window_samples / 2
        bin_hz = config.sample_rate_hz / config.window_samples
        centres_hz = filters.argmax(0) * bin_hz  # (M,)
        self.register_buffer("counted", (centres_hz >= LOWEST_HZ).float(), persistent=False)

    def forward(self, mels: Padded, state: LevelState | None) -> tuple[Tensor, LevelState]:
        """Compute the gains of a chunk.

        Args:
            mels: (B, T, M) mel power.
            state: what the previous chunk of the stream returned; None at its start.

        Returns:
            (B, T) factors of the power, and the state for the next chunk.
        """
        level = self._levels(mels.values)  # (B, T)
        recent = None
        last_speech = last_noise = level.new_zeros(len(level))
        if state is not None:
            recent, last_speech, last_noise = state.recent, state.speech, state.noise
        noise = self._noise(level, last_noise)
        window, recent = stream_windows(mels.with_values(level), recent, self.history)
        sustained = window.values.unfold(1, self.history + 1, 1).amin(-1)  # (B, T)
        is_speech = level > noise + NOISE_START_DB + SPEECH_MARGIN_DB
        speech = self._speech(sustained, is_speech, last_speech)
        # The present level too: a frame that is not sustained yet must not be overdriven.
        gain_db = MAX_GAIN_DB - torch.maximum(speech, level)
        lengths = mels.row_lengths()
        after = LevelState(
            recent,
            speech=value_at_end(speech, last_speech, lengths),
            noise=value_at_end(noise, last_noise, lengths),
        )
        return 10 ** (gain_db / 10), after

    def _levels(self, mels: Tensor) -> Tensor:
        """(B, T, M) mel power -> (B, T) levels."""
        power = mels @ self.counted.to(mels.dtype) / self.full_scale_power
        level_db = 10 * torch.log10(power.clamp_min(1e-12))
        return (level_db - QUIETEST_DB).clamp_min(0)

    def _noise(self, level: Tensor, last: Tensor) -> Tensor:
        """(B, T) noise floor after each frame, relative to its start."""
        rise = self.noise_rise_db * frame_numbers(level)  # (T,)
        smallest = (level - NOISE_START_DB - rise).cummin(1).values
        return torch.minimum(smallest, last[:, None]) + rise

    def _speech(self, sustained: Tensor, is_speech: Tensor, last: Tensor) -> Tensor:
        """(B, T) level of speech after each frame."""
        fall = self.release_db * is_speech.to(sustained.dtype).cumsum(1)  # (B, T)
        largest = (sustained + fall).cummax(1).values
        return torch.maximum(largest, last[:, None]) - fall


def frame_numbers(level: Tensor) -> Tensor:
    """Return the number (T,) of each frame of (B, T), from 1."""
    return torch.arange(1, level.shape[1] + 1, dtype=level.dtype, device=level.device)


def value_at_end(values: Tensor, before: Tensor, lengths: Tensor) -> Tensor:
    """Return the value (B,) after the last frame of each row of (B, T).

    Args:
        values: (B, T).
        before: (B,) values for rows without a frame.
        lengths: (B,) frames of the rows.
    """
    joined = torch.cat([before[:, None], values], 1)  # (B, 1 + T)
    return joined.gather(1, lengths[:, None])[:, 0]
