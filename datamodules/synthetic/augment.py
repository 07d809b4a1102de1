"""Augmentation of speech: speed, room, level, silence, noise and effects, drawn from one generator."""

import numpy as np
import soxr

from configs.schema import AugmentConfig
from datamodules.synthetic.effects import apply_effects
from datamodules.synthetic.recorded_noise import draw_noise, reverberate

FLOOR_DB = -70.0
"""Level of the noise floor of recordings without other noise: digital silence is unnatural."""
HUM_SHARE = 0.25
"""Share of the generated noises that contain the hum of a machine."""
LOWEST_HZ = 40.0
"""Coloured noise has a flat spectrum below this frequency."""
FFT_BLOCK = 4096
"""Sizes of Fourier transforms are rounded up to a multiple of this number of samples."""


def augment(
    samples: np.ndarray, rng: np.random.Generator, config: AugmentConfig, rate_hz: int
) -> np.ndarray:
    """Change the speed of a recording, then apply `condition` and the effects of the configuration.

    Args:
        samples: (n,) float32 in [-1, 1] at `rate_hz`.
        rng: source of every random decision.
        config: ranges and shares of the changes.
        rate_hz: sample rate of input and output.

    Returns:
        (m,) float32 in [-1, 1].
    """
    speed = draw_speed(rng, config)
    # Reading the samples at a higher rate than their own shortens them and raises their pitch.
    faster = resample(samples, rate_hz * speed, rate_hz)
    conditioned = condition(faster, rng, config, rate_hz)
    return apply_effects(conditioned, rng, config.effects, rate_hz)


def draw_speed(rng: np.random.Generator, config: AugmentConfig) -> float:
    """Draw the factor by which an utterance is played faster."""
    return float(rng.choice(config.speeds))


def resample(samples: np.ndarray, from_hz: float, to_hz: float) -> np.ndarray:
    """Resample (n,) float32 from one rate to another; returns about n * to_hz / from_hz samples."""
    if from_hz == to_hz:
        return samples
    return soxr.resample(samples, from_hz, to_hz)


def condition(
    samples: np.ndarray, rng: np.random.Generator, config: AugmentConfig, rate_hz: int
) -> np.ndarray:
    """Add room, level, padding and noise without a change of speed, as in evaluation.

    Args:
        samples: (n,) float32 in [-1, 1] at `rate_hz`.
        rng: source of every random decision.
        config: ranges and shares of the changes.
        rate_hz: sample rate of input and output.

    Returns:
        (m,) float32 in [-1, 1], longer than the input by the padding at both ends.
    """
    if config.rir_path and rng.random() < config.rir_share:
        samples = reverberate(samples, config.rir_path, rng, rate_hz)
    level_db = _uniform(config.level_db, rng)
    pad_before = int(_uniform(config.pad_s, rng) * rate_hz)
    pad_after = int(_uniform(config.pad_s, rng) * rate_hz)
    speech_end = pad_before + len(samples)

    mixed = _draw_background(speech_end + pad_after, level_db, rng, config, rate_hz)
    mixed[pad_before:speech_end] += _at_level(samples, level_db)
    peak = np.abs(mixed).max()
    return mixed / max(1.0, peak)


def _draw_background(
    size: int,
    speech_db: float,
    rng: np.random.Generator,
    config: AugmentConfig,
    rate_hz: int,
) -> np.ndarray:
    """(size,) float32: audible noise for a share of the utterances, else the noise floor."""
    noisy = rng.random() < config.noise_share
    noise_db = FLOOR_DB
    if noisy:
        noise_db = speech_db - _uniform(config.snr_db, rng)
    if noisy and config.noise_path:
        noise = draw_noise(config.noise_path, size, rng, rate_hz)
    else:
        noise = _generate_noise(size, rng, rate_hz)
    return _at_level(noise, noise_db)


def _uniform(bounds: list[float], rng: np.random.Generator) -> float:
    low, high = bounds
    return rng.uniform(low, high)


def _at_level(samples: np.ndarray, level_db: float) -> np.ndarray:
    """Scale to a root mean square of `level_db` relative to full scale; silence stays silent."""
    rms = np.sqrt(np.mean(np.square(samples)))
    amplitude = 10 ** (level_db / 20)
    return samples * np.float32(amplitude / max(rms, 1e-8))


def _generate_noise(size: int, rng: np.random.Generator, rate_hz: int) -> np.ndarray:
    """(size,) float32 of arbitrary level: coloured between white and brown, with or without hum."""
    spectrum, bins_hz, fft_size = white_spectrum(size, rng, rate_hz)
    # White noise has a flat amplitude (exponent 0), brown noise falls with 1 / frequency (-1).
    exponent = np.float32(-rng.uniform(0, 1))
    spectrum *= np.maximum(bins_hz, LOWEST_HZ) ** exponent
    if rng.random() < HUM_SHARE:
        pitch_hz = rng.uniform(50, 240)
        harmonics_hz = np.arange(pitch_hz, 2_000, pitch_hz)
        harmonic_bins = (harmonics_hz * (fft_size / rate_hz)).astype(int)
        # A sine of constant amplitude grows with the transform, noise with its square root.
        spectrum[harmonic_bins] *= np.sqrt(np.float32(fft_size)) / 10
    return np.fft.irfft(spectrum)[:size]


def white_spectrum(
    size: int, rng: np.random.Generator, rate_hz: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Draw the spectrum of white noise for a signal of at least `size` samples.

    Returns:
        Complex spectrum (F,), the frequency of each bin in Hz (F,) float32, and the size of the
        Fourier transform in samples.
    """
    # Fourier transforms of other sizes can be many times slower.
    fft_size = -(-size // FFT_BLOCK) * FFT_BLOCK
    bin_width_hz = np.float32(rate_hz / fft_size)
    bins_hz = np.arange(fft_size // 2 + 1, dtype=np.float32) * bin_width_hz
    real_and_imaginary = rng.standard_normal(2 * len(bins_hz), np.float32)
    return real_and_imaginary.view(np.complex64), bins_hz, fft_size
