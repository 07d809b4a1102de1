"""Who holds the floor of a conversation: the user's turns, how they end, and back-channels.

Labels that the corpus gives are kept. The rules for everything else follow the literature:
inter-pausal units, shift and hold (arXiv 2205.09812, 2203.16502), back-channels by length, words
and place (arXiv 2203.00674). What they leave open is excluded from loss and scores.
docs/conversations.md states them in order.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

from datamodules.conversations.conversation import Conversation, Span, SpokenTurn
from datamodules.conversations.units import FLOAT_SLACK_S, Timeline, Unit, units_of
from datamodules.dialogue.turns import RULES, Kind

MAX_BACKCHANNEL_S = 1.0
MAX_BACKCHANNEL_WORDS = 3
NEAR_S = 1.0
"""Seconds within which the other side speaks before a back-channel, and goes on after it."""
MAX_GAP_S = 3.0
"""Longest silence after which the other side's speech counts as a reply, and within a turn."""
MAX_YIELD_S = 1.0
"""Seconds within which an interrupted speaker stops."""
MIN_TAKEN_FLOOR_S = 1.0
"""Seconds that an interrupting speaker goes on alone."""
_WORDS = (
    "ah aha alright awesome cool definitely exactly good gosh gotcha great hm hmm huh i indeed "
    "interesting m mhm mm mmhm mmm nice no oh ok okay really right see sure totally true uh uhhuh "
    "um wow yeah yep yes yup"
)
BACKCHANNEL_WORDS = frozenset(_WORDS.split())
"""Words of back-channels, normalised; "uh-huh" is two of them."""
OPENING_KINDS = frozenset(kind for kind, rule in RULES.items() if rule.foreground)
"""Kinds of the user's turns that hold the floor."""

Ending = Literal["shift", "open", "ignored", "unknown"]
"""After a turn of the user: the other side takes the floor; nobody does, since the turn is not
finished; it was not meant for the listener; or nothing is known."""
Role = Literal["floor", "backchannel", "unclear", "aside", "none"]
"""What a unit does: hold or take the floor; acknowledge; one of both; speak to somebody else; or
nothing, such as noise."""


@dataclasses.dataclass(frozen=True)
class UserTurn:
    """A turn of the user in the foreground."""

    kind: Kind
    start_s: float
    end_s: float
    text: str
    pauses: tuple[Span, ...]
    """Silences within it, in order."""
    ending: Ending
    reply_s: float | None = None
    """Beginning of the other side's reply; None: there is none, or it is not known."""
    unknown_until_s: float | None = None
    """After the ending is open or unknown: beginning of the next turn of anybody."""
    speaker: str = ""
    answer: str | None = None
    """What the corpus gives as the reply to it; None: nothing."""
    reply_text: str = ""
    """Words with which the other side holds the floor until it replies to the next turn."""
    reply_speech_s: float = 0.0
    """Seconds of speech in it."""


@dataclasses.dataclass(frozen=True)
class TurnTaking:
    """What a conversation means for the listener."""

    turns: tuple[UserTurn, ...]
    """By time."""
    backchannels: tuple[Span, ...]
    """The user's."""
    excluded: tuple[Span, ...]
    """Spans of which nothing is known."""


def turn_taking(conversation: Conversation) -> TurnTaking:
    """Apply the rules to a conversation.

    Args:
        conversation: one in which `problem_of` finds no problem.
    """
    return _Floor(conversation).turn_taking()


