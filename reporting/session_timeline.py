"""Timeline plot of a session: audio, turn states, listening branches, responses, compute time."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reporting.timeline import COLOURS, Timeline, draw_answer, draw_wave

STATES = ("response", "incomplete", "ignore")
ROW_HEIGHTS = {"user": 0.7, "states": 0.5, "listens": 0.2, "answers": 0.75, "ms": 0.3}
"""Rows from top to bottom, with their heights in inches."""
BRANCH_COLOURS = {
    "respond": COLOURS["response"],
    "listen": COLOURS["incomplete"],
    "drop": COLOURS["ignore"],
}
"""Colour of a listening branch by the action that ends it."""
COMPUTE_COLOUR = "#8aa4bf"


class PlottedSlice(NamedTuple):
    """One slice of a session."""

    probabilities: Mapping[str, float]
    """By turn state."""
    action: str
    """respond, listen or drop."""
    compute_ms: float


class PlottedResponse(NamedTuple):
    """One response of a session."""

    start_s: float
    stop_s: float
    text: str
    complete: bool
    """Whether it ended by itself."""


class Waveform(NamedTuple):
    """Audio of the user."""

    samples: np.ndarray
    """(n,)"""
    rate_hz: int


def draw_session(
    title: str,
    slice_s: float,
    slices: Sequence[PlottedSlice],
    responses: Sequence[PlottedResponse],
    waveform: Waveform | None,
) -> Figure:
    """Draw a whole session.

    Args:
        title: title of the figure.
        slice_s: duration of a slice in seconds.
        slices: all slices of the session.
        responses: all responses of the session.
        waveform: the user's audio; None leaves its row out.
    """
    row_heights = dict(ROW_HEIGHTS)
    if waveform is None:
        del row_heights["user"]
    rows = Timeline(title, len(slices) * slice_s, row_heights)
    for from_s, axes in rows:
        # Each iteration is one line of the figure, of which the axes show their part.
        by_name = dict(zip(row_heights, axes, strict=True))
        if waveform is not None:
            draw_wave(by_name["user"], from_s, waveform.samples, waveform.rate_hz)
        _draw_states(by_name["states"], slices, slice_s)
        _draw_branches(by_name["listens"], slices, slice_s)
        for response in responses:
            span_s = (response.start_s, response.stop_s)
            interrupted = not response.complete
            draw_answer(by_name["answers"], from_s, span_s, response.text, interrupted)
        _draw_compute(by_name["ms"], slices, slice_s)
    return rows.figure


def _draw_states(axes: Axes, slices: Sequence[PlottedSlice], slice_s: float) -> None:
    """Draw the probabilities of each slice as a stacked bar."""
    starts_s = np.arange(len(slices)) * slice_s
    bottom = np.zeros(len(slices))
    for state in STATES:
        # Sessions without a fork have no probability for `incomplete`.
        heights = np.array([slice_.probabilities.get(state, 0.0) for slice_ in slices])
        axes.bar(
            starts_s,
            heights,
            slice_s,
            bottom,
            align="edge",
            color=COLOURS[state],
            edgecolor="white",
            linewidth=0.3,
        )
        bottom += heights


def _draw_branches(axes: Axes, slices: Sequence[PlottedSlice], slice_s: float) -> None:
    """Draw a bar for each listening branch, from its fork to its end."""
    first = 0
    for index, slice_ in enumerate(slices):
        is_last_slice = index == len(slices) - 1
        if slice_.action == "listen" and not is_last_slice:
            continue
        # The branch ends here, by its action or with the session.
        axes.barh(
            y=0.5,
            width=(index + 1 - first) * slice_s,
            height=0.7,
            left=first * slice_s,
            color=BRANCH_COLOURS[slice_.action],
            edgecolor="white",
            linewidth=1,
        )
        first = index + 1


def _draw_compute(axes: Axes, slices: Sequence[PlottedSlice], slice_s: float) -> None:
    """Draw the compute time of each slice in milliseconds."""
    compute_ms = np.array([slice_.compute_ms for slice_ in slices])
    axes.bar(
        np.arange(len(slices)) * slice_s,
        compute_ms,
        slice_s,
        align="edge",
        color=COMPUTE_COLOUR,
        edgecolor="white",
    )
    max_ms = compute_ms.max(initial=1)
    axes.set_ylim(0, max_ms)
    axes.set_yticks([0, round(max_ms)])
    axes.tick_params(axis="y", labelsize=6, length=0)
