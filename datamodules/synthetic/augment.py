"""What a room, a microphone and a hurried speaker do to speech. All of it is drawn from the generator given."""

import numpy as np
import soxr

from configs.schema import AugmentConfig
from datamodules.synthetic.recorded_noise import draw_noise, reverberate

FLOOR_DB = -70.0
"""Level of the faint noise in recordings that get no other: digital silence does not occur in life."""
HUM_SHARE = 0.25
"""Share of noises that carry the hum of a machine."""
LOWEST_HZ = 40.0
"""Noise has no more power below this than at it."""


def augment(
    samples: np.ndarray, rng: np.random.Generator, config: AugmentConfig, rate_hz: int
) -> np.ndarray:
    """Training audio from a recording: speed, then `condition`.

    Args:
        samples: (n,) float32 in [-1, 1] at `rate_hz`.

    Returns:
        (m,) float32 in [-1, 1].
    """
    return condition(
        resample(samples, rate_hz * draw_speed(rng, config), rate_hz), rng, config, rate_hz
    )


def draw_speed(rng: np.random.Generator, config: AugmentConfig) -> float:
    """Factor by which an utterance is played faster."""
    return float(rng.choice(config.speeds))


def resample(samples: np.ndarray, from_hz: float, to_hz: float) -> np.ndarray:
    """(n,) float32 at one rate to (about n * to_hz / from_hz,) at another."""
    return samples if from_hz == to_hz else soxr.resample(samples, from_hz, to_hz)


def condition(
    samples: np.ndarray, rng: np.random.Generator, config: AugmentConfig, rate_hz: int
) -> np.ndarray:
    """Room, level, pads and noise, but the speaker's own pace: what evaluation hears too.

    Args:
        samples: (n,) float32 in [-1, 1] at `rate_hz`.

    Returns:
        (m,) float32 in [-1, 1], longer by the two pads.
    """
    if config.rir_path and rng.random() < config.rir_share:
        samples = reverberate(samples, config.rir_path, rng, rate_hz)
    level_db = _between(config.level_db, rng)
    before, after = (int(_between(config.pad_s, rng) * rate_hz) for _ in range(2))
    noisy = rng.random() < config.noise_share
    noise_db = level_db - _between(config.snr_db, rng) if noisy else FLOOR_DB
    size = before + len(samples) + after
    folder = config.noise_path if noisy else None
    noise = draw_noise(folder, size, rng, rate_hz) if folder else _noise(size, rng, rate_hz)
    mixed = _at_level(noise, noise_db)
    mixed[before : before + len(samples)] += _at_level(samples, level_db)
    return mixed / max(1.0, np.abs(mixed).max())


def _between(span: list[float], rng: np.random.Generator) -> float:
    low, high = span
    return rng.uniform(low, high)


def _at_level(samples: np.ndarray, level_db: float) -> np.ndarray:
    """Scaled to a root mean square of `level_db` relative to full scale; silence stays silent."""
    rms = np.sqrt(np.mean(np.square(samples)))
    return samples * np.float32(10 ** (level_db / 20) / max(rms, 1e-8))


def _noise(size: int, rng: np.random.Generator, rate_hz: int) -> np.ndarray:
    """(size,) float32 of any level: a colour between white (amplitude flat) and brown (1 / frequency), perhaps hum."""
    whole = -(-size // 4096) * 4096  # Fourier transforms of other sizes can be many times slower
    bins_hz = np.arange(whole // 2 + 1, dtype=np.float32) * np.float32(rate_hz / whole)
    spectrum = rng.standard_normal(2 * len(bins_hz), np.float32).view(np.complex64)
    spectrum *= np.maximum(bins_hz, LOWEST_HZ) ** np.float32(-rng.uniform(0, 1))
    if rng.random() < HUM_SHARE:
        pitch_hz = rng.uniform(50, 240)
        lines = (np.arange(pitch_hz, 2_000, pitch_hz) * (whole / rate_hz)).astype(int)
        spectrum[lines] *= np.sqrt(np.float32(whole)) / 10
    return np.fft.irfft(spectrum)[:size]
