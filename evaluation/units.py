"""Units of scores, and how numbers in them are written."""

from collections.abc import Callable, Sequence

BYTE_UNITS = ("B", "kB", "MB", "GB")
COUNT_UNITS = ("", "k", "M", "G")


def format_scaled(value: float, units: Sequence[str]) -> str:
    """Format a number with three digits and a unit that stands for a power of a thousand."""
    power = 0
    # 999.5 would be rounded to 1000, so it belongs to the next unit.
    while abs(value) >= 999.5 and power < len(units) - 1:
        value /= 1000
        power += 1
    return f"{value:.3g} {units[power]}".strip()


def format_plain(value: float) -> str:
    """Format a number with three significant digits, a large one with all digits before the point."""
    # Three significant digits would show large values in scientific notation.
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _format_share(value: float) -> str:
    percent = 100 * value
    return f"{percent:.1f} %"


UNITS: dict[str, Callable[[float], str]] = {
    "share": _format_share,
    "number": format_plain,
    "count": lambda value: format_scaled(value, COUNT_UNITS),
    "s": lambda value: f"{format_plain(value)} s",
    "ms": lambda value: f"{format_plain(value)} ms",
    "bytes": lambda value: format_scaled(value, BYTE_UNITS),
    "GiB": lambda value: f"{format_plain(value)} GiB",
}
"""Unit -> its text on the scorecard.

share: a fraction, shown in percent. number: a plain number with three digits. count: a large whole
number, shown in thousands or millions.
"""
UNIT_OF_ENDING = {
    "_ms": "ms",
    "_bytes": "bytes",
    "_bytes_per_s": "bytes",
    "_s": "s",
    "_gib": "GiB",
    "_parameters": "count",
    "_factor": "number",
    "_per_hour": "number",
}
"""Ending of a score key -> unit; of several that fit, the first one holds."""


def unit_of(key: str) -> str:
    """Unit of a score that has no row on the scorecard, by the name of its key.

    The endings are those of `UNIT_OF_ENDING`. A key whose last part begins with `num_` is a plain
    number. Everything else is a share.
    """
    for ending, unit in UNIT_OF_ENDING.items():
        if key.endswith(ending):
            return unit
    last_part = key.rpartition("/")[2]
    return "number" if last_part.startswith("num_") else "share"


def format_score(unit: str, value: float | None) -> str:
    """Text of a score on the scorecard; empty for None."""
    return "" if value is None else UNITS[unit](value)
