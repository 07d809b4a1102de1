"""Contents of a scorecard: the scores of each run, their settings, and what is missing."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Scores = Mapping[str, float | None]
"""Score key -> value; None for a score that could not be computed."""


class SavedScores(NamedTuple):
    """The scores of one command."""

    scores: Scores
    settings: Mapping[str, Any]
    """Everything that the scores depend on: weights, options, environment."""


class Gap(NamedTuple):
    """A score that is missing."""

    name: str
    reason: str
    command: str = ""
    """Command that computes the score; empty if none does."""


@dataclasses.dataclass(frozen=True)
class Card:
    """One finished run on the scorecard."""

    name: str
    config: Mapping[str, Any]
    """Configuration with dotted keys."""
    saved: Mapping[str, SavedScores]
    """Scores by command; `training` holds the summary of the training."""
    gaps: Sequence[Gap]

    def value(self, command: str, key: str) -> float | None:
        """Value of a score, or None if the run does not have it."""
        if command not in self.saved:
            return None
        return self.saved[command].scores.get(key)


class CardRow(NamedTuple):
    """A row of a table with one number for each run."""

    command: str
    """Command that computes the score."""
    key: str
    label: str
    better: int = 0
    """-1: lower is better, 1: higher is better, 0: neither."""


class Cell(NamedTuple):
    """A table cell with a large number and a small explanation."""

    value: str
    details: str


@dataclasses.dataclass(frozen=True)
class Section:
    """A table of the page with its heading. It has either rows or cells."""

    title: str
    rows: Sequence[CardRow] = ()
    cells: Mapping[str, Sequence[Cell]] = dataclasses.field(default_factory=dict)
    """Name in the first column -> one cell for each run."""
    first_column: str = ""
    warning_html: str = ""
    note_html: str = ""


UNITS = {"s": "s", "ms": "ms", "gib": "GiB", "hour": ""}
"""Ending of a score key -> unit on the page."""
BYTE_UNITS = ("B", "kB", "MB", "GB")
COUNT_UNITS = ("", "k", "M", "G")


def format_score(key: str, value: float | None) -> str:
    """Format a score by the unit at the end of its key; without a unit it is a share in percent."""
    if value is None:
        return ""
    unit = key.rsplit("_", 1)[-1]
    if unit == "bytes" or key.endswith("bytes_per_s"):
        return format_scaled(value, BYTE_UNITS)
    if unit == "parameters" or key.startswith("params/"):
        return format_scaled(value, COUNT_UNITS).strip()
    if unit in UNITS:
        digits = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
        return f"{digits} {UNITS[unit]}".strip()
    return f"{100 * value:.1f} %"


def format_scaled(value: float, units: Sequence[str]) -> str:
    """Format a number with three digits and a unit that stands for a power of a thousand."""
    power = 0
    # 999.5 would be rounded to 1000, so it belongs to the next unit.
    while abs(value) >= 999.5 and power < len(units) - 1:
        value /= 1000
        power += 1
    return f"{value:.3g} {units[power]}"


def best_cards(cards: Sequence[Card], row: CardRow) -> set[str]:
    """Names of the runs with the best value of a row.

    The set is empty if all values are equal, or if neither direction is better.
    """
    values: dict[str, float] = {}
    for card in cards:
        value = card.value(row.command, row.key)
        if value is not None:
            values[card.name] = value
    if row.better == 0 or len(set(values.values())) < 2:
        return set()
    best = max(row.better * value for value in values.values())
    return {name for name, value in values.items() if row.better * value == best}


def flat_scores(cards: Sequence[Card]) -> dict[str, float | None]:
    """All scores by `<command>/<key>`, preceded by the run's name if there are several runs."""
    values: dict[str, float | None] = {}
    for card in cards:
        prefix = f"{card.name}/" if len(cards) > 1 else ""
        for command, saved in card.saved.items():
            for key, value in saved.scores.items():
                values[f"{prefix}{command}/{key}"] = value
    return values


def differing_settings(cards: Sequence[Card]) -> dict[str, list[str]]:
    """Settings in which the same scores of several runs differ, weights excepted.

    Returns:
        `<command>: <setting>` -> one value for each run, empty for a run without that command.
    """
    differing: dict[str, list[str]] = {}
    commands = dict.fromkeys(command for card in cards for command in card.saved)
    for command in commands:
        names: set[str] = set()
        for card in cards:
            if command in card.saved:
                names |= card.saved[command].settings.keys()
        for name in sorted(names - {"weights"}):
            values = _setting_values(cards, command, name)
            if values is not None:
                differing[f"{command}: {name}"] = values
    return differing


def _setting_values(cards: Sequence[Card], command: str, name: str) -> list[str] | None:
    """A setting of every run as text; None if all runs that have the command agree."""
    texts = []
    distinct = set()
    for card in cards:
        if command not in card.saved:
            texts.append("")
            continue
        value = card.saved[command].settings.get(name)
        texts.append(str(value))
        distinct.add(repr(value))
    return texts if len(distinct) > 1 else None


def differing_config(cards: Sequence[Card]) -> dict[str, list[str]]:
    """Configuration keys in which runs differ -> one value for each run."""
    differing: dict[str, list[str]] = {}
    names = {name for card in cards for name in card.config}
    for name in sorted(names):
        values = [str(card.config.get(name, "not set")) for card in cards]
        if len(set(values)) > 1:
            differing[name] = values
    return differing
