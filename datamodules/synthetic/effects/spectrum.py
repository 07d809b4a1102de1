"""Filters on the spectrum of a whole signal, which have no delay, and levels.

Glossary: n samples, F bins of a spectrum.
"""

from collections.abc import Callable

import numpy as np

FFT_FACTORS = (8, 9, 10, 12, 15)
"""Fourier transforms of these factors times a power of two are fast."""
ACTIVE_DB = 25.0
"""Frames that are this much below the loudest one contain no speech."""
Gain = Callable[[np.ndarray], np.ndarray]
"""(F,) frequencies in hertz -> (F,) factors."""


def filtered(samples: np.ndarray, rate_hz: int, gain: Gain) -> np.ndarray:
    """Multiply the spectrum of (n,) samples by a smooth gain; returns (n,) samples."""
    # The padding keeps the end from ringing into the beginning.
    size = fft_size(len(samples) + rate_hz // 50)
    factors = gain(frequencies_hz(size, rate_hz))
    spectrum = np.fft.rfft(samples, size)
    return np.fft.irfft(spectrum * factors, size)[: len(samples)]


def fft_size(num_samples: int) -> int:
    """Smallest size of a fast Fourier transform that holds a number of samples."""
    sizes = []
    for factor in FFT_FACTORS:
        quotient = -(-num_samples // factor)
        sizes.append(factor << (quotient - 1).bit_length())
    return min(sizes)


def frequencies_hz(size: int, rate_hz: int) -> np.ndarray:
    """(F,) float32 frequency of each bin of a Fourier transform of `size` samples."""
    bins = np.arange(size // 2 + 1, dtype=np.float32)
    return bins * (rate_hz / size)


def amplitude(level_db: float) -> float:
    """Factor of the amplitude for a level in dB."""
    return 10 ** (level_db / 20)


def rms(samples: np.ndarray) -> float:
    """Root mean square of (n,) samples."""
    power = np.square(samples).mean()
    return float(np.sqrt(power))


def speech_db(samples: np.ndarray, rate_hz: int) -> float:
    """Level of the frames of (n,) samples that contain speech, in dB relative to full scale."""
    frame = min(rate_hz // 50, len(samples))
    num_frames = len(samples) // frame
    frames = samples[: num_frames * frame].reshape(num_frames, frame)
    power = np.square(frames).mean(1)
    threshold = power.max() * 10 ** (-ACTIVE_DB / 10)
    active = power[power >= threshold]
    return float(10 * np.log10(active.mean() + 1e-12))
