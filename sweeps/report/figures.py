"""The figures of a report."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from reporting.figure import INK, LINES, MARKERS, STYLE, WIDTH_IN, svg
from sweeps.report.answer import format_value, is_share
from sweeps.report.gather import SweepResults, Trial
from sweeps.report.statistics import distinct, importance, is_number

OFFSET = 0.12
"""Distance between lines on an axis of categories, so that they do not cover each other."""
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


class _Line(NamedTuple):
    """A line of the figure: its trials and its appearance."""

    trials: Sequence[Trial]
    label: str
    colour: str
    marker: str
    offset: float
    """Shift on an axis of categories."""


def lines(results: SweepResults) -> str:
    """Score against the parameter on the horizontal axis, as <svg>.

    It shows every trial, the mean over trials with equal parameters, and their range as a band.
    """
    file = results.file
    x_values = distinct(trial.parameters[file.x] for trial in results.finished)
    with _new_figure(3.9) as (figure, axes):
        for line in _split_into_lines(results):
            _draw_line(axes, line, x_values, results)
        _set_x_axis(axes, x_values)
        axes.set(xlabel=file.x, ylabel=file.metric)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(file.metric, value)))
        axes.grid(axis="y", linewidth=0.8)
        if file.line:
            figure.legend(loc="outside upper left", ncols=2)
        description = f"{file.metric} against {file.x}; the numbers are in the table of settings"
        return svg(figure, "lines", description)


def _split_into_lines(results: SweepResults) -> list[_Line]:
    """One line for each value of the parameter that distinguishes lines."""
    parameter = results.file.line
    if parameter is None:
        return [_Line(results.finished, "", LINES[0], MARKERS[0], 0.0)]
    values = distinct(trial.parameters[parameter] for trial in results.finished)
    split = []
    for number, value in enumerate(values):
        trials = [trial for trial in results.finished if trial.parameters[parameter] == value]
        # Offsets are centred on the category.
        offset = OFFSET * (number - (len(values) - 1) / 2)
        colour = LINES[number % len(LINES)]
        marker = MARKERS[number % len(MARKERS)]
        split.append(_Line(trials, f"{parameter}={value}", colour, marker, offset))
    return split


def _draw_line(axes: Axes, line: _Line, x_values: list[Any], results: SweepResults) -> None:
    """Draw one line of a grid; for other methods, whose trials do not repeat, only the trials."""
    is_numeric = all(map(is_number, x_values))
    positions = []
    for index, value in enumerate(x_values):
        positions.append(float(value) if is_numeric else index + line.offset)
    xs = [positions[x_values.index(trial.parameters[results.file.x])] for trial in line.trials]
    scores = [results.score(trial) for trial in line.trials]
    if results.file.method != "grid":
        axes.plot(
            xs,
            scores,
            line.marker,
            color=line.colour,
            markersize=5,
            label=line.label,
            linestyle="",
        )
        return
    axes.plot(
        xs,
        scores,
        line.marker,
        color=line.colour,
        markersize=3.5,
        alpha=0.55,
        markeredgewidth=0,
        linestyle="",
    )
    _draw_means(axes, line, xs, scores, is_numeric)


def _draw_means(
    axes: Axes, line: _Line, xs: Sequence[float], scores: Sequence[float], is_numeric: bool
) -> None:
    """Draw mean and range of the scores at each position."""
    columns = sorted(set(xs))
    means = []
    lows = []
    highs = []
    for column in columns:
        group = [score for x, score in zip(xs, scores, strict=True) if x == column]
        means.append(np.mean(group))
        lows.append(min(group))
        highs.append(max(group))
    axes.plot(
        columns,
        means,
        marker=line.marker,
        color=line.colour,
        linewidth=2,
        markersize=7,
        label=line.label,
        # There is nothing between categories that a line could show.
        linestyle="-" if is_numeric else "",
    )
    if is_numeric:
        axes.fill_between(columns, lows, highs, color=line.colour, alpha=0.15, linewidth=0)
    else:
        axes.vlines(columns, lows, highs, color=line.colour, linewidth=2, alpha=0.6)


def _set_x_axis(axes: Axes, values: list[Any]) -> None:
    """Put ticks at the values; the axis is logarithmic if they span a factor of ten."""
    if not all(map(is_number, values)):
        axes.set_xticks(range(len(values)), map(str, values))
        axes.set_xlim(-0.5, len(values) - 0.5)
        return
    if values[0] > 0 and values[-1] >= 10 * values[0]:
        axes.set_xscale("log")
    if len(values) <= MAX_TICKS:
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.xaxis.set_minor_locator(NullLocator())


def _tick(metric: str, value: float) -> str:
    """Label of a tick on the axis of scores."""
    if is_share(metric):
        return f"{100 * value:.3g} %"
    return f"{value:.4g}"


# ---- parallel coordinates


def parallel(results: SweepResults) -> str:
    """Parallel coordinates, as <svg>.

    There is an axis for each swept parameter and for the score, and a line for each finished trial.
    """
    file = results.file
    # The best trial is drawn last if lower is better; colours show the order in any case.
    trials = sorted(results.finished, key=results.score)
    columns = {name: [trial.parameters[name] for trial in trials] for name in file.swept}
    columns[file.metric] = [results.score(trial) for trial in trials]
    heights = []
    for name, values in columns.items():
        heights.append(_heights(values, name == file.metric))
    goodness = np.array(heights[-1])  # (trials,), 0 is best
    if file.sign < 0:
        goodness = 1 - goodness
    with _new_figure(3.6) as (figure, axes):
        # (columns, trials) -> one line per trial
        for line, good in zip(np.array(heights).T, goodness, strict=True):
            colour = to_hex(BETTER_TO_WORSE(good))
            axes.plot(range(len(columns)), line, color=colour, linewidth=1.6, alpha=0.8)
        for position, (name, values) in enumerate(columns.items()):
            _draw_scale(axes, position, name, values, name == file.metric)
        axes.set_xticks(range(len(columns)), columns)
        axes.set(ylim=(-0.06, 1.06), xlim=(-0.35, len(columns) - 0.55), yticks=[])
        axes.tick_params(axis="x", length=0)
        axes.spines[:].set_visible(False)
        description = "Parallel coordinates of all finished points; the numbers are in the table"
        return svg(figure, "parallel", description)


def _heights(values: Sequence[Any], is_metric: bool) -> list[float]:
    """Positions on an axis from 0 to 1.

    Scores, and parameters with many numbers, are placed by their size; other parameters in equal
    steps. A single value is in the middle.
    """
    steps = distinct(values)
    if is_metric or (all(map(is_number, values)) and len(steps) > MAX_TICKS):
        low = min(values)
        high = max(values)
        if high == low:
            return [0.5] * len(values)
        return [(value - low) / (high - low) for value in values]
    if len(steps) == 1:
        return [0.5] * len(values)
    return [steps.index(value) / (len(steps) - 1) for value in values]


def _draw_scale(
    axes: Axes, position: int, name: str, values: Sequence[Any], is_metric: bool
) -> None:
    """Draw a vertical axis with its values."""
    axes.axvline(position, color=INK, linewidth=0.8, zorder=3)
    labelled = distinct(values)
    if is_metric or len(labelled) > MAX_TICKS:
        labelled = distinct([min(values), max(values)])
    # By their text, since values may be lists.
    height_of = dict(zip(map(str, values), _heights(values, is_metric), strict=True))
    for value in labelled:
        text = format_value(name, value) if is_metric else str(value)
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


def bars(results: SweepResults) -> str:
    """Importance of each swept parameter as a bar, with a mark at the share by chance, as <svg>."""
    importances = importance(results)
    positions = range(len(importances))
    with _new_figure(0.7 + 0.42 * len(importances)) as (figure, axes):
        shares = [each.share for each in importances.values()]
        axes.barh(positions, shares, color=LINES[0], height=0.6)
        by_chance = [each.by_chance for each in importances.values()]
        axes.plot(by_chance, positions, "|", color=INK, markersize=16, markeredgewidth=2)
        for position, each in zip(positions, importances.values(), strict=True):
            axes.annotate(
                f"{100 * each.share:.0f} %",
                (max(each.share, each.by_chance), position),
                (6, 0),
                textcoords="offset points",
                va="center",
            )
        axes.set_yticks(positions, importances)
        axes.invert_yaxis()
        axes.set(xlim=(0, 1.08), xlabel="share of the variance")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        axes.grid(axis="x", linewidth=0.8)
        axes.set_axisbelow(True)
        shares_text = [f"{name} {100 * each.share:.0f} %" for name, each in importances.items()]
        return svg(figure, "bars", f"Importance of parameters: {', '.join(shares_text)}")
