"""Sound files of conversations, checked by their headers."""

import functools
from collections.abc import Iterable
from pathlib import Path

from datamodules.conversations.conversation import TIME_SLACK_S, Conversation, Side, problem_of
from datamodules.corpus import UnusableAudio
from datamodules.sources.audio import sound_shape
from datamodules.sources.manifest_entry import UNUSABLE, Skipped

NUM_CACHED_HEADERS = 1024
"""Headers that are kept, since listeners of one recording follow each other."""


def check(
    items: Iterable[Conversation | Skipped],
) -> tuple[list[Conversation], list[Skipped]]:
    """Separate conversations whose turns and sound files are sound from all others.

    Only the headers of sound files are read.
    """
    conversations = []
    skipped = []
    ids: set[str] = set()
    for item in items:
        if isinstance(item, Skipped):
            skipped.append(item)
            continue
        problem = problem_of(item) or audio_problem(item)
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
