"""Timeline plots: rows over a long time axis, which is broken into segments one below the other."""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

SEGMENT_S = 16
"""Seconds of the time axis per segment."""
INCHES_PER_S = 0.8
LETTERS_PER_INCH = 13.5
"""Letters of the smallest print."""
MIN_LETTERS = 14
"""Text is not broken into shorter lines than this."""
COLOURS = {
    "ignore": "#e9e9e9",
    "incomplete": "#ffd166",
    "response": "#2ca02c",
    "unknown": "#ffffff",
    "answer": "#a9dba5",
}
LEGEND = ("response", "incomplete", "ignore")
"""Turn states in the order of the legend."""


class Timeline:
    """A figure with the same rows in every segment of the time axis.

    Args:
        title: printed above the figure.
        seconds: length of the whole time axis.
        rows: name of each row -> its height in inches.
    """

    def __init__(self, title: str, seconds: float, rows: Mapping[str, float]):
        self.rows = rows
        # Rounded, so that a rounding error of the length does not add an empty segment.
        num_segments = max(1, math.ceil(round(seconds / SEGMENT_S, 6)))
        width_in = SEGMENT_S * INCHES_PER_S + 1
        height_in = (sum(rows.values()) + 0.4) * num_segments + 0.6
        self.figure = Figure(figsize=(width_in, height_in), layout="constrained")
        self.figure.suptitle(title, fontsize=10, x=0.01, ha="left")
        patches = [Patch(color=COLOURS[state], label=state) for state in LEGEND]
        self.figure.legend(handles=patches, ncols=3, fontsize=8, frameon=False, loc="upper right")
        self._segments = self.figure.subfigures(num_segments, 1, squeeze=False)[:, 0]

    def __iter__(self) -> Iterator[tuple[int, list[Axes]]]:
        """Yield the first second of each segment and its rows: empty axes from 0 to 1."""
        heights = list(self.rows.values())
        for number, segment in enumerate(self._segments):
            from_s = number * SEGMENT_S
            axes = list(segment.subplots(len(heights), 1, sharex=True, height_ratios=heights))
            for row, name in zip(axes, self.rows, strict=True):
                _prepare(row, name, from_s, is_last=row is axes[-1])
            yield from_s, axes


def _prepare(axes: Axes, name: str, from_s: int, is_last: bool) -> None:
    to_s = from_s + SEGMENT_S
    axes.set(xlim=(from_s, to_s), ylim=(0, 1), yticks=[], xticks=range(from_s, to_s + 1))
    axes.set_ylabel(name, rotation=0, ha="right", va="center")
    axes.spines[:].set_visible(False)
    axes.tick_params(bottom=is_last, labelbottom=is_last)
    axes.grid(axis="x", color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)


def draw_wave(axes: Axes, from_s: int, samples: np.ndarray, rate_hz: int) -> None:
    """Draw the part of a recording (n,) that lies in the segment beginning at `from_s`."""
    first = from_s * rate_hz
    shown = samples[first : first + SEGMENT_S * rate_hz]
    times_s = from_s + np.arange(len(shown)) / rate_hz
    axes.plot(times_s, shown, linewidth=0.3, color="#333333")
    # All segments have the same scale.
    peak = max(np.abs(samples).max(), 1e-3)
    axes.set_ylim(-peak, peak)


def draw_cells(axes: Axes, length_s: float, colours: Sequence[str]) -> None:
    """Draw one coloured cell per slice of the whole time axis."""
    starts_s = np.arange(len(colours)) * length_s
    axes.bar(starts_s, 1, length_s, align="edge", color=colours, edgecolor="white", linewidth=0.4)


def draw_answer(axes: Axes, from_s: int, span_s: tuple[float, float], text: str, cut: bool) -> None:
    """Draw a bar, hatched if the answer was interrupted (`cut`), with its words below."""
    start_s, end_s = span_s
    axes.barh(
        0.85,
        end_s - start_s,
        0.25,
        start_s,
        color=COLOURS["answer"],
        hatch="////" if cut else None,
        edgecolor="white",
    )
    print_words(axes, from_s, span_s, 0.66, text, va="top")


def print_words(
    axes: Axes, from_s: int, span_s: tuple[float, float], height: float, text: str, **style: Any
) -> None:
    """Print text at the left end of a span, wrapped to its width, in each segment of the span."""
    left_s = max(span_s[0], from_s)
    right_s = min(span_s[1], from_s + SEGMENT_S)
    if left_s >= right_s:
        return
    width_in = (right_s - left_s) * INCHES_PER_S
    num_letters = max(MIN_LETTERS, int(width_in * LETTERS_PER_INCH))
    wrapped = textwrap.fill(text, num_letters)
    axes.text(left_s, height, wrapped, fontsize=7, in_layout=False, parse_math=False, **style)
