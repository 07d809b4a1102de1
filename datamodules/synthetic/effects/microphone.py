"""Microphones and their inputs: response, hum, clipping, level and offset."""

import math

import numpy as np
from numpy.random import Generator

from datamodules.synthetic.effects.spectrum import amplitude, filtered, rms, speech_db

TILT_DB = (-6.0, 6.0)
"""Range of the slope of a response, per factor of ten in frequency."""
PEAK_DB = (-8.0, 8.0)
"""Range of the height of a peak; negative values are notches."""
PEAK_OCTAVES = (0.3, 1.5)
"""Range of the width of a peak."""
LOWEST_PEAK_HZ = 100.0
FLAT_BELOW_HZ = 50.0
"""The tilt does not continue below this frequency."""
HUM_HZ = (50.0, 60.0)
"""Frequencies of the mains."""
HUM_DB = (-40.0, -10.0)
"""Range of the level of the hum relative to the speech."""
HUM_OVERTONES = 10
CLIPPED_DB = (-10.0, -2.0)
"""Range of the level at which peaks are cut, relative to the highest."""
LEVEL_DB = (-55.0, -10.0)
"""Range of the level of the speech, relative to full scale."""
OFFSET_DB = (-60.0, -20.0)
"""Range of the offset relative to full scale: 0.001 to 0.1."""


def equalise(samples: np.ndarray, rng: Generator, rate_hz: int) -> np.ndarray:
    """Give the microphone a response: a tilt and one to three gentle peaks or notches."""
    tilt_db = rng.uniform(*TILT_DB)
    num_peaks = int(rng.integers(1, 4))
    lowest = math.log2(LOWEST_PEAK_HZ)
    highest = math.log2(0.4 * rate_hz)
    centres = rng.uniform(lowest, highest, num_peaks).tolist()
    widths = rng.uniform(*PEAK_OCTAVES, num_peaks).tolist()
    heights_db = rng.uniform(*PEAK_DB, num_peaks).tolist()
    tilt_db_per_octave = tilt_db * math.log10(2)

    def gain(bins_hz: np.ndarray) -> np.ndarray:
        octaves = np.log2(np.maximum(bins_hz, FLAT_BELOW_HZ))
        # The tilt turns around 1 kHz, in the middle of the speech.
        gain_db = tilt_db_per_octave * (octaves - math.log2(1000))
        for centre, width, height_db in zip(centres, widths, heights_db, strict=True):
            distance = (octaves - centre) / width
            gain_db += height_db * np.exp(-distance * distance / 2)
        return 10 ** (gain_db / 20)

    return filtered(samples, rate_hz, gain)


def add_hum(samples: np.ndarray, rng: Generator, rate_hz: int) -> np.ndarray:
    """Add the hum of the mains with its overtones."""
    pitch_hz = rng.choice(HUM_HZ) + rng.uniform(-0.2, 0.2)
    hum_db = speech_db(samples, rate_hz) + rng.uniform(*HUM_DB)
    period = _hum_period(rng)
    period *= amplitude(hum_db) / rms(period)
    # Read from one period: cheaper than a sine for each overtone.
    steps = np.arange(len(samples)) * (pitch_hz * len(period) / rate_hz)
    positions = steps.astype(np.int64) % len(period)
    return samples + period[positions]


def _hum_period(rng: Generator) -> np.ndarray:
    """One period of a hum, of any level: random overtones, higher ones weaker."""
    orders = np.arange(1, HUM_OVERTONES + 1)
    strengths = rng.uniform(0.1, 1, HUM_OVERTONES) / orders
    phases = rng.uniform(0, 2 * math.pi, HUM_OVERTONES)
    spectrum = np.zeros(513, np.complex64)
    spectrum[orders] = strengths * np.exp(1j * phases)
    return np.fft.irfft(spectrum)


def clip(samples: np.ndarray, rng: Generator, rate_hz: int) -> np.ndarray:
    """Cut the highest peaks, as an overdriven input does."""
    peak = np.abs(samples).max()
    limit = peak * amplitude(rng.uniform(*CLIPPED_DB))
    return np.clip(samples, -limit, limit)


def change_level(samples: np.ndarray, rng: Generator, rate_hz: int) -> np.ndarray:
    """Give the speech another level, together with all that sounds beside it."""
    level_db = rng.uniform(*LEVEL_DB)
    change_db = level_db - speech_db(samples, rate_hz)
    return samples * amplitude(change_db)


def add_offset(samples: np.ndarray, rng: Generator, rate_hz: int) -> np.ndarray:
    """Add a constant, as cheap microphones do."""
    offset = amplitude(rng.uniform(*OFFSET_DB))
    is_positive = rng.random() < 0.5
    return samples + offset if is_positive else samples - offset
