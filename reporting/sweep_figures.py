"""Figures of a sweep: scores against a parameter, parallel coordinates, importance of parameters.

All take plain data and return an <svg> element.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from reporting.figure import INK, LINES, MARKERS, STYLE, WIDTH_IN, svg
from reporting.values import are_numbers, distinct, format_score, format_tick

SCORES_HEIGHT_IN = 3.9
PARALLEL_HEIGHT_IN = 3.6
BAR_HEIGHT_IN = 0.42
"""Height of a bar and its margin in the figure of importances."""
BARS_MARGIN_IN = 0.7
"""Height of the axis below the bars."""
SERIES_OFFSET = 0.12
"""Distance between series on an axis of categories, so that they do not cover each other."""
BETTER_TO_WORSE = LinearSegmentedColormap.from_list("better", ["#2f86d6", "#8a8a8a", "#e0701b"])
MAX_TICKS = 10
"""A parameter with more different numbers has a continuous axis."""


@contextmanager
def _new_figure(height_in: float) -> Iterator[tuple[Figure, Axes]]:
    """A figure of the page's width with a single pair of axes, in the page's style."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        yield figure, figure.subplots()


# ---- score against a parameter


@dataclasses.dataclass(frozen=True)
class Series:
    """Trials that are shown in one colour."""

    label: str
    """Entry of the legend; empty if the figure has a single series."""
    x_values: Sequence[Any]
    """Value of the horizontal parameter for each trial."""
    scores: Sequence[float]
    """Score of each trial."""


@dataclasses.dataclass(frozen=True)
class _Appearance:
    """Colour, marker and position of a series."""

    colour: str
    marker: str
    offset: float
    """Shift on an axis of categories."""


def draw_scores(
    series: Sequence[Series], x_values: list[Any], x_name: str, metric: str, has_repeats: bool
) -> str:
    """Draw the score of every trial against a parameter.

    Args:
        series: the trials.
        x_values: values of the parameter, each once, in the order of the axis.
        x_name: name of the parameter.
        metric: name of the score.
        has_repeats: whether trials repeat each other, so that the mean over trials with equal
            values is shown too, with their range as a band.
    """
    with _new_figure(SCORES_HEIGHT_IN) as (figure, axes):
        for number, one in enumerate(series):
            appearance = _appearance(number, len(series))
            _draw_series(axes, one, appearance, x_values, has_repeats)
        _set_x_axis(axes, x_values)
        axes.set(xlabel=x_name, ylabel=metric)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: format_tick(metric, value)))
        axes.grid(axis="y", linewidth=0.8)
        if any(one.label for one in series):
            figure.legend(loc="outside upper left", ncols=2)
        description = f"{metric} against {x_name}; the numbers are in the table of settings"
        return svg(figure, "lines", description)


def _appearance(number: int, num_series: int) -> _Appearance:
    """Appearance of a series.

    Args:
        number: of the series, from 0.
        num_series: of the figure.
    """
    # Offsets are centred on the category.
    middle = (num_series - 1) / 2
    offset = SERIES_OFFSET * (number - middle)
    colour = LINES[number % len(LINES)]
    marker = MARKERS[number % len(MARKERS)]
    return _Appearance(colour, marker, offset)


def _draw_series(
    axes: Axes, series: Series, appearance: _Appearance, x_values: list[Any], has_repeats: bool
) -> None:
    """Draw the trials of a series, and their means if trials repeat each other."""
    is_numeric = are_numbers(x_values)
    positions = []
    for value in x_values:
        if is_numeric:
            positions.append(float(value))
        else:
            positions.append(len(positions) + appearance.offset)
    xs = [positions[x_values.index(value)] for value in series.x_values]
    if not has_repeats:
        axes.plot(
            xs,
            series.scores,
            appearance.marker,
            color=appearance.colour,
            markersize=5,
            label=series.label,
            linestyle="",
        )
        return
    axes.plot(
        xs,
        series.scores,
        appearance.marker,
        color=appearance.colour,
        markersize=3.5,
        alpha=0.55,
        markeredgewidth=0,
        linestyle="",
    )
    _draw_means(axes, series, appearance, xs, is_numeric)


def _draw_means(
    axes: Axes, series: Series, appearance: _Appearance, xs: Sequence[float], is_numeric: bool
) -> None:
    """Draw mean and range of the scores at each position."""
    colour = appearance.colour
    columns = sorted(set(xs))
    means = []
    lows = []
    highs = []
    for column in columns:
        scores = [score for x, score in zip(xs, series.scores, strict=True) if x == column]
        means.append(np.mean(scores))
        lows.append(min(scores))
        highs.append(max(scores))
    axes.plot(
        columns,
        means,
        marker=appearance.marker,
        color=colour,
        linewidth=2,
        markersize=7,
        label=series.label,
        # There is nothing between categories that a line could show.
        linestyle="-" if is_numeric else "",
    )
    if is_numeric:
        axes.fill_between(columns, lows, highs, color=colour, alpha=0.15, linewidth=0)
    else:
        axes.vlines(columns, lows, highs, color=colour, linewidth=2, alpha=0.6)


