"""Synthetic rooms."""

import math

import numpy as np
from numpy.random import Generator

from datamodules.synthetic.effects.spectrum import amplitude, fft_size, frequencies_hz

RT60_S = (0.1, 0.6)
"""Range of the time in which the sound of a room falls by 60 dB."""
DIRECT_DB = (-2.0, 12.0)
"""Range of the energy of the direct sound relative to that of the reverberation."""
FIRST_ECHO_S = 0.003
"""Time between the direct sound and the first reflection."""
DAMPING_HZ = (2_000.0, 8_000.0)
"""Range of the frequency above which walls absorb."""


def reverberate(samples: np.ndarray, rng: Generator, rate_hz: int) -> np.ndarray:
    """Add a room: exponentially decaying noise after the direct sound, which is not delayed.

    Source: J.-D. Polack's model of late reverberation (1988).
    """
    rt60_s = rng.uniform(*RT60_S)
    direct_db = rng.uniform(*DIRECT_DB)
    damping_hz = rng.uniform(*DAMPING_HZ)
    tail = _decaying_noise(rt60_s, rng, rate_hz)
    energy = float(np.square(tail).sum())
    tail *= amplitude(-direct_db) / math.sqrt(energy)

    # Long enough that the circular convolution is the linear one.
    size = fft_size(len(samples) + len(tail))
    ratio = frequencies_hz(size, rate_hz) / damping_hz
    absorption = 1 / np.sqrt(1 + ratio * ratio)
    response = 1 + np.fft.rfft(tail, size) * absorption
    spectrum = np.fft.rfft(samples, size)
    return np.fft.irfft(spectrum * response, size)[: len(samples)]


def _decaying_noise(rt60_s: float, rng: Generator, rate_hz: int) -> np.ndarray:
    """Noise that falls by 60 dB within `rt60_s`, float32, silent until the first reflection."""
    size = round(rt60_s * rate_hz)
    noise = rng.standard_normal(size, np.float32)
    # A factor of 1000 is 60 dB.
    decay = np.linspace(0, -math.log(1000), size, dtype=np.float32)
    noise *= np.exp(decay)
    noise[: round(FIRST_ECHO_S * rate_hz)] = 0
    return noise
