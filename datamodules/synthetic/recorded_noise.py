"""Noise and rooms from the user's folders, for augmentation."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile as sf

from datamodules.sources.audio import read_audio
from datamodules.sources.folders import SOUND_SUFFIXES

LONGEST_S = 600.0
"""Of a noise file; a longer one is used up to here."""
ROOM_S = 2.0
"""Of an impulse response; what comes later is not heard upstream speech."""


def draw_noise(folder: str, size: int, rng: np.random.Generator, rate_hz: int) -> np.ndarray:
    """(size,) float32 out of one of the folder's files from anywhere in it, over and over where it is shorter."""
    path = _draw(folder, "data.augment.noise_path", rng)
    noise = _read(path, rate_hz, LONGEST_S)
    return noise.take(np.arange(size) + rng.integers(len(noise)), mode="wrap")


def reverberate(
    samples: np.ndarray, folder: str, rng: np.random.Generator, rate_hz: int
) -> np.ndarray:
    """The samples as they are heard in one of the folder's rooms: as long, and no later."""
    response = _read(_draw(folder, "data.augment.rir_path", rng), rate_hz, ROOM_S)
    response = response[np.abs(response).argmax() :]  # the direct sound comes first
    size = 1 << (len(samples) + len(response) - 1).bit_length()
    heard = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size))
    return heard[: len(samples)].astype(np.float32)


def _draw(folder: str, key: str, rng: np.random.Generator) -> Path:
    return sound_files(folder, key)[int(rng.integers(len(sound_files(folder, key))))]


@lru_cache(maxsize=8)
def sound_files(folder: str, key: str) -> list[Path]:
    """Those of a folder, at any depth. Raises ValueError: there are none."""
    found = [
        path
        for path in sorted(Path(folder).rglob("*"))
        if path.name.lower().endswith(SOUND_SUFFIXES)
    ]
    if not found:
        raise ValueError(f"{key}={folder} holds no sound files; name a folder that does, or null")
    return found


@lru_cache(maxsize=64)
def _read(path: Path, rate_hz: int, longest_s: float) -> np.ndarray:
    return read_audio(
        path, rate_hz, 0.0, min(sf.info(path).duration, longest_s), min_s=0.0, max_s=longest_s
    )
