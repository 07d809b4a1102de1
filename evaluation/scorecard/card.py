"""What a scorecard shows of a checkpoint: its scores, what they were taken with, and what is missing."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from evaluation.scores import SCORES


class Part(NamedTuple):
    """What one command found."""

    scores: Mapping[str, float | None]
    """None: it cannot be had."""
    settings: Mapping[str, Any]


class Gap(NamedTuple):
    """What is not there."""

    what: str
    why: str
    command: str = ""
    """That makes it; empty: none does."""


@dataclasses.dataclass(frozen=True)
class Card:
    """One checkpoint."""

    name: str
    config: Mapping[str, Any]
    """Flat."""
    parts: Mapping[str, Part]
    """By command, and the summary of its training."""
    gaps: Sequence[Gap]

    def score(self, command: str, name: str) -> float | None:
        part = self.parts.get(command)
        return None if part is None else part.scores.get(name)


class CardRow(NamedTuple):
    """A line of a table: a number of one command."""

    command: str
    score: str
    label: str
    better: int = 0
    """-1: lower is better, 1: higher is better, 0: neither."""


SECTION_ORDER = ("Word error rate", "Conversation", "Speed", "State and size", "Training")
"""Sections that come first; those of other scores follow."""
TRAINING_ROWS = (
    CardRow(
        "training", "test/exact_match", "answers word for word right, one question at a time", 1
    ),
    CardRow(
        "training", "test/state_macro_f1", "state of each slice: macro F1, in its own dialogues", 1
    ),
    CardRow("training", "params/trained", "parameters trained"),
    CardRow("training", "time/total_s", "training time, prerequisite stages included", -1),
    CardRow("training", "memory/peak_gib", "peak memory", -1),
)
"""Rows from the summary of a run."""


def _sections() -> dict[str, tuple[CardRow, ...]]:
    """Section -> rows of all scores, those of `speed` before those of `duplex`."""
    rows: dict[str, list[CardRow]] = {name: [] for name in SECTION_ORDER}
    rows["Training"] += TRAINING_ROWS
    for score in sorted(SCORES.values(), key=lambda score: score.name != "speed"):
        for section, entries in score.sections.items():
            in_section = rows.setdefault(section, [])
            in_section += [CardRow(score.name, *entry) for entry in entries]
    return {name: tuple(entries) for name, entries in rows.items()}


SECTIONS = _sections()
"""Section of a scorecard -> its rows."""
BENCHES = {score.section_of_all: name for name, score in SCORES.items() if score.section_of_all}
"""Sections that show every number of their command."""
UNITS = {"s": "s", "ms": "ms", "gib": "GiB", "hour": ""}


def shown(name: str, value: float | None) -> str:
    """A score as people read it, by the unit that its name ends in; a share where there is none."""
    if value is None:
        return ""
    unit = name.rsplit("_", 1)[-1]
    if unit == "bytes" or name.endswith("bytes_per_s"):
        return scaled(value, ("B", "kB", "MB", "GB"))
    if unit == "parameters" or name.startswith("params/"):
        return scaled(value, ("", "k", "M", "G")).strip()
    if unit in ("s", "ms", "gib", "hour"):
        digits = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        return f"{digits} {UNITS[unit]}".strip()
    return f"{100 * value:.1f} %"


def scaled(value: float, units: Sequence[str]) -> str:
    """Three digits and a power of a thousand."""
    power = 0
    while abs(value) >= 999.5 and power < len(units) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {units[power]}"


def best(cards: Sequence[Card], row: CardRow) -> set[str]:
    """Names of the cards with the best value, where they do not all have it; none of a row without one."""
    values = {card.name: card.score(row.command, row.score) for card in cards}
    found = {name: value for name, value in values.items() if value is not None}
    if not row.better or len(set(found.values())) < 2:
        return set()
    top = max(row.better * value for value in found.values())
    return {name for name, value in found.items() if row.better * value == top}


def flat(cards: Sequence[Card]) -> dict[str, float | None]:
    """All scores by `<command>/<score>`, behind the checkpoint's name where there are several."""
    values: dict[str, float | None] = {}
    for card in cards:
        prefix = f"{card.name}/" if len(cards) > 1 else ""
        for command, part in card.parts.items():
            values |= {f"{prefix}{command}/{name}": value for name, value in part.scores.items()}
    return values


def unlike(cards: Sequence[Card]) -> dict[str, list[str]]:
    """Settings in which scores of the same kind differ between checkpoints, their weights apart: name -> values."""
    found: dict[str, list[str]] = {}
    for command in dict.fromkeys(command for card in cards for command in card.parts):
        settings = [
            card.parts[command].settings if command in card.parts else None for card in cards
        ]
        there = [one for one in settings if one is not None]
        for name in sorted({name for one in there for name in one} - {"weights"}):
            if len({repr(one.get(name)) for one in there}) > 1:
                found[f"{command}: {name}"] = [
                    "" if one is None else str(one.get(name)) for one in settings
                ]
    return found


def differences(cards: Sequence[Card]) -> dict[str, list[str]]:
    """Keys of the configuration in which checkpoints differ: name -> values."""
    names = sorted({name for card in cards for name in card.config})
    values = {name: [str(card.config.get(name, "not set")) for card in cards] for name in names}
    return {name: each for name, each in values.items() if len(set(each)) > 1}