class _Floor:
    """Units of both sides by their roles."""

    def __init__(self, conversation: Conversation):
        self.conversation = conversation
        self.answers: dict[int, list[str]] = {}
        for turn in conversation.turns:
            if turn.to is not None:
                # By identity: two turns may be equal, and comparing them is slow.
                replied = id(conversation.turns[turn.to])
                self.answers.setdefault(replied, []).append(turn.text)
        users = units_of(conversation, "user")
        agents = units_of(conversation, "agent")
        self.user = self._by_role(users, agents)
        self.agent = self._by_role(agents, users)
        self.agent_floor = Timeline(self.agent["floor"])
        self.agent_unclear = Timeline(self.agent["unclear"])

    def _by_role(self, own: list[Unit], others: list[Unit]) -> dict[Role, list[Unit]]:
        holders = Timeline(other for other in others if _holds_floor(other))
        timeline = Timeline(own)
        by_role: dict[Role, list[Unit]] = {
            "floor": [],
            "backchannel": [],
            "unclear": [],
            "aside": [],
            "none": [],
        }
        for unit in own:
            by_role[self._role(unit, timeline, holders)].append(unit)
        return by_role

    def _role(self, unit: Unit, own: Timeline, holders: Timeline) -> Role:
        kind = unit.first.kind
        if kind is not None:
            return _role_of_kind(kind)
        # What gets a reply is a turn, however short.
        has_known_end = unit.last.answered is not None or self._is_replied(unit)
        if has_known_end or not _is_short(unit):
            return "floor"
        before = holders.started_before(unit.start_s)
        if before is None or before.end_s + NEAR_S <= unit.start_s:
            return "floor"
        # Four of five back-channels lie in the speech of the other side.
        during = holders.started_before(unit.end_s)
        is_covered = during is not None and during.end_s > unit.end_s
        if is_covered and unit.text:
            return "backchannel"
        resuming_s = _start_s(holders.starting_after(unit.end_s))
        own_next_s = _start_s(own.starting_after(unit.start_s))
        resumes = resuming_s - unit.end_s <= NEAR_S and resuming_s < own_next_s
        # In a silence, "yeah" may as well answer a question, after which its speaker goes on.
        return "unclear" if is_covered or resumes else "floor"

    def _is_replied(self, unit: Unit) -> bool:
        return id(unit.last) in self.answers

    def turn_taking(self) -> TurnTaking:
        """Join the user's units to turns and classify beginning and end of each."""
        turns: list[UserTurn] = []
        excluded = list(self.conversation.excluded)
        for units, ending in self._turns():
            turn, unknown = self._user_turn(units, ending)
            turns.append(turn)
            excluded += unknown
        for unit in self.user["aside"]:
            turns.append(_turn_of_unit(unit, "talking_to_other", "ignored"))
        # As turns whose end is unknown, so that the slice after them has no label either.
        for unit in self.user["unclear"]:
            turns.append(_turn_of_unit(unit, "question", "unknown"))
            excluded.append((unit.start_s, unit.end_s))
        turns.sort(key=lambda turn: turn.start_s)
        backchannels = [(unit.start_s, unit.end_s) for unit in self.user["backchannel"]]
        return TurnTaking(
            turns=tuple(self._with_replies(self._with_unknown_silences(turns))),
            backchannels=tuple(backchannels),
            excluded=tuple(sorted(excluded)),
        )

    def _turns(self) -> list[tuple[list[Unit], Ending]]:
        """Units joined over silences in which the other side does not take the floor."""
        floor = self.user["floor"]
        turns: list[tuple[list[Unit], Ending]] = []
        current: list[Unit] = []
        for number, unit in enumerate(floor):
            next_unit = floor[number + 1] if number + 1 < len(floor) else None
            current.append(unit)
            ending = self._ending(unit, next_unit)
            if ending is not None:
                turns.append((current, ending))
                current = []
        return turns

    def _ending(self, unit: Unit, next_unit: Unit | None) -> Ending | None:
        """How a turn ends with a unit; None: the turn goes on with the next unit."""
        # Only the end of a given turn has a label, not that of its parts.
        ends_given_turn = next_unit is None or next_unit.first is not unit.last
        if ends_given_turn and unit.last.answered is not None:
            return "shift" if unit.last.answered else "open"
        if ends_given_turn and self._is_replied(unit):
            return "shift"
        # A reply counts from overlap too: many begin before the end of the turn.
        reply_s = _start_s(self._reply(unit))
        next_s = _start_s(next_unit)
        if reply_s < next_s:
            return "shift" if reply_s - unit.end_s <= MAX_GAP_S else "unknown"
        return None if next_s - unit.end_s <= MAX_GAP_S else "unknown"

    def _reply(self, unit: Unit) -> Unit | None:
        """First unit with which the agent takes the floor from the user, also from overlap."""
        reply = self.agent_floor.starting_after(unit.start_s)
        # What ends within the unit has been talked over, and takes no floor.
        while reply is not None and reply.end_s <= unit.end_s:
            reply = self.agent_floor.starting_after(reply.start_s)
        return reply

    def _user_turn(self, units: list[Unit], ending: Ending) -> tuple[UserTurn, list[Span]]:
        """A turn of the user, and the spans of it of which nothing is known."""
        start_s = units[0].start_s
        end_s = units[-1].end_s
        pauses = _pauses(units)
        excluded = [pause for pause in pauses if self.agent_unclear.has_within(pause)]
        kind: Kind = units[0].first.kind or "question"  # type: ignore[assignment]
        if units[0].first.kind is None:
            yield_s = self._yield_s(start_s, end_s)
            takes_floor = end_s - yield_s >= MIN_TAKEN_FLOOR_S - FLOAT_SLACK_S
            if yield_s > start_s and takes_floor:
                kind = "interruption"
            if yield_s - start_s > MAX_YIELD_S + FLOAT_SLACK_S:
                # Both compete for the floor; who gets it is known only when one has stopped.
                excluded.append((start_s, yield_s if takes_floor else end_s))
                ending = ending if takes_floor else "unknown"
        if kind == "question" and pauses:
            kind = "paused_question"
        reply_s = _start_s(self._reply(units[-1]))
        has_reply = ending == "shift" and reply_s - end_s <= MAX_GAP_S
        turn = UserTurn(
            kind=kind,
            start_s=start_s,
            end_s=end_s,
            # Units of one turn whose words have no times repeat its text.
            text=" ".join(dict.fromkeys(unit.text for unit in units if unit.text)),
            pauses=pauses,
            ending=ending,
            reply_s=reply_s if has_reply else None,
            speaker=units[0].first.speaker,
            answer=self._answer(units[-1].last),
        )
        return turn, excluded

    def _answer(self, turn: SpokenTurn) -> str | None:
        """Words of the agent's turns that the corpus calls replies to a turn; None: there are none."""
        return " ".join(filter(None, self.answers.get(id(turn), []))) or None

    def _yield_s(self, start_s: float, end_s: float) -> float:
        """Time at which the agent, speaking when a turn of the user starts, stops; else its start."""
        under_way = self.agent_floor.started_before(start_s)
        if under_way is None or under_way.end_s <= start_s:
            return start_s
        stop_s = under_way.end_s
        following = self.agent_floor.starting_after(under_way.start_s)
        # After a short silence it has only paused for breath, and goes on.
        while following is not None and following.start_s < min(stop_s + NEAR_S, end_s):
            stop_s = following.end_s
            following = self.agent_floor.starting_after(following.start_s)
        return stop_s

    def _with_replies(self, turns: Sequence[UserTurn]) -> list[UserTurn]:
        """Turns with what the agent says from its reply to that turn until its reply to the next."""
        completed = []
        stop_s: float = math.inf
        for turn in reversed(turns):
            reply_s = turn.reply_s
            if reply_s is not None:
                units = self.agent_floor.starting_within((reply_s, stop_s))
                texts = dict.fromkeys(unit.text for unit in units if unit.text)
                turn = dataclasses.replace(
                    turn,
                    reply_text=" ".join(texts),
                    reply_speech_s=sum(unit.end_s - unit.start_s for unit in units),
                )
                stop_s = reply_s
            completed.append(turn)
        return completed[::-1]

    def _with_unknown_silences(self, turns: Sequence[UserTurn]) -> list[UserTurn]:
        """Turns with the time up to which the silence after an open or unknown end lasts."""
        starts_s = sorted(turn.start_s for turn in turns)
        completed = []
        for turn in turns:
            if turn.ending in ("open", "unknown"):
                later_s = [start_s for start_s in starts_s if start_s > turn.start_s]
                until_s = min(
                    later_s[0] if later_s else math.inf,
                    _start_s(self.agent_floor.starting_after(turn.end_s)),
                    self.conversation.duration_s,
                )
                turn = dataclasses.replace(turn, unknown_until_s=until_s)
            completed.append(turn)
        return completed


