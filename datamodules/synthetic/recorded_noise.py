"""Augmentation with the user's own recordings of noise and of room impulse responses."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile as sf

from datamodules.sources.audio import read_audio
from datamodules.sources.folders import SOUND_SUFFIXES

MAX_NOISE_S = 600.0
"""Only this much of a long noise file is used."""
MAX_RESPONSE_S = 2.0
"""Only this much of an impulse response is used; its later tail is inaudible under the speech."""


def draw_noise(folder: str, size: int, rng: np.random.Generator, rate_hz: int) -> np.ndarray:
    """Cut noise out of a random file of a folder.

    Args:
        folder: holds sound files, at any depth.
        size: samples to return.
        rng: draws the file and the position in it.
        rate_hz: sample rate of the result.

    Returns:
        (size,) float32, starting anywhere in the file and repeating a file that is too short.

    Raises:
        ValueError: the folder holds no sound files.
    """
    path = _draw_file(folder, "data.augment.noise_path", rng)
    noise = _read(path, rate_hz, MAX_NOISE_S)
    start = rng.integers(len(noise))
    # `wrap` repeats a file from its beginning.
    return noise.take(np.arange(size) + start, mode="wrap")


def reverberate(
    samples: np.ndarray, folder: str, rng: np.random.Generator, rate_hz: int
) -> np.ndarray:
    """Convolve speech with a random impulse response of a folder.

    Args:
        samples: (n,) float32.
        folder: holds impulse responses as sound files, at any depth.
        rng: draws the file.
        rate_hz: sample rate of input and output.

    Returns:
        (n,) float32, neither longer nor delayed.

    Raises:
        ValueError: the folder holds no sound files.
    """
    response = _read(_draw_file(folder, "data.augment.rir_path", rng), rate_hz, MAX_RESPONSE_S)
    # The direct sound is the loudest sample. Starting there keeps the speech in its place in time.
    direct_sound = np.abs(response).argmax()
    response = response[direct_sound:]
    # At least n + m - 1, so that the circular convolution equals the linear one.
    fft_size = 1 << (len(samples) + len(response) - 1).bit_length()
    spectrum = np.fft.rfft(samples, fft_size) * np.fft.rfft(response, fft_size)
    reverberant = np.fft.irfft(spectrum)
    return reverberant[: len(samples)].astype(np.float32)


@lru_cache(maxsize=8)
def sound_files(folder: str, key: str) -> list[Path]:
    """List the sound files of a folder, at any depth, sorted.

    Args:
        folder: where to search.
        key: configuration key that names the folder, for the error message.

    Raises:
        ValueError: there are none.
    """
    paths = []
    for path in sorted(Path(folder).rglob("*")):
        if path.name.lower().endswith(SOUND_SUFFIXES):
            paths.append(path)
    if not paths:
        raise ValueError(f"{key}={folder} holds no sound files; name a folder that does, or null")
    return paths


def _draw_file(folder: str, key: str, rng: np.random.Generator) -> Path:
    paths = sound_files(folder, key)
    return paths[int(rng.integers(len(paths)))]


# Decoding a noise file takes far longer than using a part of it.
@lru_cache(maxsize=64)
def _read(path: Path, rate_hz: int, longest_s: float) -> np.ndarray:
    duration_s = min(sf.info(path).duration, longest_s)
    return read_audio(path, rate_hz, 0.0, duration_s, min_s=0.0, max_s=longest_s)
