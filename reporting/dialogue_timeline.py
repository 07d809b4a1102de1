"""Picture of a dialogue over time: sound, turns, turn states and answers."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reporting.timeline import (
    COLOURS,
    Timeline,
    draw_answer,
    draw_cells,
    draw_wave,
    print_words,
)

ROW_HEIGHTS_IN = {"user": 0.84, "turns": 0.92, "labels": 0.25, "answers": 0.59}
KIND_COLOURS = {
    "question": "#7fb8e6",
    "paused_question": "#7fd6de",
    "interruption": "#f09a94",
    "talking_to_other": "#fbbf7c",
    "background_speech": "#dbdc8d",
    "noise": "#c0c0c0",
    "backchannel": "#c9b3e0",
    "silence": "#eeeeee",
    "out_of_grammar": "#b7c9d8",
    "small_talk": "#bfe3c0",
    "stop": "#e86a62",
    "correction": "#a7a3ea",
}


@dataclasses.dataclass(frozen=True)
class TurnSpan:
    """A turn of the user to be drawn."""

    kind: str
    """Key of `KIND_COLOURS`."""
    text: str
    start_s: float
    end_s: float
    pause_s: tuple[float, float] | None
    """Begin and end of a pause within it."""


@dataclasses.dataclass(frozen=True)
class AnswerSpan:
    """An answer of the model to be drawn."""

    text: str
    start_s: float
    end_s: float
    interrupted: bool


def draw_dialogue(
    title: str,
    samples: np.ndarray,
    rate_hz: int,
    slice_s: float,
    turns: Sequence[TurnSpan],
    labels: Sequence[str],
    answers: Sequence[AnswerSpan],
) -> Figure:
    """Draw a dialogue.

    Args:
        title: printed above the picture.
        samples: (n,) float32, the user's audio.
        rate_hz: its sample rate.
        slice_s: duration of a slice.
        turns: turns of the user.
        labels: turn state of each slice, or unknown.
        answers: answers of the model.
    """
    timeline = Timeline(title, len(samples) / rate_hz, ROW_HEIGHTS_IN)
    colours = [COLOURS[label] for label in labels]
    for from_s, (sound_axes, turn_axes, label_axes, answer_axes) in timeline:
        draw_wave(sound_axes, from_s, samples, rate_hz)
        draw_turns(turn_axes, from_s, turns)
        draw_cells(label_axes, slice_s, colours)
        for answer in answers:
            span_s = (answer.start_s, answer.end_s)
            draw_answer(answer_axes, from_s, span_s, answer.text, answer.interrupted)
    return timeline.figure


def draw_turns(axes: Axes, from_s: int, turns: Sequence[TurnSpan]) -> None:
    """Draw a bar per turn with its kind on it and its words below; a pause is a gap in the bar."""
    for turn in turns:
        pause_start_s, pause_end_s = turn.pause_s or (turn.end_s, turn.end_s)
        colour = KIND_COLOURS[turn.kind]
        axes.barh(0.86, pause_start_s - turn.start_s, 0.28, turn.start_s, color=colour)
        axes.barh(0.86, turn.end_s - pause_end_s, 0.28, pause_end_s, color=colour)
        span_s = (turn.start_s, turn.end_s)
        kind = f" {turn.kind.replace('_', ' ')}"
        print_words(axes, from_s, span_s, 0.86, kind, va="center", fontweight="bold")
        print_words(axes, from_s, span_s, 0.68, turn.text, va="top")
