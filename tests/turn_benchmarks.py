"""Small recordings for the tests of turn-taking benchmarks."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from evaluation.duplex.turn_scores import TurnScores
from lightning_modules.trainer.checkpoint import FILE
from tests.test_eval_duplex import untrained

RATE_HZ = 16000


def sound(seconds: float = 2.0, channels: int = 1) -> np.ndarray:
    """A tone (n, channels) with a short gap in every 0.4 s, as speech has."""
    samples = np.arange(round(seconds * RATE_HZ))
    is_gap = samples % round(0.4 * RATE_HZ) >= round(0.34 * RATE_HZ)
    wave = 0.1 * np.sin(samples / 5) * ~is_gap
    return np.stack([wave] * channels, 1)


def tone(file: Path, seconds: float = 2.0, channels: int = 1) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    sf.write(file, sound(seconds, channels), RATE_HZ)


def flac(seconds: float = 2.0) -> bytes:
    """The bytes of a tone of one channel."""
    file = io.BytesIO()
    sf.write(file, sound(seconds), RATE_HZ, format="FLAC")
    return file.getvalue()


def run_folder(tmp_path: Path) -> Path:
    """Folder of a run whose model responds in every slice."""
    folder = tmp_path / "run"
    folder.mkdir()
    untrained("streaming", "duplex.response_threshold=1e-9", "duplex.max_tokens=4").save(
        folder / FILE
    )
    return folder


def scored(
    ended: list[float], step_s: float = 0.2, addressed: list[float] | None = None
) -> TurnScores:
    """Scores at the ends of steps."""
    times_s = step_s * np.arange(1, len(ended) + 1)
    return TurnScores(times_s, np.array(ended), np.array(addressed or [0.0] * len(ended)))


approx = pytest.approx
