"""Sound files of conversations: headers, and whether each channel is that of its side."""

import functools
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from datamodules.conversations.conversation import (
    TIME_SLACK_S,
    Conversation,
    Side,
    Span,
    SpokenTurn,
    problem_of,
)
from datamodules.conversations.voice_activity import FRAME_S
from datamodules.corpus import UnusableAudio
from datamodules.sources.audio import read_power, sound_shape
from datamodules.sources.manifest_entry import UNUSABLE, Skipped

NUM_CACHED_HEADERS = 1024
"""Headers that are kept, since listeners of one recording follow each other."""
COMPARED_S = 30.0
"""Seconds of a conversation in which levels are compared."""
MIN_COMPARED_S = 1.0
"""Seconds that each side must speak alone in them."""
CLEARLY_LOUDER = 10.0
"""Ratio of powers, 10 dB: bleed of the other side is quieter than that."""


def check(
    items: Iterable[Conversation | Skipped],
) -> tuple[list[Conversation], list[Skipped]]:
    """Separate conversations whose turns and sound files are sound from all others.

    Of sound files the header and COMPARED_S seconds are read.
    """
    conversations = []
    skipped = []
    ids: set[str] = set()
    for item in items:
        if isinstance(item, Skipped):
            skipped.append(item)
            continue
        problem = problem_of(item) or audio_problem(item) or exchange_problem(item)
        if item.id in ids:
            problem = "another conversation has this id; give each its own"
        if problem:
            skipped.append(Skipped(UNUSABLE, f"{item.user.audio}: {item.id}: {problem}"))
        else:
            conversations.append(item)
            ids.add(item.id)
    return conversations, skipped


def audio_problem(conversation: Conversation) -> str | None:
    """Phrase about a sound file that lacks a channel or ends early; None: there is none."""
    for name, side in (("user", conversation.user), ("agent", conversation.agent)):
        if side is not None:
            problem = side_problem(side, conversation.duration_s)
            if problem:
                return f"{name}: {problem}"
    return None


def exchange_problem(conversation: Conversation) -> str | None:
    """Phrase with a remedy about channels that are exchanged; None: they seem right.

    They are where each side is louder while the other one speaks. Levels are compared where one
    alone speaks, in COMPARED_S seconds from the first turn on, of plain files.
    """
    user, agent = conversation.user, conversation.agent
    if agent is None or not isinstance(user.audio, Path) or not isinstance(agent.audio, Path):
        return None
    first_s = max(0.0, min((turn.start_s for turn in conversation.turns), default=0.0))
    window = (first_s, min(first_s + COMPARED_S, conversation.duration_s))
    is_user, is_agent = [_is_spoken(conversation.of(who), window) for who in ("user", "agent")]
    user_alone, agent_alone = is_user & ~is_agent, is_agent & ~is_user
    if min(user_alone.sum(), agent_alone.sum()) * FRAME_S < MIN_COMPARED_S:
        return None
    try:
        in_user, in_agent = [_power(side, window, len(is_user)) for side in (user, agent)]
    except UnusableAudio:
        # A side that is silent in the window cannot be compared.
        return None
    is_user_wrong = in_user[agent_alone].mean() > CLEARLY_LOUDER * in_user[user_alone].mean()
    is_agent_wrong = in_agent[user_alone].mean() > CLEARLY_LOUDER * in_agent[agent_alone].mean()
    if is_user_wrong and is_agent_wrong:
        return (
            "each channel is louder while the other side speaks: the channels, or the speakers of "
            "the turns, are exchanged; correct which channel is whose"
        )
    return None


def _is_spoken(turns: Iterable[SpokenTurn], window: Span) -> np.ndarray:
    """(num_frames,) bool: whether a turn of one side sounds."""
    spoken = np.zeros(int((window[1] - window[0]) / FRAME_S), bool)
    for turn in turns:
        start = max(0, round((turn.start_s - window[0]) / FRAME_S))
        stop = max(0, round((turn.end_s - window[0]) / FRAME_S))
        spoken[start:stop] = True
    return spoken


# Both listeners of a recording compare the same two channels, one after the other.
@functools.lru_cache(maxsize=2)
def _power(side: Side, window: Span, num_frames: int) -> np.ndarray:
    """(num_frames,) mean square of each frame of a window; zeros after the end of the sound."""
    start_s, end_s = window
    power, _ = read_power(
        side.audio, FRAME_S, side.start_s + start_s, end_s - start_s, side.channel
    )
    padded = np.zeros(num_frames)
    count = min(num_frames, len(power))
    padded[:count] = power[:count]
    return padded


def side_problem(side: Side, duration_s: float) -> str | None:
    """Phrase with a remedy about one side of a conversation; None: its sound file is as it should be.

    Sounds in shards and tables are not looked at, since all of one would have to be read.
    """
    path = side.audio
    if not isinstance(path, Path):
        return None
    try:
        file_s, num_channels = _shape(path)
    except UnusableAudio as error:
        return str(error)
    if side.channel is not None and side.channel >= num_channels:
        return (
            f"{path} has {num_channels} channels, counted from 0, and no channel "
            f"{side.channel}; correct the channel"
        )
    missing_s = side.start_s + duration_s - file_s
    if missing_s > TIME_SLACK_S:
        return (
            f"{path} ends at {file_s:.2f} s, {missing_s:.2f} s before the conversation does; "
            "correct duration_s or start_s, or fetch the file again"
        )
    return None


@functools.lru_cache(maxsize=NUM_CACHED_HEADERS)
def _shape(path: Path) -> tuple[float, int]:
    return sound_shape(path)
