"""Draw a conversation, from its trace, next to it:

    python -m serving.timeline runs/latest/traces/question.jsonl

Rows: what was heard; the probabilities of the three states after each slice; the listening branches, in the colour of
what became of them; the answers; the milliseconds that each slice took.
"""

import math
import sys
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from datamodules.corpus import UnusableAudio
from datamodules.sources.audio import read_audio
from duplexmamba.duplex.policy import Action
from duplexmamba.duplex.session import Event, emitted_responses
from duplexmamba.text.tokenizer import TURN_STATES, TurnState
from reporting.timeline import COLOURS, TimelineRows, draw_answer, draw_wave
from serving.converse import printable
from serving.trace import Trace, load

ROWS = {"user": 0.7, "states": 0.5, "listens": 0.2, "answers": 0.75, "ms": 0.3}
BECAME: dict[Action, TurnState] = {"respond": "response", "listen": "incomplete", "drop": "ignore"}
"""Colours of the listening branches by what ends them."""
PICTURE_HZ = 4000
"""Enough of a wave to be seen."""


def main(args: list[str]) -> Path:
    """Args: the trace. Returns the picture."""
    if len(args) != 1 or not args[0]:
        raise ValueError("name the trace: make timeline TRACE=runs/latest/traces/question.jsonl")
    trace = load(Path(args[0]))
    path = Path(args[0]).with_suffix(".png")
    picture(trace).savefig(path, dpi=100)
    print(path)
    return path


def picture(trace: Trace) -> Figure:
    """All of a conversation."""
    slice_s, wave = trace.header.slice_s, heard(trace)
    rows = {name: height for name, height in ROWS.items() if name != "user" or wave is not None}
    title = f"{Path(trace.header.wav or '').name}   heard by {Path(trace.header.run).name}"
    staves = TimelineRows(title, len(trace.events) * slice_s, rows)
    for from_s, (*sound, states, branches, answers, taken) in staves:
        if wave is not None:
            draw_wave(sound[0], from_s, wave, PICTURE_HZ)
        draw_states(states, trace.events, slice_s)
        draw_branches(branches, trace.events, slice_s)
        for reply in emitted_responses(trace.events):
            span_s = (
                (reply.start_slice + 1) * slice_s,
                (reply.stop_slice + 1 + reply.complete) * slice_s,
            )
            draw_answer(
                answers, from_s, span_s, printable(reply.text.strip()), cut=not reply.complete
            )
        draw_taken(taken, trace.events, slice_s)
    return staves.figure


def heard(trace: Trace) -> np.ndarray | None:
    """(n,) float32 at PICTURE_HZ; None where the trace names no file, or it is gone."""
    if trace.header.wav is None:
        return None
    try:
        path, channel = Path(trace.header.wav), trace.header.channel
        return read_audio(path, PICTURE_HZ, channel=channel, min_s=0, max_s=math.inf)
    except UnusableAudio:
        return None


def draw_states(axes: Axes, events: list[Event], slice_s: float) -> None:
    """The probabilities after each slice, of the states that the session tells apart, one on the other."""
    begins_s, below = np.arange(len(events)) * slice_s, np.zeros(len(events))
    for state in TURN_STATES:
        shares = np.array([event.probabilities.get(state, 0.0) for event in events])
        axes.bar(
            begins_s,
            shares,
            slice_s,
            below,
            align="edge",
            color=COLOURS[state],
            edgecolor="white",
            linewidth=0.3,
        )
        below += shares


def draw_branches(axes: Axes, events: list[Event], slice_s: float) -> None:
    """A bar for each listening branch, from its fork to its end."""
    first = 0
    for i, event in enumerate(events):
        if event.action != "listen" or i == len(events) - 1:
            colour, width_s = COLOURS[BECAME[event.action]], (i + 1 - first) * slice_s
            axes.barh(
                0.5, width_s, 0.7, first * slice_s, color=colour, edgecolor="white", linewidth=1
            )
            first = i + 1


def draw_taken(axes: Axes, events: list[Event], slice_s: float) -> None:
    """What each slice took to compute."""
    taken_ms = np.array([event.compute_ms for event in events])
    axes.bar(
        np.arange(len(events)) * slice_s,
        taken_ms,
        slice_s,
        align="edge",
        color="#8aa4bf",
        edgecolor="white",
    )
    axes.set_ylim(0, taken_ms.max(initial=1))
    axes.set_yticks([0, round(taken_ms.max(initial=1))])
    axes.tick_params(axis="y", labelsize=6, length=0)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as error:
        sys.exit(f"error: {error}")
