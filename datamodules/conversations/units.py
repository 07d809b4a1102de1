"""Turns of a conversation -> inter-pausal units: speech between silences of at least 0.2 s."""

import bisect
import dataclasses
from collections.abc import Iterable

from datamodules.conversations.conversation import Conversation, Span, SpokenTurn, Who

MIN_SILENCE_S = 0.2
"""Shortest silence that divides speech into units (arXiv 2203.16502)."""
FLOAT_SLACK_S = 1e-6
"""Sums of decimal times miss the shortest silence by rounding."""


@dataclasses.dataclass(frozen=True)
class Unit:
    """Speech of one side between two silences, or a whole turn that the corpus labels."""

    start_s: float
    end_s: float
    text: str
    turns: tuple[SpokenTurn, ...]
    """Turns of which it consists, wholly or in part."""

    @property
    def first(self) -> SpokenTurn:
        """The turn in which it begins."""
        return self.turns[0]

    @property
    def last(self) -> SpokenTurn:
        """The turn in which it ends."""
        return self.turns[-1]


def units_of(conversation: Conversation, who: Who) -> list[Unit]:
    """Return the units of one side by time.

    A turn with a kind of its own is one unit. The others are divided at their pauses or between
    their words, and joined over shorter silences.
    """
    units: list[Unit] = []
    for turn in conversation.of(who):
        for unit in _units_of_turn(turn):
            previous = units[-1] if units else None
            if previous and _is_joined(previous, unit):
                units[-1] = _join(previous, unit)
            else:
                units.append(unit)
    return units


def joined_spans(spans: Iterable[Span], min_silence_s: float = MIN_SILENCE_S) -> list[Span]:
    """Join spans that overlap or are divided by less than a silence, by their beginning."""
    joined: list[Span] = []
    for start_s, end_s in sorted(spans):
        if joined and start_s - joined[-1][1] < min_silence_s - FLOAT_SLACK_S:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end_s))
        else:
            joined.append((start_s, end_s))
    return joined


def _units_of_turn(turn: SpokenTurn) -> list[Unit]:
    if turn.kind is not None:
        return [Unit(turn.start_s, turn.end_s, turn.text, (turn,))]
    # Times of words are more exact than the annotated pauses.
    if turn.words:
        return _units_of_words(turn)
    starts_s = [turn.start_s, *[end_s for _, end_s in turn.pauses]]
    ends_s = [*[start_s for start_s, _ in turn.pauses], turn.end_s]
    units = []
    for start_s, end_s in zip(starts_s, ends_s, strict=True):
        # Which words are before a pause is not known.
        units.append(Unit(start_s, end_s, turn.text, (turn,)))
    return units


def _units_of_words(turn: SpokenTurn) -> list[Unit]:
    assert turn.words is not None
    units = []
    for start_s, end_s in joined_spans((start_s, end_s) for _, start_s, end_s in turn.words):
        inside = [word for word, word_s, _ in turn.words if start_s <= word_s < end_s]
        units.append(Unit(start_s, end_s, " ".join(inside), (turn,)))
    return units


def _is_joined(previous: Unit, unit: Unit) -> bool:
    if previous.last.kind is not None or unit.first.kind is not None:
        return False
    # Given ends of turns remain ends.
    if previous.last is not unit.first and previous.last.answered is not None:
        return False
    return unit.start_s - previous.end_s < MIN_SILENCE_S - FLOAT_SLACK_S


def _join(previous: Unit, unit: Unit) -> Unit:
    same_turn = previous.last is unit.first
    turns = previous.turns if same_turn else (*previous.turns, *unit.turns)
    # Units of one turn whose words have no times hold its whole text already.
    text = previous.text
    if unit.text != previous.text or not same_turn:
        text = f"{previous.text} {unit.text}".strip()
    return Unit(previous.start_s, max(previous.end_s, unit.end_s), text, turns)


class Timeline:
    """Units of one side that do not overlap, for questions about points in time."""

    def __init__(self, units: Iterable[Unit]):
        self.units = sorted(units, key=lambda unit: unit.start_s)
        self._starts_s = [unit.start_s for unit in self.units]

    def starting_after(self, time_s: float) -> Unit | None:
        """First unit that begins after a time; None: there is none."""
        index = bisect.bisect_right(self._starts_s, time_s)
        return self.units[index] if index < len(self.units) else None

    def started_before(self, time_s: float) -> Unit | None:
        """Last unit that begins before a time; None: there is none."""
        index = bisect.bisect_left(self._starts_s, time_s)
        return self.units[index - 1] if index else None

    def starting_within(self, span: Span) -> list[Unit]:
        """Units that begin at or after the begin of a span and before its end."""
        first = bisect.bisect_left(self._starts_s, span[0])
        stop = bisect.bisect_left(self._starts_s, span[1])
        return self.units[first:stop]

    def has_within(self, span: Span) -> bool:
        """Whether a unit overlaps a span."""
        unit = self.started_before(span[1])
        return unit is not None and unit.end_s > span[0]