def _role_of_kind(kind: str) -> Role:
    """Role of a unit that the corpus labels."""
    if kind == "backchannel":
        return "backchannel"
    if kind == "talking_to_other":
        return "aside"
    return "floor" if kind == "answer" or kind in OPENING_KINDS else "none"


def _holds_floor(unit: Unit) -> bool:
    """Whether a unit, judged by itself, holds the floor."""
    kind = unit.first.kind
    return not _is_short(unit) if kind is None else _role_of_kind(kind) == "floor"


def _is_short(unit: Unit) -> bool:
    """Whether length and words are those of a back-channel; unknown words may be."""
    words = unit.text.split()
    if unit.end_s - unit.start_s > MAX_BACKCHANNEL_S + FLOAT_SLACK_S:
        return False
    return len(words) <= MAX_BACKCHANNEL_WORDS and BACKCHANNEL_WORDS.issuperset(words)


def _start_s(unit: Unit | None) -> float:
    return math.inf if unit is None else unit.start_s


def _turn_of_unit(unit: Unit, kind: Kind, ending: Ending) -> UserTurn:
    speaker = unit.first.speaker
    return UserTurn(kind, unit.start_s, unit.end_s, unit.text, (), ending, speaker=speaker)


def _pauses(units: Sequence[Unit]) -> tuple[Span, ...]:
    """Silences between units, and within those that are labelled turns."""
    pauses: list[Span] = []
    for number, unit in enumerate(units):
        if number:
            pauses.append((units[number - 1].end_s, unit.start_s))
        if unit.first.kind is not None:
            pauses += unit.first.pauses
    return tuple(pauses)
