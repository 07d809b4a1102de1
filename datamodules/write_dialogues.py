"""Write a few dialogues, to listen to and to look at:

    python -m datamodules.write_dialogues 8 train configs/preset/tiny.yaml configs/stage/asr.yaml

makes of each, in `runs/dialogues`, a wav (left the user, right the model's answers), a JSON and a picture.
"""

import collections
import dataclasses
import json
import math
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Patch

from datamodules.augment import resample
from datamodules.dialogue import Dialogue, Dialogues, open_dialogues
from datamodules.espeak import speak
from datamodules.grammar import Split
from datamodules.manifest import SPLITS, check_bad_share, open_corpora
from datamodules.turns import RULES, Answer
from duplexmamba.config import load_config
from duplexmamba.tokens import TURN_STATES

MODEL_VOICE = "gmw/en-US"
MODEL_LEVEL = 0.5
WPM = (80, 450)
"""What espeak-ng can do."""
STAVE_S, INCHES_PER_S, STAVE_INCHES = 16, 0.8, 3.0
LETTERS_PER_INCH = 13.5
"""Of the smallest print."""
COLOURS = {
    "question": "#7fb8e6", "cut_question": "#7fd6de", "interruption": "#f09a94", "aside": "#fbbf7c",
    "background": "#dbdc8d", "noise": "#c0c0c0", "backchannel": "#c9b3e0", "silence": "#eeeeee",
    "ignore": "#e9e9e9", "incomplete": "#ffd166", "response": "#2ca02c", "answer": "#a9dba5",
}  # fmt: skip


def main(args: list[str]) -> None:
    """Args: how many, of which split, and those of `load_config`."""
    config = load_config(args[2:])
    if args[1] not in SPLITS or not args[0].isdecimal():
        raise ValueError(f"N={args[0]} SPLIT={args[1]}: give a number, and one of {', '.join(SPLITS)}")
    split: Split = args[1]  # type: ignore[assignment]
    recorded, data = None, config.data
    if data.path is not None:
        corpora, survey = open_corpora(data.path, config.features.sample_rate_hz, data.min_s, data.max_s)
        check_bad_share(survey, data.max_bad_share)
        recorded = corpora[split]
    dialogues = open_dialogues(config, split, int(args[0]), recorded)
    folder = Path(config.run.dir) / "dialogues"
    folder.mkdir(parents=True, exist_ok=True)
    print(summary([write(dialogues, index, folder) for index in range(int(args[0]))]))
    print(f"{folder}: a wav (left the user, right the model), a json and a png of each")


def write(dialogues: Dialogues, index: int, folder: Path) -> Dialogue:
    """Write wav, JSON and picture of one dialogue, and return it."""
    dialogue = dialogues[index]
    channels = [dialogue.samples, spoken_answers(dialogue, dialogues)]
    sf.write(folder / f"{dialogue.id}.wav", np.stack(channels, axis=1), dialogues.rate_hz)
    facts = {"slice_s": dialogues.slices.seconds, **dataclasses.asdict(dialogue)}
    del facts["samples"]
    (folder / f"{dialogue.id}.json").write_text(json.dumps(facts, indent=1) + "\n")
    picture(dialogue, dialogues).savefig(folder / f"{dialogue.id}.png", dpi=100)
    return dialogue


def answer_span_s(answer: Answer, dialogue: Dialogue, dialogues: Dialogues) -> tuple[float, float]:
    """When the first word of an answer can come, and when the last one is out or another answer takes over."""
    begin_s = (answer.begin + 1) * dialogues.slices.seconds
    end_s = begin_s + dialogues.answer_s(dialogue.turns[answer.turn].answer)
    return begin_s, end_s if answer.end is None else min(end_s, (answer.end + 1) * dialogues.slices.seconds)


def spoken_answers(dialogue: Dialogue, dialogues: Dialogues) -> np.ndarray:
    """(n,) float32: the answers in the model's voice, each until the next one."""
    rate_hz, spoken = dialogues.rate_hz, np.zeros_like(dialogue.samples)
    pace_wpm = int(np.clip(60 * dialogues.config.words_per_s, *WPM))
    for answer in dialogue.answers:
        begin_s, end_s = answer_span_s(answer, dialogue, dialogues)
        speech = speak(dialogue.turns[answer.turn].answer, MODEL_VOICE, pace_wpm)
        place = spoken[round(begin_s * rate_hz) : round(end_s * rate_hz) if answer.end is not None else None]
        samples = resample(speech.samples, speech.sample_rate_hz, rate_hz)[: len(place)]
        place[: len(samples)] = MODEL_LEVEL * samples
    return spoken


def summary(dialogues: list[Dialogue]) -> str:
    """Kinds of turns and labels with their counts and shares."""
    turns = collections.Counter(turn.kind for dialogue in dialogues for turn in dialogue.turns)
    labels = collections.Counter(label for dialogue in dialogues for label in dialogue.labels)
    tables = [_table("turns", turns, RULES), _table("slices", labels, TURN_STATES)]
    answers = [answer for dialogue in dialogues for answer in dialogue.answers]
    replaced = sum(answer.end is not None for answer in answers)
    return "\n\n".join([*tables, f"{len(dialogues)} dialogues, {len(answers)} answers, {replaced} interrupted"])


