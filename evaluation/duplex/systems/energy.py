"""Silence end-pointing by the level alone."""

import numpy as np

from evaluation.duplex.systems.silence import silence_scores
from evaluation.duplex.turn_scores import Listen, TurnScores

FRAME_S = 0.02
BELOW_LOUD_DB = 30.0
"""Level below that of the loudest speech so far, down to which a frame counts as speech."""
FADE_DB_PER_S = 1.0
"""The loudest speech is forgotten at this pace, so that a single bang does not deafen."""
ABOVE_FLOOR_DB = 9.0
"""Speech is at least this far above the noise floor."""
FLOOR_S = 5.0
"""The noise floor is the quietest frame of this time."""
START_S = 0.5
"""Until then a recording is taken for one without noise: words have gaps later than this."""
MIN_LEVEL_DB = -55.0
"""Level of full scale below which nothing is speech."""
MIN_SPEECH_S = 0.1
"""A shorter sound is a click."""


def open_energy(rate_hz: int) -> Listen:
    """Silence end-pointing for audio of a sample rate."""

    def listen(samples: np.ndarray) -> TurnScores:
        return silence_scores(speech_frames(samples, rate_hz), FRAME_S, MIN_SPEECH_S)

    return listen


def speech_frames(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Whether each frame of `FRAME_S` holds speech, from the level up to its end.

    Args:
        samples: (n,) in [-1, 1].
        rate_hz: their sample rate.

    Returns:
        (n // samples of a frame,) bool.
    """
    level_db = levels_db(samples, round(FRAME_S * rate_hz))
    fade_db = FADE_DB_PER_S * FRAME_S * np.arange(len(level_db))
    # The running maximum of a level that rises with time is a maximum that fades.
    loudest_db = np.maximum.accumulate(level_db + fade_db) - fade_db
    floor_db = _running_minimum(level_db, round(FLOOR_S / FRAME_S))
    # A recording may begin with speech, which is not its own floor.
    floor_db[: round(START_S / FRAME_S)] = MIN_LEVEL_DB
    by_speech_db = np.maximum(loudest_db - BELOW_LOUD_DB, MIN_LEVEL_DB)
    by_noise_db = floor_db + ABOVE_FLOOR_DB
    speaks: np.ndarray = level_db > np.maximum(by_speech_db, by_noise_db)
    return speaks


def levels_db(samples: np.ndarray, frame_samples: int) -> np.ndarray:
    """Root mean square of every whole frame of (n,) samples, in dB relative to full scale."""
    num_frames = len(samples) // frame_samples
    frames = samples[: num_frames * frame_samples].reshape(num_frames, frame_samples)
    power = np.square(frames, dtype=np.float64).mean(1)
    # The constant keeps the logarithm of digital silence finite.
    return 10 * np.log10(power + 1e-12)


def _running_minimum(values: np.ndarray, width: int) -> np.ndarray:
    """(T,) minimum of each value and the `width` - 1 values before it."""
    padded = np.concatenate([np.full(width - 1, np.inf), values])
    return np.lib.stride_tricks.sliding_window_view(padded, width).min(1)
