"""Samples to normalised log-mel frames, one frame per hop, nothing of the future in any.

Glossary: B rows, n samples, T frames, M mels.
"""

import math

import torch
from torch import Tensor, nn

from duplexmamba.config import FeaturesConfig
from duplexmamba.streaming.padded import Padded, StreamBuffer, stream_windows

FLOOR = 1e-8
"""Added to the mel power before the logarithm: about the power of 16-bit rounding noise."""


class LogMel(nn.Module):
    """Log-mel frames with a normalisation that is fixed once (`fit`) and travels with the weights."""

    window: Tensor
    filters: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, config: FeaturesConfig):
        super().__init__()
        self.window_samples, self.hop_samples = config.window_samples, config.hop_samples
        self.register_buffer("window", torch.hann_window(config.window_samples), persistent=False)
        self.register_buffer("filters", mel_filters(config), persistent=False)
        self.register_buffer("mean", torch.zeros(config.num_mels))
        self.register_buffer("std", torch.ones(config.num_mels))

    def forward(
        self, samples: Padded, state: StreamBuffer | None = None
    ) -> tuple[Padded, StreamBuffer]:
        """(B, n) samples in [-1, 1] -> (B, T, M); frame t ends with sample (t + 1) * hop."""
        frames, state = self.log_mel(samples, state)
        return frames.with_values((frames.values - self.mean) / self.std), state

    def log_mel(
        self, samples: Padded, state: StreamBuffer | None = None
    ) -> tuple[Padded, StreamBuffer]:
        """As `forward`, before normalisation."""
        window, state = stream_windows(
            samples, state, self.window_samples - self.hop_samples, self.hop_samples
        )
        windows = window.values.unfold(1, self.window_samples, self.hop_samples) * self.window
        spectrum = torch.fft.rfft(windows)
        power = spectrum.real.square() + spectrum.imag.square()
        with torch.autocast(
            power.device.type, enabled=False
        ):  # bfloat16 would round the mels before the logarithm
            mels = power @ self.filters
        return window.with_values(torch.log(mels + FLOOR)), state

    @torch.no_grad()
    def fit(self, samples: list[Tensor]) -> None:
        """Set mean and standard deviation of each mel from (n,) signals, those of the speech to be trained on."""
        frames = torch.cat([self.log_mel(Padded(s[None]))[0].values[0] for s in samples])
        self.mean.copy_(frames.mean(0))
        self.std.copy_(frames.std(0).clamp_min(1e-3))


def mel_filters(config: FeaturesConfig) -> Tensor:
    """Triangular filters (window / 2 + 1, M), equally spaced in mel = 2595 log10(1 + Hz / 700), 0 Hz to Nyquist."""
    nyquist_hz = config.sample_rate_hz / 2
    bins_hz = torch.linspace(0, nyquist_hz, config.window_samples // 2 + 1, dtype=torch.float64)
    top_mel = 2595 * math.log10(1 + nyquist_hz / 700)
    edges_mel = torch.linspace(0, top_mel, config.num_mels + 2, dtype=torch.float64)
    edges_hz = 700 * (10 ** (edges_mel / 2595) - 1)
    low, centre, high = edges_hz[:-2], edges_hz[1:-1], edges_hz[2:]
    rising = (bins_hz[:, None] - low) / (centre - low)
    falling = (high - bins_hz[:, None]) / (high - centre)
    return torch.minimum(rising, falling).clamp_min(0).float()
