"""Write a few dialogues as audio, JSON and pictures, for inspection:

    python -m datamodules.dialogue.write 8 train configs/preset/tiny.yaml configs/stage/asr.yaml

writes for each dialogue, in `runs/dialogues`, a wav (left the user, right the model's answers),
a JSON file and a picture. They are composed; with `data.conversations`, excerpts of these
conversations, and the other side right.

Composed ones are also conversations to train on: a line each in `conversations.jsonl.gz`, which keeps
the dialogues of other splits from earlier calls.
"""

import collections
import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import soundfile as sf
from matplotlib.figure import Figure

from configs.checks import SPLITS
from configs.loading import load_config
from configs.schema import Config
from datamodules.conversations.conversation import Conversation
from datamodules.conversations.corpus import joined, open_conversations
from datamodules.conversations.excerpts import Excerpts
from datamodules.conversations.manifest import (
    MANIFEST,
    read_conversations,
    write_conversations,
)
from datamodules.corpora import Corpora
from datamodules.corpus import UnusableAudio
from datamodules.dialogue.as_conversation import conversation_of_dialogue
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
Span = tuple[float, float]
"""Begin and end in seconds."""


def main(args: list[str]) -> None:
    """Write dialogues and print a summary.

    Args:
        args: number of dialogues, split, and the arguments of `load_config`.

    Raises:
        ValueError: number or split is invalid, or a manifest cannot be used.
    """
    config = load_config(args[2:])
    if args[1] not in SPLITS or not args[0].isdecimal():
        raise ValueError(
            f"N={args[0]} SPLIT={args[1]}: give a number, and one of {', '.join(SPLITS)}"
        )
    count = int(args[0])
    split: Split = args[1]  # type: ignore[assignment]
    folder = Path(config.run.dir) / "dialogues"
    folder.mkdir(parents=True, exist_ok=True)
    if config.data.conversations:
        written = write_excerpts(config, split, count, folder)
    else:
        written = write_composed(config, split, count, folder)
    print(summary(written))
    print(f"{folder}: a wav (left the user, right the model), a json and a png of each")


def write_composed(config: Config, split: Split, count: int, folder: Path) -> list[Dialogue]:
    """Write composed dialogues, and their lines of the manifest; returns them."""
    # Without recorded speech the questions are synthesised.
    recorded = Corpora(config, splits=[split]).recorded.get(split)
    dialogues = open_dialogues(config, split, count, recorded)
    written = []
    conversations = []
    for index in range(count):
        dialogue = dialogues[index]
        spans = [answer_span_s(answer, dialogue, dialogues) for answer in dialogue.answers]
        right, spoken = spoken_answers(dialogue, dialogues, spans)
        path = write(dialogue, right, spans, dialogues.rate_hz, dialogues.slices.seconds, folder)
        conversations.append(conversation_of_dialogue(dialogue, path, spoken, split, config))
        written.append(dialogue)
    _add_to_manifest(conversations, split, folder / MANIFEST)
    return written


def _add_to_manifest(conversations: Sequence[Conversation], split: Split, path: Path) -> None:
    """Write conversations of a split in place of those that the manifest has of it."""
    earlier: list[Conversation] = []
    if path.exists():
        earlier, _ = read_conversations(path)
    others = [conversation for conversation in earlier if conversation.split != split]
    write_conversations([*others, *conversations], path)


def write_excerpts(config: Config, split: Split, count: int, folder: Path) -> list[Dialogue]:
    """Write the first usable excerpts of the conversations of a split; returns them."""
    excerpts = joined(open_conversations(config), split)
    slice_s = excerpts.slices.seconds
    written: list[Dialogue] = []
    for index in range(len(excerpts)):
        if len(written) == count:
            break
        try:
            dialogue = excerpts[index]
            right = _other_side(excerpts, index)
        except UnusableAudio as error:
            print(f"left out: {error}")
            continue
        spans = []
        for answer in dialogue.answers:
            num_words = len(dialogue.turns[answer.turn].answer.split())
            begin_s = (answer.begin + 1) * slice_s
            spans.append((begin_s, begin_s + num_words / config.dialogue.words_per_s))
        # IDs of corpora may be paths.
        named = dataclasses.replace(dialogue, id=dialogue.id.replace("/", "_"))
        write(named, right, spans, excerpts.slices.rate_hz, slice_s, folder)
        written.append(named)
    return written


def _other_side(excerpts: Excerpts, index: int) -> np.ndarray:
    """(n,) what the other side says in an excerpt; silence where it is not recorded."""
    excerpt = excerpts.excerpts[index]
    if excerpt.listener.agent is None:
        return np.zeros(len(excerpt.slices) * excerpts.slices.length, np.float32)
    return excerpts.read(excerpt.listener.agent, excerpt)


