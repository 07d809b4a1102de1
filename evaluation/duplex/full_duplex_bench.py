"""Full-Duplex-Bench v1 and v1.5 with a model that answers in text: the `text-emission variant`.

An item is a folder with `input.wav` and one annotation, which says what is scored (the names are the benchmark's own):

- `pause.json`: pause handling; take-over rate, lower is better.
- `turn_taking.json`, `[{"timestamp": [end of turn, ...]}, ...]`: smooth turn-taking; take-over rate and latency.
- `interrupt.json`, `[{"timestamp": [begin, end]}, ...]`: user interruption; the same, of the words after its end.
- `metadata.json`, `{"timestamps": [begin, end]}`: v1.5; how long the model goes on while the user speaks over it, and
  when it speaks again. The user's words are those of `transcription.json` where there is one, else that one span.
- `transcription.json` alone: back-channels. The official scores need output audio: this take-over rate is not official.

The model hears the file and nothing more. A word's span begins with the slice that puts out its first piece and ends
when the next piece is due, or with the next word. Written from a description of the rules; times are in seconds.
"""

import collections
import itertools
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from duplexmamba.duplex.events import Event
from evaluation.duplex.dialogues import Score
from evaluation.duplex.listen import OpenSession, Read
from evaluation.duplex.report import watched

SHORT_S, FEW_WORDS = 1.0, 3
"""What is shorter than the one and has no more words than the other takes no turn."""
USER_GAP_S, MODEL_GAP_S = 0.6, 0.5
"""v1.5: shorter gaps are none."""
KINDS = {
    "pause.json": "pause_handling", "turn_taking.json": "smooth_turn_taking", "interrupt.json": "user_interruption",
    "metadata.json": "v1.5_timing", "transcription.json": "backchannel_not_official",
}  # fmt: skip
"""By annotation; the first that an item has counts."""

Span = tuple[float, float]


class Word(NamedTuple):
    """A word of the model's."""

    text: str
    start_s: float
    end_s: float


class Item(NamedTuple):
    """A recording and what to score of it."""

    folder: Path
    group: str
    kind: str
    annotation: Any


def find_items(root: Path) -> list[Item]:
    """All below `root`. Raises ValueError: there is none, or one without a readable annotation."""
    folders = sorted(wav.parent for wav in root.rglob("input.wav"))
    if not folders:
        raise ValueError(
            f"{root}: no input.wav below it; give the folder of a Full-Duplex-Bench data set"
        )
    return [_item(folder, root) for folder in folders]


def _item(folder: Path, root: Path) -> Item:
    name = next((name for name in KINDS if (folder / name).exists()), None)
    if name is None:
        raise ValueError(
            f"{folder}: none of {', '.join(KINDS)} beside input.wav; put the item's annotation there"
        )
    group = root if folder == root else folder.parent
    label = root.name if group == root else group.relative_to(root).as_posix()
    return Item(folder, label, KINDS[name], read_json(folder / name))


def read_json(file: Path) -> Any:
    """Raises ValueError: it holds none."""
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}); fetch it again") from None


def words_of(events: Sequence[Event], tokens_per_s: float) -> list[Word]:
    """The words of a session with the times at which they came out."""
    words: list[Word] = []
    fresh = True  # the reply has no word yet
    for event in events:
        due_s, fresh = round(event.time_s + 1 / tokens_per_s, 6), fresh or event.action == "respond"
        for number, text in enumerate(event.text.split()):
            if number == 0 and not fresh and not event.text.startswith(" "):
                words[-1] = Word(words[-1].text + text, words[-1].start_s, due_s)
            else:
                words.append(Word(text, round(event.time_s, 6), due_s))
            fresh = False
    next_s = [word.start_s for word in words[1:]] + [float("inf")]
    return [
        word._replace(end_s=min(word.end_s, until_s))
        for word, until_s in zip(words, next_s, strict=True)
    ]


def output(words: Sequence[Word]) -> dict[str, Any]:
    """What goes into output.json."""
    chunks = [{"text": word.text, "timestamp": [word.start_s, word.end_s]} for word in words]
    return {"text": " ".join(word.text for word in words), "chunks": chunks}


