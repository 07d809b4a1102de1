"""Another vocal tract: formants move, and the pitch and all times stay.

Glossary: T frames, F bins of a spectrum, Q cepstral coefficients.
"""

import math

import numpy as np
from numpy.random import Generator

FORMANT_FACTORS = (0.85, 1.18)
"""Range of the factor by which formants move: from a longer to a shorter vocal tract."""
FRAME_S = 0.032
"""Duration of the frames in which formants are moved."""
ENVELOPE_S = 0.0015
"""Longest quefrency of the spectral envelope; the pitch period of a high voice is longer."""
MAX_LOG_GAIN = 2.3
"""Largest change of a bin: 20 dB."""
LINEAR_SHARE = 0.8
"""Share of the band in which frequencies are multiplied by the factor."""


def move_formants(samples: np.ndarray, rng: Generator, rate_hz: int) -> np.ndarray:
    """Stretch the spectral envelope of each frame by one random factor.

    Source: vocal tract length perturbation (Jaitly and Hinton, 2013), applied to the cepstral
    envelope instead of the spectrum, so that the pitch is kept.
    """
    factor = rng.uniform(*FORMANT_FACTORS)
    half = 1 << round(math.log2(FRAME_S * rate_hz / 2))
    # The square root of a Hann window, applied twice, adds up to 1 over half-overlapping frames.
    phases = np.arange(2 * half, dtype=np.float32) * (math.pi / (2 * half))
    window = np.sin(phases)
    frames = _half_overlapping(samples, half) * window  # (T, 2 * half)
    spectrum = np.fft.rfft(frames)  # (T, F)
    num_coefficients = round(ENVELOPE_S * rate_hz)
    gain = formant_gain(np.abs(spectrum), factor, num_coefficients)
    moved = np.fft.irfft(spectrum * gain) * window
    return _overlap_add(moved, half)[: len(samples)]


def formant_gain(magnitude: np.ndarray, factor: float, num_coefficients: int) -> np.ndarray:
    """Compute the factors that replace each envelope by itself at other frequencies.

    Args:
        magnitude: (T, F) of the spectrum.
        factor: factor of the frequencies of the formants.
        num_coefficients: Q, cepstral coefficients that describe an envelope.

    Returns:
        (T, F) factors.
    """
    # Bins without energy would dominate the logarithm.
    floor = 1e-4 * magnitude.max() + 1e-9
    log_magnitude = np.log(magnitude + floor)
    num_bins = magnitude.shape[1]
    targets = np.linspace(0, 1, num_bins)  # (F,) relative to the Nyquist frequency
    # Linear up to a border, and from there to the Nyquist frequency, which maps to itself.
    border = LINEAR_SHARE * min(factor, 1.0)
    sources = np.interp(targets, [0, border, 1], [0, border / factor, 1])
    at_targets = _cosines(targets, num_coefficients)  # (Q, F)
    at_sources = _cosines(sources, num_coefficients)
    # The cepstrum is a cosine transform; its first coefficients are the envelope.
    coefficients = log_magnitude @ at_targets.T * (2 / num_bins)  # (T, Q)
    log_gain = coefficients @ (at_sources - at_targets)
    return np.exp(np.clip(log_gain, -MAX_LOG_GAIN, MAX_LOG_GAIN))


def _cosines(positions: np.ndarray, num_coefficients: int) -> np.ndarray:
    """(Q, F) cosines of 1, 2, ... half periods at (F,) positions between 0 and 1."""
    orders = np.arange(1, num_coefficients + 1)
    phases = np.outer(orders, positions) * math.pi
    return np.cos(phases).astype(np.float32)


def _half_overlapping(samples: np.ndarray, half: int) -> np.ndarray:
    """(T, 2 * half) frames; the first one begins half a frame before the samples."""
    num_halves = len(samples) // half + 3
    padded = np.zeros(num_halves * half, np.float32)
    padded[half : half + len(samples)] = samples
    halves = padded.reshape(num_halves, half)
    return np.concatenate([halves[:-1], halves[1:]], axis=1)


def _overlap_add(frames: np.ndarray, half: int) -> np.ndarray:
    """The inverse of `_half_overlapping`, with up to two halves of padding at the end."""
    first_halves = frames[1:, :half]
    second_halves = frames[:-1, half:]
    return (first_halves + second_halves).reshape(-1)
