"""Silence end-pointing: the longer nobody has spoken after speech, the likelier the turn is over."""

import numpy as np

from evaluation.duplex.systems import LONGEST_SILENCE_S
from evaluation.duplex.turn_scores import TurnScores


def silence_scores(speaks: np.ndarray, frame_s: float, min_speech_s: float) -> TurnScores:
    """Scores of frames that hold speech or not.

    Args:
        speaks: (T,) whether each frame holds speech, found without later audio.
        frame_s: length of a frame.
        min_speech_s: speech that a sound must hold to begin a turn; a shorter one is a click.

    Returns:
        `ended` grows from 0 at the end of speech to 1 after `LONGEST_SILENCE_S`, and is 0 before
        there has been any; `addressed` is 1 in speech.
    """
    silences_s = silence_after_speech_s(speaks, frame_s, min_speech_s)
    ended = np.minimum(np.nan_to_num(silences_s, nan=0.0) / LONGEST_SILENCE_S, 1.0)
    times_s = frame_s * np.arange(1, len(speaks) + 1)
    addressed = (silences_s == 0).astype(np.float64)
    return TurnScores(times_s, ended, addressed)


def silence_after_speech_s(speaks: np.ndarray, frame_s: float, min_speech_s: float) -> np.ndarray:
    """Silence at the end of each frame since the latest speech, in seconds.

    Args:
        speaks: (T,) whether each frame holds sound that may be speech.
        frame_s: length of a frame.
        min_speech_s: shorter sounds do not end a silence. So speech ends it only once it has
            lasted this long.

    Returns:
        (T,); 0 during speech, NaN before the first speech.
    """
    silences_s = np.full(len(speaks), np.nan)
    silence_s = np.nan
    sound_s = 0.0
    quiet_s = 0.0
    for index, is_sound in enumerate(speaks):
        if is_sound:
            sound_s += frame_s
            quiet_s = 0.0
        else:
            quiet_s += frame_s
        # Closures of consonants divide the sounds of a word.
        if quiet_s >= min_speech_s:
            sound_s = 0.0
        # Half a frame of slack, since lengths of sounds are multiples of frames.
        is_speech = is_sound and sound_s + frame_s / 2 >= min_speech_s
        silence_s = 0.0 if is_speech else silence_s + frame_s
        silences_s[index] = silence_s
    return silences_s