def _table(title: str, counts: collections.Counter, names: Iterable[str]) -> str:
    total = max(1, counts.total())
    lines = [f"{name:<13}{counts[name]:>7,}{100 * counts[name] / total:>7.1f} %" for name in names]
    return "\n".join([f"{title:<13}{counts.total():>7,}", *lines])


def picture(dialogue: Dialogue, dialogues: Dialogues) -> Figure:
    """Sound, turns, labels and answers over time, in staves one under the other."""
    staves = math.ceil(len(dialogue.samples) / dialogues.rate_hz / STAVE_S)
    figure = Figure(figsize=(STAVE_S * INCHES_PER_S + 1, STAVE_INCHES * staves + 0.6), layout="constrained")
    figure.suptitle(dialogue.id, fontsize=10, x=0.01, ha="left")
    names = [Patch(color=COLOURS[state], label=state) for state in TURN_STATES]
    figure.legend(handles=names, ncols=3, fontsize=8, frameon=False, loc="upper right")
    for number, stave in enumerate(figure.subfigures(staves, 1, squeeze=False)[:, 0]):
        draw_stave(stave, number * STAVE_S, dialogue, dialogues)
    return figure


def draw_stave(stave: SubFigure, from_s: int, dialogue: Dialogue, dialogues: Dialogues) -> None:
    """What lies between `from_s` and the next stave."""
    sound, turns, labels, answers = rows = stave.subplots(4, 1, sharex=True, height_ratios=[2, 2.2, 0.6, 1.4])
    for axes, name in zip(rows, ("user", "turns", "labels", "answers"), strict=True):
        axes.set(xlim=(from_s, from_s + STAVE_S), ylim=(0, 1), yticks=[])
        axes.set_ylabel(name, rotation=0, ha="right", va="center")
        axes.spines[:].set_visible(False)
        axes.tick_params(bottom=axes is answers)
        axes.grid(axis="x", color="#dddddd", linewidth=0.5)
        axes.set_axisbelow(True)
    answers.set_xticks(range(from_s, from_s + STAVE_S + 1))
    draw_sound(sound, from_s, dialogue, dialogues)
    draw_turns(turns, from_s, dialogue)
    draw_labels(labels, dialogue, dialogues)
    draw_answers(answers, from_s, dialogue, dialogues)


def draw_sound(axes: Axes, from_s: int, dialogue: Dialogue, dialogues: Dialogues) -> None:
    """The wave."""
    first, rate_hz = from_s * dialogues.rate_hz, dialogues.rate_hz
    samples = dialogue.samples[first : first + STAVE_S * rate_hz]
    axes.plot(from_s + np.arange(len(samples)) / rate_hz, samples, linewidth=0.3, color="#333333")
    axes.set_ylim(-np.abs(dialogue.samples).max(), np.abs(dialogue.samples).max())


def draw_turns(axes: Axes, from_s: int, dialogue: Dialogue) -> None:
    """A bar for each turn, a gap in it for a pause, its words beneath."""
    for turn in dialogue.turns:
        pause_s = turn.pause_s or (turn.end_s, turn.end_s)
        for start_s, end_s in ((turn.start_s, pause_s[0]), (pause_s[1], turn.end_s)):
            axes.barh(0.86, end_s - start_s, 0.28, start_s, color=COLOURS[turn.kind])
        span_s = turn.start_s, turn.end_s
        _print(axes, from_s, span_s, 0.86, f" {turn.kind.replace('_', ' ')}", va="center", fontweight="bold")
        _print(axes, from_s, span_s, 0.68, turn.text, va="top")


def draw_labels(axes: Axes, dialogue: Dialogue, dialogues: Dialogues) -> None:
    """A cell for each slice in the colour of its label."""
    length_s = dialogues.slices.seconds
    colours = [COLOURS[label] for label in dialogue.labels]
    starts_s = np.arange(len(colours)) * length_s
    axes.bar(starts_s, 1, length_s, align="edge", color=colours, edgecolor="white", linewidth=0.4)


def draw_answers(axes: Axes, from_s: int, dialogue: Dialogue, dialogues: Dialogues) -> None:
    """A bar for each answer, hatched where another one takes its place, its words beneath."""
    for answer in dialogue.answers:
        begin_s, end_s = answer_span_s(answer, dialogue, dialogues)
        hatch = "////" if answer.end is not None else None
        axes.barh(0.85, end_s - begin_s, 0.25, begin_s, color=COLOURS["answer"], hatch=hatch, edgecolor="white")
        _print(axes, from_s, (begin_s, end_s), 0.66, dialogue.turns[answer.turn].answer, va="top")


def _print(axes: Axes, from_s: int, span_s: tuple[float, float], height: float, text: str, **style: Any) -> None:
    """Text from the left end of a span, no wider than it, in every stave that it reaches."""
    left_s = max(span_s[0], from_s)
    if left_s < min(span_s[1], from_s + STAVE_S):
        letters = max(14, int((span_s[1] - left_s) * INCHES_PER_S * LETTERS_PER_INCH))
        axes.text(left_s, height, textwrap.fill(text, letters), fontsize=7, in_layout=False, **style)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as error:
        sys.exit(str(error))