def _set_x_axis(axes: Axes, values: list[Any]) -> None:
    """Put ticks at the values; the axis is logarithmic if they span a factor of ten."""
    if not are_numbers(values):
        axes.set_xticks(range(len(values)), map(str, values))
        axes.set_xlim(-0.5, len(values) - 0.5)
        return
    if values[0] > 0 and values[-1] >= 10 * values[0]:
        axes.set_xscale("log")
    if len(values) <= MAX_TICKS:
        labels = [f"{value:g}" for value in values]
        axes.set_xticks(values, labels)
        axes.xaxis.set_minor_locator(NullLocator())


# ---- parallel coordinates


def draw_parallel(columns: Mapping[str, Sequence[Any]], metric: str, is_lower_better: bool) -> str:
    """Draw parallel coordinates: an axis for each column, and a line for each trial.

    Args:
        columns: name -> value for each trial. The score is the last column.
        metric: name of the score.
        is_lower_better: whether lower scores are better, which are drawn in blue.
    """
    heights = [_heights(values, name == metric) for name, values in columns.items()]
    goodness = np.array(heights[-1])  # (trials,), 0 is best
    if not is_lower_better:
        goodness = 1 - goodness
    with _new_figure(PARALLEL_HEIGHT_IN) as (figure, axes):
        positions = range(len(columns))
        # (columns, trials) -> one line per trial
        for line, good in zip(np.array(heights).T, goodness, strict=True):
            colour = to_hex(BETTER_TO_WORSE(good))
            axes.plot(positions, line, color=colour, linewidth=1.6, alpha=0.8)
        for position, (name, values) in enumerate(columns.items()):
            _draw_scale(axes, position, name, values, name == metric)
        axes.set_xticks(positions, columns)
        # The right margin leaves space for the labels of the last axis.
        axes.set(ylim=(-0.06, 1.06), xlim=(-0.35, len(columns) - 0.55), yticks=[])
        axes.tick_params(axis="x", length=0)
        axes.spines[:].set_visible(False)
        description = "Parallel coordinates of all finished points; the numbers are in the table"
        return svg(figure, "parallel", description)


def _heights(values: Sequence[Any], is_metric: bool) -> list[float]:
    """Positions on an axis from 0 to 1.

    Scores, and parameters with many numbers, are placed by their size; other parameters in equal
    steps. A single value is in the middle.

    Args:
        values: of all trials.
        is_metric: whether they are scores.
    """
    steps = distinct(values)
    if len(steps) == 1:
        return [0.5] * len(values)
    is_continuous = are_numbers(values) and len(steps) > MAX_TICKS
    if is_metric or is_continuous:
        low = min(values)
        extent = max(values) - low
        return [(value - low) / extent for value in values]
    return [steps.index(value) / (len(steps) - 1) for value in values]


def _draw_scale(
    axes: Axes, position: int, name: str, values: Sequence[Any], is_metric: bool
) -> None:
    """Draw a vertical axis with its values.

    Args:
        axes: of the figure.
        position: of the vertical axis.
        name: of the parameter or score.
        values: of all trials.
        is_metric: whether they are scores.
    """
    axes.axvline(position, color=INK, linewidth=0.8, zorder=3)
    labelled = distinct(values)
    if is_metric or len(labelled) > MAX_TICKS:
        labelled = distinct([min(values), max(values)])
    # By their text, since values may be lists.
    height_of = dict(zip(map(str, values), _heights(values, is_metric), strict=True))
    for value in labelled:
        text = format_score(name, value) if is_metric else str(value)
        axes.annotate(
            text,
            (position, height_of[str(value)]),
            (5, 3),
            textcoords="offset points",
            fontsize=9,
            va="bottom",
            zorder=4,
        )


# ---- importance


def draw_importances(shares: Mapping[str, float], by_chance: Mapping[str, float]) -> str:
    """Draw the importance of each parameter as a bar, with a mark at the share by chance.

    Args:
        shares: parameter -> its share of the variance, from top to bottom.
        by_chance: parameter -> mean share of a parameter without any effect.
    """
    positions = range(len(shares))
    height_in = BARS_MARGIN_IN + BAR_HEIGHT_IN * len(shares)
    with _new_figure(height_in) as (figure, axes):
        axes.barh(positions, list(shares.values()), color=LINES[0], height=0.6)
        marks = [by_chance[name] for name in shares]
        axes.plot(marks, positions, "|", color=INK, markersize=16, markeredgewidth=2)
        for position, share in enumerate(shares.values()):
            # Right of the bar and of the mark.
            right = max(share, marks[position])
            axes.annotate(
                _percent(share),
                (right, position),
                (6, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(positions, shares)
        # The first parameter is at the top.
        axes.invert_yaxis()
        axes.set(xlim=(0, 1.08), xlabel="share of the variance")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _percent(value)))
        axes.grid(axis="x", linewidth=0.8)
        axes.set_axisbelow(True)
        texts = [f"{name} {_percent(share)}" for name, share in shares.items()]
        return svg(figure, "bars", f"Importance of parameters: {', '.join(texts)}")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
