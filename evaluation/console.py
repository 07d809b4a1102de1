"""Progress and tables of scores on the terminal, and JSON lines."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track
from rich.table import Table

from evaluation.record import ScoreValue
from evaluation.units import unit_of

T = TypeVar("T")
MIN_WIDTH = 120
"""Columns of the screen, even where the terminal reports fewer."""


def wide_console() -> Console:
    """Console with at least `MIN_WIDTH` columns."""
    return Console(width=max(MIN_WIDTH, Console().width))


def with_progress(items: Iterable[T], doing: str, total: int | None = None) -> Iterable[T]:
    """The items, with a progress bar on stderr; with a single line if that is not a terminal.

    Args:
        items: to be iterated over.
        doing: label of the bar.
        total: number of items; needed if `items` has no length.
    """
    if total is None and isinstance(items, Sequence):
        total = len(items)
    # On stderr, so that the scores on stdout can be redirected.
    console = Console(stderr=True)
    if console.is_terminal:
        return track(items, doing, total=total, console=console)
    # A bar would fill a log file with control characters.
    console.print(f"{doing}: {total}")
    return track(items, doing, total=total, console=console, disable=True)


def write_lines(file: Path, lines: Iterable[Any]) -> None:
    """Write a JSONL file: one JSON value per line."""
    texts = [json.dumps(line) + "\n" for line in lines]
    file.write_text("".join(texts))


def print_scores(scores: Mapping[str, ScoreValue], title: str) -> dict[str, float]:
    """Print scores as a table and return their values."""
    console = wide_console()
    console.rule(title, align="left")
    console.print(score_table(scores))
    return {name: score.value for name, score in scores.items()}


def score_table(scores: Mapping[str, ScoreValue]) -> Table:
    """Table of name, value and number of cases."""
    table = Table("", "", "of", box=None)
    table.columns[1].justify = "right"
    table.columns[2].justify = "right"
    for name, score in scores.items():
        table.add_row(name, _format_value(name, score.value), f"{score.num_cases:,}")
    return table


def _format_value(name: str, value: float) -> str:
    """A value in the unit that its name tells, see `unit_of`. The unit itself is in the name."""
    unit = unit_of(name)
    if unit in ("bytes", "count"):
        return f"{value:,.0f}"
    if unit == "share":
        return f"{value:.1%}"
    return f"{value:.3g}"
