"""Estimated starts of words, for synthesisers that report none."""

import re

import numpy as np

from datamodules.synthetic.espeak import Word

FRAMES_PER_S = 100
"""Levels are measured in frames of 10 ms."""
AUDIBLE_DB = -40.0
"""Frames below this level, relative to the loudest one, count as silence at both ends."""
SEARCH_FRAMES = 10
"""The quietest frame is searched within this distance of the proportional estimate."""


def estimate_words(text: str, samples: np.ndarray, rate_hz: int) -> list[Word]:
    """Estimate where each word of a text begins in its speech.

    A word's share of the audible part is that of its letters; its start is moved to the quietest
    10 ms nearby, where a pause in the sentence does least harm.

    Args:
        text: the sentence.
        samples: (n,) its speech.
        rate_hz: sample rate.

    Returns:
        One entry per word, with strictly rising starts unless the speech is shorter than 10 ms a
        word.
    """
    levels = _frame_levels(samples, rate_hz)
    positions = [match.span() for match in re.finditer(r"\S+", text)]
    estimates = _proportional_frames(positions, levels)
    words = []
    for number, (begin, end) in enumerate(positions):
        start = estimates[number]
        if number:
            start = _quietest_frame(estimates, number, levels)
        words.append(Word(start / FRAMES_PER_S, begin, end - begin))
    return words


def _frame_levels(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """Root mean square (frames,) of each whole 10 ms."""
    frame = rate_hz // FRAMES_PER_S
    num_frames = max(1, len(samples) // frame)
    padded = np.resize(samples, num_frames * frame)
    return np.sqrt(np.mean(padded.reshape(num_frames, frame) ** 2, axis=1))


def _proportional_frames(positions: list[tuple[int, int]], levels: np.ndarray) -> list[int]:
    """First frame of each word if every letter lasts equally long, then the end of the last one."""
    threshold = levels.max() * 10 ** (AUDIBLE_DB / 20)
    [audible] = np.nonzero(levels >= threshold)
    first = int(audible[0])
    num_frames = int(audible[-1]) + 1 - first
    num_letters = positions[-1][1]
    frames = []
    for begin, _ in positions:
        frames.append(first + num_frames * begin // num_letters)
    return [*frames, first + num_frames]


def _quietest_frame(estimates: list[int], number: int, levels: np.ndarray) -> int:
    """The quietest frame near the estimate for a word, closer to it than to its neighbours'."""
    previous, estimate, following = estimates[number - 1 : number + 2]
    # Half-open ranges between midpoints: those of two words do not overlap, so starts rise.
    low = max((previous + estimate + 1) // 2, estimate - SEARCH_FRAMES)
    high = min((estimate + following + 1) // 2, estimate + SEARCH_FRAMES)
    if high <= low:
        return estimate
    return low + int(levels[low:high].argmin())
