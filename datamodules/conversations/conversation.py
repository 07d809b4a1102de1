"""Recorded conversations of two sides, as one of them hears the other.

A conversation is read from a line of a manifest; `manifest` reads and writes it. Times are seconds
on one clock that starts with the audio.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

from datamodules.dialogue.turns import RULES, Kind
from datamodules.sources.audio_sources import AudioSource

Who = Literal["user", "agent"]
AgentKind = Literal["answer", "backchannel", "other"]
Span = tuple[float, float]
"""Begin and end in seconds."""

AGENT_KINDS: tuple[AgentKind, ...] = ("answer", "backchannel", "other")
"""Kinds of an agent's turns; `other` is what takes no floor, such as noise."""
MAY_OVERLAP = frozenset(["backchannel", "background_speech", "noise", "other"])
"""Kinds of turns that may overlap another turn of the same side."""
TIME_SLACK_S = 0.05
"""Seconds by which turns may pass the end of the audio or overlap: annotations are rounded."""


@dataclasses.dataclass(frozen=True)
class Side:
    """Where one side of a conversation is heard."""

    audio: AudioSource
    channel: int | None
    """Channel of the sound file, from 0; None: the mean of all channels."""
    start_s: float = 0.0
    """Time of the conversation's beginning within the sound."""


@dataclasses.dataclass(frozen=True)
class SpokenTurn:
    """Something that one side says or lets be heard."""

    who: Who
    start_s: float
    end_s: float
    text: str = ""
    """Normalised as `spoken_text` does; empty: unknown or wordless."""
    kind: Kind | AgentKind | None = None
    """Of the user a `Kind`, of the agent an `AgentKind`; None: the rules of `turn_taking` decide."""
    answered: bool | None = None
    """Of the user: whether somebody replies at its end; None: the rules decide."""
    to: int | None = None
    """Of the agent: index of the user's turn to which it replies; None: unknown."""
    pauses: tuple[Span, ...] = ()
    """Silences within the turn, in order."""
    speaker: str = ""
    """Empty: unknown."""
    words: tuple[tuple[str, float, float], ...] | None = None
    """Word, its begin and end in seconds; None: unknown."""
    label: str | None = None
    """The corpus's own label, unchanged."""


@dataclasses.dataclass(frozen=True)
class Conversation:
    """A conversation as one listener hears it."""

    id: str
    split: str | None
    """train, valid or test; None: not assigned yet."""
    source: str
    """Name of the corpus."""
    licence: str
    """SPDX identifier or name; empty: unknown."""
    language: str
    """BCP-47; empty: unknown."""
    duration_s: float
    user: Side
    """What the listener's microphone hears."""
    agent: Side | None
    """What the other side says; None: not recorded, or from several people."""
    turns: tuple[SpokenTurn, ...]
    """By `start_s`."""
    excluded: tuple[Span, ...] = ()
    """Spans of which nothing is known: no loss, no score."""

    def of(self, who: Who) -> list[SpokenTurn]:
        """The turns of one side."""
        return [turn for turn in self.turns if turn.who == who]

    @property
    def speakers(self) -> frozenset[str]:
        """Names of everybody who is known to speak."""
        return frozenset(turn.speaker for turn in self.turns if turn.speaker)


def problem_of(conversation: Conversation) -> str | None:
    """Find what makes a conversation unusable, without reading audio.

    Returns:
        A phrase with a remedy; None: the conversation is sound.
    """
    if not conversation.duration_s > 0:
        return f"duration_s={conversation.duration_s:g} must be over 0; give the audio's length"
    for number, turn in enumerate(conversation.turns):
        problem = _turn_problem(number, turn, conversation)
        if problem:
            return problem
    for start_s, end_s in conversation.excluded:
        if not 0 <= start_s < end_s:
            return f"excluded [{start_s:g}, {end_s:g}] must end after it begins; correct it"
    return _overlap(conversation.of("user")) or _overlap(conversation.of("agent"))


def _turn_problem(number: int, turn: SpokenTurn, conversation: Conversation) -> str | None:
    name = f"turn {number} ({turn.who})"
    if turn.end_s <= turn.start_s:
        return f"{name}: end_s={turn.end_s:g} must be after start_s={turn.start_s:g}; correct it"
    end_of_audio_s = conversation.duration_s + TIME_SLACK_S
    if turn.start_s < -TIME_SLACK_S or turn.end_s > end_of_audio_s:
        return (
            f"{name}: [{turn.start_s:g}, {turn.end_s:g}] lies outside the audio of "
            f"{conversation.duration_s:g} s; correct the times, or the audio's start_s"
        )
    kinds: Iterable[str] = RULES if turn.who == "user" else AGENT_KINDS
    if turn.kind is not None and turn.kind not in kinds:
        return f"{name}: kind={turn.kind!r} is none of {', '.join(kinds)}; correct it, or give null"
    if turn.to is not None and not _is_earlier_user_turn(turn, conversation.turns):
        return f"{name}: to={turn.to} must be the index of an earlier turn of the user; correct it"
    return None


def _is_earlier_user_turn(turn: SpokenTurn, turns: Sequence[SpokenTurn]) -> bool:
    if turn.who != "agent" or turn.to is None or not 0 <= turn.to < len(turns):
        return False
    replied = turns[turn.to]
    return replied.who == "user" and replied.start_s < turn.start_s


def _overlap(turns: Sequence[SpokenTurn]) -> str | None:
    """Phrase about turns of one side that overlap although nobody says two things at a time."""
    previous: SpokenTurn | None = None
    for turn in turns:
        if turn.kind in MAY_OVERLAP:
            continue
        if previous and turn.start_s < previous.end_s - TIME_SLACK_S:
            return (
                f"turns of the {turn.who} overlap: [{previous.start_s:g}, {previous.end_s:g}] and "
                f"[{turn.start_s:g}, {turn.end_s:g}]; correct the times, or mark one as "
                "backchannel, background_speech or noise"
            )
        previous = turn
    return None
