"""Pictures of time: rows over seconds, in staves one under the other, as music is written."""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from duplexmamba.text.tokenizer import TURN_STATES

STAVE_S, INCHES_PER_S = 16, 0.8
LETTERS_PER_INCH = 13.5
"""Of the smallest print."""
COLOURS = {"ignore": "#e9e9e9", "incomplete": "#ffd166", "response": "#2ca02c", "answer": "#a9dba5"}


class TimelineRows:
    """A figure whose staves all have the same rows.

    Args:
        seconds: of the whole.
        rows: name -> height in inches.
    """

    def __init__(self, title: str, seconds: float, rows: Mapping[str, float]):
        count = max(1, math.ceil(round(seconds / STAVE_S, 6)))
        size = STAVE_S * INCHES_PER_S + 1, (sum(rows.values()) + 0.4) * count + 0.6
        self.figure, self.rows = Figure(figsize=size, layout="constrained"), rows
        self.figure.suptitle(title, fontsize=10, x=0.01, ha="left")
        names = [Patch(color=COLOURS[state], label=state) for state in TURN_STATES]
        self.figure.legend(handles=names, ncols=3, fontsize=8, frameon=False, loc="upper right")
        self._staves = self.figure.subfigures(count, 1, squeeze=False)[:, 0]

    def __iter__(self) -> Iterator[tuple[int, list[Axes]]]:
        """The first second of each stave, and its rows to draw in: empty, from 0 to 1."""
        for number, stave in enumerate(self._staves):
            axes = list(
                stave.subplots(
                    len(self.rows), 1, sharex=True, height_ratios=list(self.rows.values())
                )
            )
            for row, name in zip(axes, self.rows, strict=True):
                _prepare(row, name, number * STAVE_S, last=row is axes[-1])
            yield number * STAVE_S, axes


def _prepare(axes: Axes, name: str, from_s: int, last: bool) -> None:
    axes.set(
        xlim=(from_s, from_s + STAVE_S),
        ylim=(0, 1),
        yticks=[],
        xticks=range(from_s, from_s + STAVE_S + 1),
    )
    axes.set_ylabel(name, rotation=0, ha="right", va="center")
    axes.spines[:].set_visible(False)
    axes.tick_params(bottom=last, labelbottom=last)
    axes.grid(axis="x", color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)


def draw_wave(axes: Axes, from_s: int, samples: np.ndarray, rate_hz: int) -> None:
    """(n,) samples of the whole; the stave's are drawn."""
    shown = samples[from_s * rate_hz : (from_s + STAVE_S) * rate_hz]
    axes.plot(from_s + np.arange(len(shown)) / rate_hz, shown, linewidth=0.3, color="#333333")
    peak = max(np.abs(samples).max(), 1e-3)
    axes.set_ylim(-peak, peak)


def draw_cells(axes: Axes, length_s: float, colours: Sequence[str]) -> None:
    """A cell in its colour for each slice of the whole."""
    starts_s = np.arange(len(colours)) * length_s
    axes.bar(starts_s, 1, length_s, align="edge", color=colours, edgecolor="white", linewidth=0.4)


def draw_answer(axes: Axes, from_s: int, span_s: tuple[float, float], text: str, cut: bool) -> None:
    """A bar, hatched where the answer is cut off, its words upstream."""
    hatch = "////" if cut else None
    axes.barh(
        0.85,
        span_s[1] - span_s[0],
        0.25,
        span_s[0],
        color=COLOURS["answer"],
        hatch=hatch,
        edgecolor="white",
    )
    print_words(axes, from_s, span_s, 0.66, text, va="top")


def print_words(
    axes: Axes, from_s: int, span_s: tuple[float, float], height: float, text: str, **style: Any
) -> None:
    """Text from the left end of a span, no wider than it, in every stave that it reaches."""
    left_s, right_s = max(span_s[0], from_s), min(span_s[1], from_s + STAVE_S)
    if left_s < right_s:
        letters = max(14, int((right_s - left_s) * INCHES_PER_S * LETTERS_PER_INCH))
        axes.text(
            left_s,
            height,
            textwrap.fill(text, letters),
            fontsize=7,
            in_layout=False,
            parse_math=False,
            **style,
        )
