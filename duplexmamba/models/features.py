"""Audio samples to normalised log-mel frames, one frame per hop, without look-ahead.

Letters in shapes:
    B: rows of the batch
    n: audio samples
    T: log-mel frames
    F: frequency bins of the Fourier transform, window_samples / 2 + 1
    M: mel bands
"""

import abc
import dataclasses
import math

import torch
from torch import Tensor, nn

from duplexmamba.config import FeaturesConfig
from duplexmamba.models.level import LevelControl, LevelState
from duplexmamba.streaming.buffer import StreamBuffer, stream_windows
from duplexmamba.streaming.padded import Padded

FLOOR = 1e-8
"""Added to the mel power before the logarithm: about the power of 16-bit rounding noise."""
MIN_STD = 1e-3
"""Smallest standard deviation that a mel band is divided by."""


@dataclasses.dataclass(frozen=True)
class FeaturesState:
    """Streaming state of the features."""

    samples: StreamBuffer
    """(B, window_samples - 1): samples that the next frames still need."""
    level: LevelState | None
    """None where features.level=none."""


class Features(nn.Module, abc.ABC):
    """First module of a speech encoder: samples (B, n) to normalised features (B, F, M)."""

    @abc.abstractmethod
    def fit(self, samples: list[Tensor]) -> None:
        """Set the statistics of the normalisation from (n,) signals of the training data."""


class LogMel(Features):
    """Log-mel frames, normalised with a mean and a standard deviation per mel band.

    The statistics are fixed once, by `fit`, and are saved with the weights. With
    features.level=causal the offset of the samples is removed within each window, and
    `LevelControl` scales the power of each frame.
    """

    window: Tensor
    """(window_samples,) Hann window."""
    filters: Tensor
    """(F, M)"""
    offset_spectrum: Tensor
    """(F,) spectrum of the window, relative to its value at 0 Hz."""
    mean: Tensor
    """(M,)"""
    std: Tensor
    """(M,)"""

    def __init__(self, config: FeaturesConfig):
        super().__init__()
        self.window_samples = config.window_samples
        self.hop_samples = config.hop_samples
        # the window and the filters follow from the configuration and are not saved
        self.register_buffer("window", torch.hann_window(config.window_samples), persistent=False)
        self.register_buffer("filters", mel_filters(config), persistent=False)
        # the spectrum of a window that is symmetric around half its length is real
        window_spectrum = torch.fft.rfft(self.window).real
        offset_spectrum = window_spectrum / window_spectrum[0]
        self.register_buffer("offset_spectrum", offset_spectrum, persistent=False)
        self.level = LevelControl(config, self.filters) if config.level == "causal" else None
        self.register_buffer("mean", torch.zeros(config.num_mels))
        self.register_buffer("std", torch.ones(config.num_mels))

    def forward(
        self, samples: Padded, state: FeaturesState | None = None, final: bool = False
    ) -> tuple[Padded, FeaturesState]:
        """Compute normalised frames; frame t ends with sample (t + 1) * hop_samples.

        Args:
            samples: (B, n) in [-1, 1].
            state: what the previous chunk of the stream returned; None at its start.
            final: the stream ends here; no frame waits for that.

        Returns:
            (B, T, M) frames, and the state for the next chunk.
        """
        frames, state = self.log_mel(samples, state)
        normalised = (frames.values - self.mean) / self.std
        return frames.with_values(normalised), state

    def log_mel(
        self, samples: Padded, state: FeaturesState | None = None
    ) -> tuple[Padded, FeaturesState]:
        """Compute frames before normalisation; arguments and results as in `forward`."""
        history = self.window_samples - self.hop_samples
        past = None if state is None else state.samples
        level_state = None if state is None else state.level
        stream, past = stream_windows(samples, past, history, self.hop_samples)
        windows = stream.values.unfold(1, self.window_samples, self.hop_samples)
        spectrum = torch.fft.rfft(windows * self.window)  # (B, T, F)
        if self.level is not None:
            # a constant offset appears as the spectrum of the window
            spectrum = spectrum - spectrum[..., :1] * self.offset_spectrum
        power = spectrum.real.square() + spectrum.imag.square()
        # autocast would round the mel power to bfloat16 before the logarithm
        with torch.autocast(power.device.type, enabled=False):
            mels = power @ self.filters  # (B, T, M)
            if self.level is not None:
                gains, level_state = self.level(stream.with_values(mels), level_state)
                mels = mels * gains[..., None]
        return stream.with_values(torch.log(mels + FLOOR)), FeaturesState(past, level_state)

    @torch.no_grad()
    def fit(self, samples: list[Tensor]) -> None:
        """Set the mean and the standard deviation of every mel band.

        Args:
            samples: (n,) signals in [-1, 1], drawn from the training data.
        """
        frames = []
        for signal in samples:
            log_mel, _ = self.log_mel(Padded(signal[None]))
            frames.append(log_mel.values[0])
        all_frames = torch.cat(frames)
        self.mean.copy_(all_frames.mean(0))
        self.std.copy_(all_frames.std(0).clamp_min(MIN_STD))


def mel_filters(config: FeaturesConfig) -> Tensor:
    """Return triangular filters (F, M), equally spaced in mel from 0 Hz to the Nyquist frequency.

    The mel scale is 2595 log10(1 + Hz / 700).
    """
    nyquist_hz = config.sample_rate_hz / 2
    num_bins = config.window_samples // 2 + 1
    bins_hz = torch.linspace(0, nyquist_hz, num_bins, dtype=torch.float64)

    top_mel = 2595 * math.log10(1 + nyquist_hz / 700)
    edges_mel = torch.linspace(0, top_mel, config.num_mels + 2, dtype=torch.float64)
    edges_hz = 700 * (10 ** (edges_mel / 2595) - 1)

    # filter m rises from edge m to edge m + 1 and falls to edge m + 2
    low = edges_hz[:-2]
    centre = edges_hz[1:-1]
    high = edges_hz[2:]
    rising = (bins_hz[:, None] - low) / (centre - low)
    falling = (high - bins_hz[:, None]) / (high - centre)
    return torch.minimum(rising, falling).clamp_min(0).float()
