"""Values of parameters and scores: which are equal, and how they are written."""

from collections.abc import Iterable
from typing import Any

SHARES = (
    "wer",
    "wer_voices",
    "wer_people",
    "cer",
    "accuracy",
    "exact_match",
    "f1",
    "recall",
    "precision",
    "share",
)
"""Endings of metrics that are shown in percent."""


def is_number(value: Any) -> bool:
    """Whether a value is a number; booleans are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def are_numbers(values: Iterable[Any]) -> bool:
    """Whether all values are numbers; true if there are none."""
    return all(is_number(value) for value in values)


def distinct(values: Iterable[Any]) -> list[Any]:
    """Each value once: numbers in ascending order, other values in the order of the input."""
    # Values may be lists, which a set cannot hold.
    unique: list[Any] = []
    for value in values:
        if value not in unique:
            unique.append(value)
    if are_numbers(unique):
        return sorted(unique)
    return unique


def is_share(metric: str) -> bool:
    """Whether a metric is shown in percent."""
    return metric.endswith(SHARES)


def format_score(metric: str, value: float) -> str:
    """A score in percent if the metric is a share, else with four digits."""
    if is_share(metric):
        return f"{100 * value:.2f} %"
    return f"{value:.4g}"


def format_difference(metric: str, difference: float) -> str:
    """Size of a difference of two scores; that of two percentages is in points."""
    if is_share(metric):
        return f"{100 * abs(difference):.2f} points"
    return f"{abs(difference):.3g}"


def format_tick(metric: str, value: float) -> str:
    """Label of a tick on an axis of scores."""
    if is_share(metric):
        return f"{100 * value:.3g} %"
    return f"{value:.4g}"
