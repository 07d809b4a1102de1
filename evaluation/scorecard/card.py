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
    unit: str
    """One of `evaluation.units.UNITS`."""
    better: int = 0
    """-1: lower is better, 1: higher is better, 0: neither."""


class Cell(NamedTuple):
    """A table cell with a large number and a small explanation."""

    value: str
    details: str


class SystemsTable(NamedTuple):
    """Scores of runs, baselines and published systems in one table."""

    source: str
    """Where the published numbers are from, and on what data."""
    headings: Sequence[str]
    rows: Mapping[str, Sequence[str]]
    """System -> one text for each heading."""


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
    systems: SystemsTable | None = None
    """The same quantities of other systems."""


def best_cards(cards: Sequence[Card], row: CardRow) -> set[str]:
    """Names of the runs with the best value of a row.

    The set is empty if all values are equal, or if neither direction is better.
    """
    goodness: dict[str, float] = {}
    for card in cards:
        value = card.value(row.command, row.key)
        if value is not None:
            # The sign turns "lower is better" into "higher is better".
            goodness[card.name] = row.better * value
    if row.better == 0 or len(set(goodness.values())) < 2:
        return set()
    best = max(goodness.values())
    return {name for name, value in goodness.items() if value == best}


def flat_scores(cards: Sequence[Card]) -> dict[str, float | None]:
    """All scores by `<command>/<key>`, preceded by the run's name if there are several runs."""
    values: dict[str, float | None] = {}
    for card in cards:
        # Without the name, the keys of a single run are comparable with those of any other.
        prefix = ""
        if len(cards) > 1:
            prefix = f"{card.name}/"
        for command, saved in card.saved.items():
            for key, value in saved.scores.items():
                values[f"{prefix}{command}/{key}"] = value
    return values


def differing_settings(cards: Sequence[Card]) -> dict[str, list[str]]:
    """Settings in which the same scores of several runs differ, weights excepted.

    Returns:
        `<command>: <setting>` -> one value for each run, empty for a run without that command.
    """
    names_of_command: dict[str, set[str]] = {}
    for card in cards:
        for command, saved in card.saved.items():
            names_of_command.setdefault(command, set()).update(saved.settings)
    differing: dict[str, list[str]] = {}
    for command, names in names_of_command.items():
        # Different runs have different weights: that is what is compared, not a caveat.
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
        # As text, since a list is not hashable; `repr` tells the number 1 from the string "1".
        distinct.add(repr(value))
    if len(distinct) < 2:
        return None
    return texts


def differing_config(cards: Sequence[Card]) -> dict[str, list[str]]:
    """Configuration keys in which runs differ -> one value for each run."""
    differing: dict[str, list[str]] = {}
    names: set[str] = set()
    for card in cards:
        names |= card.config.keys()
    for name in sorted(names):
        # Runs of different versions, or with different corpora, do not have the same keys.
        values = [str(card.config.get(name, "not set")) for card in cards]
        if len(set(values)) > 1:
            differing[name] = values
    return differing
