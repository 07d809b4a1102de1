"""Which of two speakers holds the floor, from the levels of their channels."""

from collections.abc import Mapping

import numpy as np

from evaluation.duplex.systems.energy import FRAME_S, MIN_SPEECH_S, speech_frames
from evaluation.duplex.systems.silence import silence_after_speech_s
from evaluation.duplex.turnbench import SPEAKERS

KEPT_S = 0.3
"""A speaker still holds the floor this long after the latest sound, as between words."""


def holders(channels: Mapping[int, np.ndarray], rate_hz: int) -> np.ndarray:
    """Speaker who holds the floor at the end of each frame of 20 ms; 0 for nobody.

    Whoever speaks while nobody does takes the floor, and keeps it until silent for `KEPT_S`. So
    someone who begins while the other speaks does not hold it until the other is silent.

    Args:
        channels: speaker -> (n,) samples; equally many.
        rate_hz: their sample rate.

    Returns:
        (T,) integers. Only earlier audio decides.
    """
    # (T,) for each speaker; both have the same frames.
    silences = []
    for speaker in SPEAKERS:
        speaks = speech_frames(channels[speaker], rate_hz)
        silences.append(silence_after_speech_s(speaks, FRAME_S, MIN_SPEECH_S))
    # NaN: not spoken yet.
    silences_s = np.nan_to_num(np.stack(silences), nan=np.inf)  # (2, T)
    speaks_now = silences_s == 0
    holder = 0
    result = []
    for frame in range(silences_s.shape[1]):
        if holder and silences_s[holder - 1, frame] >= KEPT_S:
            holder = 0
        # Of two who begin in the same frame the first one gets it: there is no better rule.
        if not holder and speaks_now[:, frame].any():
            holder = SPEAKERS[int(np.argmax(speaks_now[:, frame]))]
        result.append(holder)
    return np.array(result, dtype=np.int64)


def held_by(holder: np.ndarray, speaker: int, times_s: np.ndarray) -> np.ndarray:
    """Whether a speaker holds the floor at some times.

    Args:
        holder: what `holders` returns.
        speaker: 1 or 2.
        times_s: (N,) ends of frames of any length.
    """
    # Nobody holds the floor before the end of the first frame.
    known = np.concatenate([[0], holder])
    num_frames = np.floor(times_s / FRAME_S + 1e-6).astype(int)
    latest = np.minimum(num_frames, len(holder))
    held: np.ndarray = known[latest] == speaker
    return held