def write(
    dialogue: Dialogue,
    right: np.ndarray,
    spans: Sequence[Span],
    rate_hz: int,
    slice_s: float,
    folder: Path,
) -> Path:
    """Write wav, JSON and picture of one dialogue.

    Args:
        dialogue: the dialogue with its sound.
        right: (n,) sound of the other side.
        spans: begin and end of each answer.
        rate_hz: sample rate of both.
        slice_s: length of a slice in seconds.
        folder: folder of the files, which are named by the dialogue.

    Returns:
        The wav.
    """
    path = folder / f"{dialogue.id}.wav"
    # (n, 2): user, model
    sf.write(path, np.stack([dialogue.samples, right], axis=1), rate_hz)
    fields = {"slice_s": slice_s, **dataclasses.asdict(dialogue)}
    # The samples are in the wav.
    del fields["samples"]
    (folder / f"{dialogue.id}.json").write_text(json.dumps(fields, indent=1) + "\n")
    picture(dialogue, spans, rate_hz, slice_s).savefig(folder / f"{dialogue.id}.png", dpi=100)
    return path


def answer_span_s(answer: Answer, dialogue: Dialogue, dialogues: Dialogues) -> Span:
    """Return the earliest time of the first word of an answer, and its end or interruption."""
    slice_s = dialogues.slices.seconds
    begin_s = (answer.begin + 1) * slice_s
    end_s = begin_s + dialogues.answer_s(dialogue.turns[answer.turn].answer)
    if answer.spoken_s is not None:
        begin_s, end_s = answer.spoken_s
    if answer.end is not None:
        end_s = min(end_s, (answer.end + 1) * slice_s)
    return begin_s, end_s


def spoken_answers(
    dialogue: Dialogue, dialogues: Dialogues, spans: Sequence[Span]
) -> tuple[np.ndarray, list[Span]]:
    """Synthesise the model's answers, each up to the next one.

    Args:
        dialogue: the dialogue.
        dialogues: of which it is one.
        spans: planned begin and end of each answer.

    Returns:
        (n,) float32 like the dialogue; and begin and end of the sound of each answer, which may last
        longer than planned if nothing interrupts it.
    """
    rate_hz = dialogues.rate_hz
    channel = np.zeros_like(dialogue.samples)
    rate_wpm = int(np.clip(60 * dialogues.config.words_per_s, *RATE_LIMITS_WPM))
    spoken = []
    for number, answer in enumerate(dialogue.answers):
        begin_s, end_s = spans[number]
        speech = speak(dialogue.turns[answer.turn].answer, MODEL_VOICE, rate_wpm)
        # An uninterrupted answer may last longer than planned.
        end = round(end_s * rate_hz) if answer.end is not None else len(channel)
        if number + 1 < len(spans):
            end = min(end, round(spans[number + 1][0] * rate_hz))
        begin = round(begin_s * rate_hz)
        span = channel[begin:end]
        samples = resample(speech.samples, speech.sample_rate_hz, rate_hz)[: len(span)]
        span[: len(samples)] = MODEL_AMPLITUDE * samples
        spoken.append((begin_s, begin_s + len(samples) / rate_hz))
    return channel, spoken


def summary(dialogues: list[Dialogue]) -> str:
    """Tabulate turn kinds and turn states with their counts and shares."""
    kinds: collections.Counter[str] = collections.Counter()
    labels: collections.Counter[str] = collections.Counter()
    num_answers = 0
    num_interrupted = 0
    for dialogue in dialogues:
        kinds.update(turn.kind for turn in dialogue.turns)
        labels.update(_shown(dialogue))
        num_answers += len(dialogue.answers)
        num_interrupted += sum(answer.end is not None for answer in dialogue.answers)
    totals = f"{len(dialogues)} dialogues, {num_answers} answers, {num_interrupted} interrupted"
    states = [*TURN_STATE_MARKERS, "unknown"] if labels["unknown"] else TURN_STATE_MARKERS
    return "\n\n".join([_table("turns", kinds, RULES), _table("slices", labels, states), totals])


def _shown(dialogue: Dialogue) -> list[str]:
    """Names of the labels, also of those that are not known."""
    return [label or "unknown" for label in dialogue.labels]


def _table(title: str, counts: collections.Counter[str], names: Iterable[str]) -> str:
    total = max(1, counts.total())
    lines = [f"{title:<13}{counts.total():>7,}"]
    for name in names:
        percent = 100 * counts[name] / total
        lines.append(f"{name:<13}{counts[name]:>7,}{percent:>7.1f} %")
    return "\n".join(lines)


def picture(dialogue: Dialogue, spans: Sequence[Span], rate_hz: int, slice_s: float) -> Figure:
    """Draw sound, turns, labels and answers over time."""
    turns = []
    for turn in dialogue.turns:
        turns.append(TurnSpan(turn.kind, turn.text, turn.start_s, turn.end_s, turn.pause_s))
    answers = []
    for answer, (begin_s, end_s) in zip(dialogue.answers, spans, strict=True):
        text = dialogue.turns[answer.turn].answer
        answers.append(AnswerSpan(text, begin_s, end_s, interrupted=answer.end is not None))
    return draw_dialogue(
        title=dialogue.id,
        samples=dialogue.samples,
        rate_hz=rate_hz,
        slice_s=slice_s,
        turns=turns,
        labels=_shown(dialogue),
        answers=answers,
    )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ValueError as error:
        sys.exit(str(error))
