"""A conversation of two people -> what each of them, as the user, hears and is heard to say."""

import dataclasses
from collections.abc import Iterator, Sequence

from datamodules.conversations.conversation import (
    AgentKind,
    Conversation,
    Side,
    Span,
    SpokenTurn,
)
from datamodules.conversations.turn_taking import OPENING_KINDS
from datamodules.conversations.units import joined_spans


@dataclasses.dataclass(frozen=True)
class Participant:
    """One person of a conversation."""

    side: Side
    turns: Sequence[SpokenTurn]
    """As the user, by time."""
    excluded: tuple[Span, ...] = ()
    """Spans of which nothing is known while this person is the user."""


@dataclasses.dataclass(frozen=True)
class Origin:
    """Fields that all conversations of one recording share."""

    id: str
    """Of the recording; listeners get numbers after it."""
    source: str
    duration_s: float
    split: str | None = None
    licence: str = ""
    language: str = ""


def conversation_of(
    origin: Origin,
    id: str,
    user: Participant,
    agent: Side | None,
    agent_turns: Sequence[SpokenTurn] = (),
) -> Conversation:
    """Conversation with one listener.

    Args:
        origin: fields of the recording.
        id: of the conversation.
        user: whom the microphone hears.
        agent: audio of the other side; None: there is none.
        agent_turns: turns of the other side, as the agent's.
    """
    # Both are by time; sorting keeps the order of those that begin together.
    turns = sorted([*user.turns, *agent_turns], key=lambda turn: turn.start_s)
    return Conversation(
        id=id,
        split=origin.split,
        source=origin.source,
        licence=origin.licence,
        language=origin.language,
        duration_s=origin.duration_s,
        user=user.side,
        agent=agent,
        turns=tuple(turns),
        excluded=user.excluded,
    )


def both_listeners(
    origin: Origin, participants: tuple[Participant, Participant]
) -> Iterator[Conversation]:
    """Conversations of two people, each as the user."""
    for number, user in enumerate(participants):
        partner = participants[1 - number]
        agent_turns = [as_agent(turn) for turn in partner.turns]
        yield conversation_of(origin, f"{origin.id}-{number + 1}", user, partner.side, agent_turns)


def every_listener(origin: Origin, participants: Sequence[Participant]) -> Iterator[Conversation]:
    """Conversations of more than two people, each as the user and all others as one agent.

    The agent has no audio, since its voices are in several channels.
    """
    for number, user in enumerate(participants):
        others = [*participants[:number], *participants[number + 1 :]]
        agent_turns = _together(others)
        yield conversation_of(origin, f"{origin.id}-{number + 1}", user, None, agent_turns)


def as_agent(turn: SpokenTurn) -> SpokenTurn:
    """A turn of the user as one of the agent."""
    kind: AgentKind | None = None
    if turn.kind == "backchannel":
        kind = "backchannel"
    elif turn.kind in OPENING_KINDS:
        kind = "answer"
    elif turn.kind is not None:
        kind = "other"
    return dataclasses.replace(turn, who="agent", kind=kind, answered=None, to=None)


def _together(participants: Sequence[Participant]) -> list[SpokenTurn]:
    """Turns of several people as those of one, joined where they overlap."""
    turns = [turn for participant in participants for turn in participant.turns]
    joined = []
    for start_s, end_s in joined_spans((turn.start_s, turn.end_s) for turn in turns):
        inside = [turn for turn in turns if start_s <= turn.start_s < end_s]
        text = " ".join(turn.text for turn in inside if turn.text)
        speaker = inside[0].speaker
        joined.append(SpokenTurn("agent", start_s, end_s, text, speaker=speaker))
    return joined
