"""Write a few dialogues as audio, JSON and pictures, for inspection:

    python -m datamodules.dialogue.write 8 train configs/preset/tiny.yaml configs/stage/asr.yaml

writes for each dialogue, in `runs/dialogues`, a wav (left the user, right the model's answers),
a JSON file and a picture.
"""

import collections
import dataclasses
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile as sf
from matplotlib.figure import Figure

from configs.checks import SPLITS
from configs.loading import load_config
from datamodules.corpora import Corpora
from datamodules.dialogue.dialogues import Dialogue, Dialogues, open_dialogues
from datamodules.dialogue.turns import RULES, Answer
from datamodules.synthetic.augment import resample
from datamodules.synthetic.espeak import speak
from datamodules.synthetic.grammar import Split
from duplexmamba.text.tokenizer import TURN_STATE_MARKERS
from reporting.dialogue_timeline import AnswerSpan, TurnSpan, draw_dialogue

MODEL_VOICE = "gmw/en-US"
MODEL_AMPLITUDE = 0.5
RATE_LIMITS_WPM = (80, 450)
"""Range of the speaking rate of espeak-ng."""


def main(args: list[str]) -> None:
    """Write dialogues and print a summary.

    Args:
        args: number of dialogues, split, and the arguments of `load_config`.

    Raises:
        ValueError: number or split is invalid.
    """
    config = load_config(args[2:])
    if args[1] not in SPLITS or not args[0].isdecimal():
        raise ValueError(
            f"N={args[0]} SPLIT={args[1]}: give a number, and one of {', '.join(SPLITS)}"
        )
    count = int(args[0])
    split: Split = args[1]  # type: ignore[assignment]
    # Without recorded speech the questions are synthesised.
    recorded = Corpora(config, splits=[split]).recorded.get(split)
    dialogues = open_dialogues(config, split, count, recorded)
    folder = Path(config.run.dir) / "dialogues"
    folder.mkdir(parents=True, exist_ok=True)
    written = [write(dialogues, index, folder) for index in range(count)]
    print(summary(written))
    print(f"{folder}: a wav (left the user, right the model), a json and a png of each")


def write(dialogues: Dialogues, index: int, folder: Path) -> Dialogue:
    """Write wav, JSON and picture of one dialogue, and return it."""
    dialogue = dialogues[index]
    # (n, 2): user, model
    stereo = np.stack([dialogue.samples, spoken_answers(dialogue, dialogues)], axis=1)
    sf.write(folder / f"{dialogue.id}.wav", stereo, dialogues.rate_hz)
    fields = {"slice_s": dialogues.slices.seconds, **dataclasses.asdict(dialogue)}
    # The samples are in the wav.
    del fields["samples"]
    (folder / f"{dialogue.id}.json").write_text(json.dumps(fields, indent=1) + "\n")
    picture(dialogue, dialogues).savefig(folder / f"{dialogue.id}.png", dpi=100)
    return dialogue


def answer_span_s(answer: Answer, dialogue: Dialogue, dialogues: Dialogues) -> tuple[float, float]:
    """Return the earliest time of the first word of an answer, and its end or interruption."""
    slice_s = dialogues.slices.seconds
    begin_s = (answer.begin + 1) * slice_s
    end_s = begin_s + dialogues.answer_s(dialogue.turns[answer.turn].answer)
    if answer.end is not None:
        end_s = min(end_s, (answer.end + 1) * slice_s)
    return begin_s, end_s


def spoken_answers(dialogue: Dialogue, dialogues: Dialogues) -> np.ndarray:
    """Synthesise the model's answers, each up to the next one; (n,) float32 like the dialogue."""
    rate_hz = dialogues.rate_hz
    channel = np.zeros_like(dialogue.samples)
    rate_wpm = int(np.clip(60 * dialogues.config.words_per_s, *RATE_LIMITS_WPM))
    for answer in dialogue.answers:
        begin_s, end_s = answer_span_s(answer, dialogue, dialogues)
        speech = speak(dialogue.turns[answer.turn].answer, MODEL_VOICE, rate_wpm)
        # An uninterrupted answer may last longer than planned.
        end = round(end_s * rate_hz) if answer.end is not None else None
        span = channel[round(begin_s * rate_hz) : end]
        samples = resample(speech.samples, speech.sample_rate_hz, rate_hz)[: len(span)]
        span[: len(samples)] = MODEL_AMPLITUDE * samples
    return channel


def summary(dialogues: list[Dialogue]) -> str:
    """Tabulate turn kinds and turn states with their counts and shares."""
    kinds: collections.Counter[str] = collections.Counter()
    labels: collections.Counter[str] = collections.Counter()
    num_answers = 0
    num_interrupted = 0
    for dialogue in dialogues:
        kinds.update(turn.kind for turn in dialogue.turns)
        labels.update(dialogue.labels)
        num_answers += len(dialogue.answers)
        num_interrupted += sum(answer.end is not None for answer in dialogue.answers)
    totals = f"{len(dialogues)} dialogues, {num_answers} answers, {num_interrupted} interrupted"
    return "\n\n".join(
        [_table("turns", kinds, RULES), _table("slices", labels, TURN_STATE_MARKERS), totals]
    )


def _table(title: str, counts: collections.Counter[str], names: Iterable[str]) -> str:
    total = max(1, counts.total())
    lines = [f"{title:<13}{counts.total():>7,}"]
    for name in names:
        percent = 100 * counts[name] / total
        lines.append(f"{name:<13}{counts[name]:>7,}{percent:>7.1f} %")
    return "\n".join(lines)


def picture(dialogue: Dialogue, dialogues: Dialogues) -> Figure:
    """Draw sound, turns, labels and answers over time."""
    turns = []
    for turn in dialogue.turns:
        turns.append(TurnSpan(turn.kind, turn.text, turn.start_s, turn.end_s, turn.pause_s))
    answers = []
    for answer in dialogue.answers:
        begin_s, end_s = answer_span_s(answer, dialogue, dialogues)
        text = dialogue.turns[answer.turn].answer
        answers.append(AnswerSpan(text, begin_s, end_s, interrupted=answer.end is not None))
    return draw_dialogue(
        title=dialogue.id,
        samples=dialogue.samples,
        rate_hz=dialogues.rate_hz,
        slice_s=dialogues.slices.seconds,
        turns=turns,
        labels=dialogue.labels,
        answers=answers,
    )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as error:
        sys.exit(str(error))
