"""Write a few dialogues, to listen to and to look at:

    python -m datamodules.dialogue.write 8 train configs/preset/tiny.yaml configs/stage/asr.yaml

makes of each, in `runs/dialogues`, a wav (left the user, right the model's answers), a JSON and a picture.
"""

import collections
import dataclasses
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile as sf
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from configs.checks import SPLITS
from configs.loading import load_config
from datamodules.data import Corpora
from datamodules.dialogue.dialogues import Dialogue, Dialogues, open_dialogues
from datamodules.dialogue.turns import RULES, Answer
from datamodules.synthetic.augment import resample
from datamodules.synthetic.espeak import speak
from datamodules.synthetic.grammar import Split
from duplexmamba.text.tokenizer import TURN_STATES
from reporting.timeline import (
    COLOURS,
    TimelineRows,
    draw_answer,
    draw_cells,
    draw_wave,
    print_words,
)

MODEL_VOICE = "gmw/en-US"
MODEL_LEVEL = 0.5
WPM = (80, 450)
"""What espeak-ng can do."""
ROWS = {"user": 0.84, "turns": 0.92, "labels": 0.25, "answers": 0.59}
"""Of the picture, with their heights in inches."""
KIND_COLOURS = {
    "question": "#7fb8e6", "paused_question": "#7fd6de", "interruption": "#f09a94", "talking_to_other": "#fbbf7c",
    "background_speech": "#dbdc8d", "noise": "#c0c0c0", "backchannel": "#c9b3e0", "silence": "#eeeeee",
}  # fmt: skip


def main(args: list[str]) -> None:
    """Args: how many, of which split, and those of `load_config`."""
    config = load_config(args[2:])
    if args[1] not in SPLITS or not args[0].isdecimal():
        raise ValueError(
            f"N={args[0]} SPLIT={args[1]}: give a number, and one of {', '.join(SPLITS)}"
        )
    split: Split = args[1]  # type: ignore[assignment]
    recorded = Corpora(config, splits=[split]).recorded.get(split)
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
    return begin_s, end_s if answer.end is None else min(
        end_s, (answer.end + 1) * dialogues.slices.seconds
    )


def spoken_answers(dialogue: Dialogue, dialogues: Dialogues) -> np.ndarray:
    """(n,) float32: the answers in the model's voice, each until the next one."""
    rate_hz, spoken = dialogues.rate_hz, np.zeros_like(dialogue.samples)
    pace_wpm = int(np.clip(60 * dialogues.config.words_per_s, *WPM))
    for answer in dialogue.answers:
        begin_s, end_s = answer_span_s(answer, dialogue, dialogues)
        speech = speak(dialogue.turns[answer.turn].answer, MODEL_VOICE, pace_wpm)
        place = spoken[
            round(begin_s * rate_hz) : round(end_s * rate_hz) if answer.end is not None else None
        ]
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
    return "\n\n".join(
        [*tables, f"{len(dialogues)} dialogues, {len(answers)} answers, {replaced} interrupted"]
    )


def _table(title: str, counts: collections.Counter, names: Iterable[str]) -> str:
    total = max(1, counts.total())
    lines = [f"{name:<13}{counts[name]:>7,}{100 * counts[name] / total:>7.1f} %" for name in names]
    return "\n".join([f"{title:<13}{counts.total():>7,}", *lines])


def picture(dialogue: Dialogue, dialogues: Dialogues) -> Figure:
    """Sound, turns, labels and answers over time."""
    staves = TimelineRows(dialogue.id, len(dialogue.samples) / dialogues.rate_hz, ROWS)
    for from_s, (sound, turns, labels, answers) in staves:
        draw_wave(sound, from_s, dialogue.samples, dialogues.rate_hz)
        draw_turns(turns, from_s, dialogue)
        draw_cells(labels, dialogues.slices.seconds, [COLOURS[label] for label in dialogue.labels])
        for answer in dialogue.answers:
            span_s, text = (
                answer_span_s(answer, dialogue, dialogues),
                dialogue.turns[answer.turn].answer,
            )
            draw_answer(answers, from_s, span_s, text, cut=answer.end is not None)
    return staves.figure


def draw_turns(axes: Axes, from_s: int, dialogue: Dialogue) -> None:
    """A bar for each turn, a gap in it for a pause, its words upstream."""
    for turn in dialogue.turns:
        pause_s = turn.pause_s or (turn.end_s, turn.end_s)
        for start_s, end_s in ((turn.start_s, pause_s[0]), (pause_s[1], turn.end_s)):
            axes.barh(0.86, end_s - start_s, 0.28, start_s, color=KIND_COLOURS[turn.kind])
        span_s = turn.start_s, turn.end_s
        print_words(
            axes,
            from_s,
            span_s,
            0.86,
            f" {turn.kind.replace('_', ' ')}",
            va="center",
            fontweight="bold",
        )
        print_words(axes, from_s, span_s, 0.68, turn.text, va="top")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as error:
        sys.exit(str(error))
