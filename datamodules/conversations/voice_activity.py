"""Speech of a channel without a transcript, by its level."""

import numpy as np

from datamodules.conversations.conversation import Side, Span
from datamodules.conversations.units import FLOAT_SLACK_S, joined_spans
from datamodules.sources.audio import read_power

FRAME_S = 0.02
BELOW_LOUD_DB = 30.0
"""Level of speech below that of the loudest frames, down to which it counts as speech."""
LOUD_PERCENTILE = 99
MIN_LEVEL_DB = -55.0
"""Level of full scale below which nothing is speech."""
MIN_SPEECH_S = 0.1
"""A shorter sound is a click."""


def speech_spans(side: Side, duration_s: float) -> list[Span]:
    """Find the speech of one side of a conversation.

    Args:
        side: its channel.
        duration_s: length of the conversation.

    Returns:
        Begin and end of sounds that are divided by at least 0.2 s of quiet.

    Raises:
        UnusableAudio: the sound file is missing, broken or silent, or lacks the channel.
    """
    power, frame_s = read_power(side.audio, FRAME_S, side.start_s, duration_s, side.channel)
    return spans_of(power, frame_s)


def spans_of(power: np.ndarray, frame_s: float) -> list[Span]:
    """Find speech in the power of frames.

    Args:
        power: (num_frames,) mean square of each frame.
        frame_s: length of a frame in seconds.
    """
    if not len(power):
        return []
    level_db = 10 * np.log10(power + 1e-12)
    # Relative to the channel, since recordings differ in level by tens of decibels.
    loud_db = np.percentile(level_db, LOUD_PERCENTILE)
    threshold_db = max(loud_db - BELOW_LOUD_DB, MIN_LEVEL_DB)
    loud_frames = np.flatnonzero(level_db > threshold_db)
    spans = joined_spans((frame * frame_s, (frame + 1) * frame_s) for frame in loud_frames.tolist())
    # Sums of decimal times miss the shortest span by rounding.
    shortest_s = MIN_SPEECH_S - FLOAT_SLACK_S
    return [(start_s, end_s) for start_s, end_s in spans if end_s - start_s >= shortest_s]
