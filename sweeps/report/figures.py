"""The figures of a report."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from reporting.figure import INK, LINES, MARKERS, STYLE, WIDTH_IN, svg
from sweeps.report.answer import is_share, shown
from sweeps.report.gather import Gathered, Point
from sweeps.report.statistics import distinct, importance, is_number

STEP = 0.12
"""Between lines that stand beside each other, where values have a place and not a size."""
BETTER_TO_WORSE = LinearSegmentedColormap.from_list("better", ["#2f86d6", "#8a8a8a", "#e0701b"])


def lines(gathered: Gathered) -> str:
    """The score against the parameter across: every point, the mean, and the whole range as a band."""
    file = gathered.file
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 3.9), layout="constrained")
        axis = figure.subplots()
        across = distinct(point.parameters[file.x] for point in gathered.finished)
        values = (
            distinct(point.parameters[file.line] for point in gathered.finished)
            if file.line
            else [None]
        )
        for number, value in enumerate(values):
            own = [
                p
                for p in gathered.finished
                if file.line is None or p.parameters[file.line] == value
            ]
            shift = STEP * (number - (len(values) - 1) / 2)
            _line(
                axis,
                number,
                shift,
                "" if file.line is None else f"{file.line}={value}",
                own,
                across,
                gathered,
            )
        _across(axis, across)
        axis.set(xlabel=file.x, ylabel=file.metric)
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(file.metric, value)))
        axis.grid(axis="y", linewidth=0.8)
        if file.line:
            figure.legend(loc="outside upper left", ncols=2)
        return svg(
            figure,
            "lines",
            f"{file.metric} against {file.x}; the numbers are in the table of settings",
        )


def _line(
    axis: Axes,
    number: int,
    shift: float,
    label: str,
    points: Sequence[Point],
    across: list[Any],
    gathered: Gathered,
) -> None:
    """One line of a grid; of other methods, whose points stand alone, the points."""
    colour, marker = LINES[number % len(LINES)], MARKERS[number % len(MARKERS)]
    ordered = all(map(is_number, across))
    places = [float(value) if ordered else index + shift for index, value in enumerate(across)]
    at = [places[across.index(point.parameters[gathered.file.x])] for point in points]
    scores = [gathered.score(point) for point in points]
    if gathered.file.method != "grid":
        axis.plot(at, scores, marker, color=colour, markersize=5, label=label, linestyle="")
        return
    columns = sorted(set(at))
    groups = [
        [score for x, score in zip(at, scores, strict=True) if x == column] for column in columns
    ]
    means, low, high = (
        [np.mean(g) for g in groups],
        [min(g) for g in groups],
        [max(g) for g in groups],
    )
    axis.plot(
        at,
        scores,
        marker,
        color=colour,
        markersize=3.5,
        alpha=0.55,
        markeredgewidth=0,
        linestyle="",
    )
    axis.plot(
        columns, means, marker=marker, color=colour, linewidth=2, markersize=7, label=label,
        linestyle="-" if ordered else "",
    )  # fmt: skip
    if ordered:
        axis.fill_between(columns, low, high, color=colour, alpha=0.15, linewidth=0)
    else:
        axis.vlines(columns, low, high, color=colour, linewidth=2, alpha=0.6)


def _across(axis: Axes, values: list[Any]) -> None:
    """Ticks at the values; logarithmic where they span a factor of ten."""
    if not all(map(is_number, values)):
        axis.set_xticks(range(len(values)), map(str, values))
        axis.set_xlim(-0.5, len(values) - 0.5)
        return
    if values[0] > 0 and values[-1] >= 10 * values[0]:
        axis.set_xscale("log")
    if len(values) <= 10:
        axis.set_xticks(values, [f"{value:g}" for value in values])
        axis.xaxis.set_minor_locator(NullLocator())


def parallel(gathered: Gathered) -> str:
    """Parallel coordinates: an axis for each swept parameter and the score, a line for each finished point."""
    file, points = gathered.file, sorted(gathered.finished, key=gathered.score)
    columns = {name: [point.parameters[name] for point in points] for name in file.swept}
    scores = [gathered.score(point) for point in points]
    columns[file.metric] = scores
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 3.6), layout="constrained")
        axis = figure.subplots()
        heights = np.array(
            [_heights(values, name == file.metric) for name, values in columns.items()]
        )
        goodness = heights[-1] if file.sign > 0 else 1 - heights[-1]
        for line, good in zip(heights.T, goodness, strict=True):
            axis.plot(
                range(len(columns)),
                line,
                color=to_hex(BETTER_TO_WORSE(good)),
                linewidth=1.6,
                alpha=0.8,
            )
        for place, (name, values) in enumerate(columns.items()):
            _scale(axis, place, name, values, name == file.metric)
        axis.set_xticks(range(len(columns)), columns)
        axis.set(ylim=(-0.06, 1.06), xlim=(-0.35, len(columns) - 0.55), yticks=[])
        axis.tick_params(axis="x", length=0)
        axis.spines[:].set_visible(False)
        return svg(
            figure,
            "parallel",
            "Parallel coordinates of all finished points; the numbers are in the table",
        )


def _heights(values: Sequence[Any], measured: bool) -> list[float]:
    """Where values stand on an axis from 0 to 1: measured ones by their size, those of a parameter in even steps."""
    if measured or (all(map(is_number, values)) and len(distinct(values)) > 10):
        low, high = min(values), max(values)
        return [(value - low) / (high - low) if high > low else 0.5 for value in values]
    steps = distinct(values)
    return [steps.index(value) / (len(steps) - 1) if len(steps) > 1 else 0.5 for value in values]


def _scale(axis: Axes, place: int, name: str, values: Sequence[Any], measured: bool) -> None:
    """An upright axis with its values."""
    axis.axvline(place, color=INK, linewidth=0.8, zorder=3)
    steps = distinct(values)
    if measured or len(steps) > 10:
        steps = [min(values), max(values)]
    heights = dict(zip(map(str, values), _heights(values, measured), strict=True))
    for value in distinct(steps):
        text = shown(name, value) if measured else str(value)
        axis.annotate(
            text,
            (place, heights[str(value)]),
            (5, 3),
            textcoords="offset points",
            fontsize=9,
            va="bottom",
            zorder=4,
        )


def bars(gathered: Gathered) -> str:
    """Importance: a bar for each swept parameter, a mark at what chance would give it."""
    found = importance(gathered)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, 0.7 + 0.42 * len(found)), layout="constrained")
        axis = figure.subplots()
        places = range(len(found))
        axis.barh(places, [each.share for each in found.values()], color=LINES[0], height=0.6)
        marks = [each.by_chance for each in found.values()]
        axis.plot(marks, places, "|", color=INK, markersize=16, markeredgewidth=2)
        for place, each in zip(places, found.values(), strict=True):
            axis.annotate(
                f"{100 * each.share:.0f} %", (max(each.share, each.by_chance), place), (6, 0),
                textcoords="offset points", va="center",
            )  # fmt: skip
        axis.set_yticks(places, found)
        axis.invert_yaxis()
        axis.set(xlim=(0, 1.08), xlabel="share of the variance")
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        axis.grid(axis="x", linewidth=0.8)
        axis.set_axisbelow(True)
        described = ", ".join(f"{name} {100 * each.share:.0f} %" for name, each in found.items())
        return svg(figure, "bars", f"Importance of parameters: {described}")


def _tick(metric: str, value: float) -> str:
    return f"{100 * value:.3g} %" if is_share(metric) else f"{value:.4g}"