def run(root: Path, open_session: OpenSession, read: Read) -> list[tuple[Item, list[Word]]]:
    """Every item with the words of a session that hears it and nothing more; writes each output.json."""
    found = []
    for item in watched(find_items(root), "items"):
        session = open_session()
        events = session.push(torch.from_numpy(read(item.folder / "input.wav", None)))
        words = words_of(events, session.duplex.tokens_per_s)
        (item.folder / "output.json").write_text(json.dumps(output(words), indent=1) + "\n")
        found.append((item, words))
    return found


def took_over(words: Sequence[Word]) -> bool:
    """The benchmark's rule: not without words, nor with at most three in less than a second."""
    return bool(words) and (
        round(words[-1].end_s - words[0].start_s, 6) >= SHORT_S or len(words) > FEW_WORDS
    )


def score_item(item: Item, words: Sequence[Word]) -> dict[str, list[float]]:
    """Cases of each score. Raises ValueError: the annotation lacks a time."""
    if item.kind == "v1.5_timing":
        return timing(_user_spans(item), [(word.start_s, word.end_s) for word in words])
    if item.kind not in ("smooth_turn_taking", "user_interruption"):
        return {"takeover_rate": [took_over(words)]}
    interrupts = item.kind == "user_interruption"
    end_s = _time(item, item.annotation, 0, "timestamp", 1 if interrupts else 0)
    words = [word for word in words if not interrupts or word.start_s >= end_s]
    latency_s = [max(0.0, words[0].start_s - end_s)] if took_over(words) else []
    return {"takeover_rate": [took_over(words)], "latency_s": latency_s}


def _user_spans(item: Item) -> list[Span]:
    """What the user says from the moment on at which v1.5 has something happen."""
    begin_s, end_s = (_time(item, item.annotation, "timestamps", i) for i in (0, 1))
    file, spans = item.folder / "transcription.json", [(begin_s, end_s)]
    if file.exists():
        heard = read_json(file)
        chunks = heard.get("chunks", []) if isinstance(heard, dict) else heard
        spans = [
            (_time(item, chunk, "timestamp", 0), _time(item, chunk, "timestamp", 1))
            for chunk in chunks
        ]
    return [span for span in merge(spans, USER_GAP_S) if span[1] > begin_s]


def _time(item: Item, value: Any, *path: str | int) -> float:
    try:
        for key in path:
            value = value[key]
        return float(value)
    except (KeyError, IndexError, TypeError, ValueError):
        raise ValueError(
            f"{item.folder}: an annotation of {item.kind} has no time at {path}; fetch it again"
        ) from None


def merge(spans: Sequence[Span], gap_s: float) -> list[Span]:
    """By time, those joined that are less than `gap_s` apart."""
    merged: list[Span] = []
    for start_s, end_s in sorted(spans):
        if merged and round(start_s - merged[-1][1], 6) < gap_s:
            merged[-1] = merged[-1][0], max(merged[-1][1], end_s)
        else:
            merged.append((start_s, end_s))
    return merged


def timing(user: Sequence[Span], model: Sequence[Span]) -> dict[str, list[float]]:
    """v1.5. stop_latency_s: each overlap of user and model; response_latency_s: from each end of the user to the next
    beginning of the model, if that comes before the user's next."""
    user, model = merge(user, USER_GAP_S), merge(model, MODEL_GAP_S)
    overlaps = [min(u[1], m[1]) - max(u[0], m[0]) for u in user for m in model]
    waits = []
    for (_, end_s), (next_s, _) in itertools.pairwise([*user, (float("inf"), 0.0)]):
        waits += [start_s - end_s for start_s, _ in model if end_s <= start_s < next_s][:1]
    return {"stop_latency_s": [s for s in overlaps if s > 0], "response_latency_s": waits}


def scores(found: Sequence[tuple[Item, Sequence[Word]]]) -> dict[str, Score]:
    """Means over the items of each folder, as text_emission/<kind>/<folder>/<score>."""
    cases: dict[str, list[float]] = collections.defaultdict(list)
    for item, words in found:
        for name, values in score_item(item, words).items():
            cases[f"text_emission/{item.kind}/{item.group}/{name}"] += values
    return {
        name: Score(statistics.fmean(values), len(values))
        for name, values in cases.items()
        if values
    }
