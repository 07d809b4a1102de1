"""Full-Duplex-Bench v1 and v1.5 for a model that answers in text: the `text-emission variant`.

An item is a folder with `input.wav` and an annotation that determines what is scored (the names are
the benchmark's own):

- `pause.json`: pause handling; takeover rate, lower is better.
- `turn_taking.json`, `[{"timestamp": [end of turn, ...]}, ...]`: smooth turn-taking; takeover rate
  and latency.
- `interrupt.json`, `[{"timestamp": [begin, end]}, ...]`: user interruption; the same scores, for
  the words after the end of the interruption.
- `metadata.json`, `{"timestamps": [begin, end]}`: v1.5; how long the model continues while the user
  speaks over it, and when it speaks again. The user's words are those of `transcription.json` if
  there is one, else that single span.
- `transcription.json` alone: back-channels. The official scores need output audio: this takeover
  rate is not official.

A session gets the samples of the file and nothing else. A word begins with the slice that emits its
first piece. It ends when the next piece is due, or with the next word. Written from a description
of the rules; all times are in seconds.
"""

import collections
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from duplexmamba.duplex.events import Event
from evaluation.console import with_progress
from evaluation.duplex.play import OpenSession, ReadAudio
from evaluation.record import ScoreValue

MIN_TURN_S = 1.0
MAX_BACKCHANNEL_WORDS = 3
"""Output that is shorter than `MIN_TURN_S` and has no more words than this does not take the
turn."""
USER_GAP_S = 0.6
MODEL_GAP_S = 0.5
"""v1.5: spans with a shorter gap between them are joined."""
KINDS = {
    "pause.json": "pause_handling",
    "turn_taking.json": "smooth_turn_taking",
    "interrupt.json": "user_interruption",
    "metadata.json": "v1.5_timing",
    "transcription.json": "backchannel_not_official",
}
"""Annotation file -> kind of item. If an item has several, the first one in this order counts."""

Span = tuple[float, float]
"""Begin and end in seconds."""


class Word(NamedTuple):
    """A word that the model emitted."""

    text: str
    start_s: float
    end_s: float


class Item(NamedTuple):
    """A recording and its annotation."""

    folder: Path
    group: str
    """Folder of the data set that the item belongs to, relative to the root."""
    kind: str
    annotation: Any


def find_items(root: Path) -> list[Item]:
    """Find all items below a folder.

    Raises:
        ValueError: there is no item, or an item has no readable annotation.
    """
    folders = sorted(wav.parent for wav in root.rglob("input.wav"))
    if not folders:
        raise ValueError(
            f"{root}: no input.wav below it; give the folder of a Full-Duplex-Bench data set"
        )
    return [_read_item(folder, root) for folder in folders]


def _read_item(folder: Path, root: Path) -> Item:
    """The item in a folder."""
    names = [name for name in KINDS if (folder / name).exists()]
    if not names:
        raise ValueError(
            f"{folder}: none of {', '.join(KINDS)} beside input.wav; put the item's annotation "
            "there"
        )
    annotation = read_json(folder / names[0])
    # Items are in subfolders of their group, except if the root itself is an item.
    group = root if folder == root else folder.parent
    group_name = root.name if group == root else group.relative_to(root).as_posix()
    return Item(folder, group_name, KINDS[names[0]], annotation)


def read_json(file: Path) -> Any:
    """Read a JSON file. Raises ValueError: its content is not JSON."""
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}); fetch it again") from None


def words_of(events: Sequence[Event], tokens_per_s: float) -> list[Word]:
    """The words of a session with the times at which they were emitted.

    Args:
        events: of all slices, in order.
        tokens_per_s: pace of the model, which gives the time when the next piece is due.
    """
    words: list[Word] = []
    # The first piece of a response starts a word even without a leading space.
    at_response_start = True
    for event in events:
        due_s = round(event.time_s + 1 / tokens_per_s, 6)
        if event.action == "respond":
            at_response_start = True
        for index, text in enumerate(event.text.split()):
            # Pieces of the tokenizer carry the space before a word, not the one after it.
            starts_word = index > 0 or at_response_start or event.text.startswith(" ")
            if starts_word:
                words.append(Word(text, round(event.time_s, 6), due_s))
            else:
                last = words[-1]
                words[-1] = Word(last.text + text, last.start_s, due_s)
            at_response_start = False
    return _end_at_next(words)


def _end_at_next(words: Sequence[Word]) -> list[Word]:
    """The words, none of which ends after the beginning of the next one."""
    result = []
    next_starts_s = [word.start_s for word in words[1:]] + [float("inf")]
    for word, next_start_s in zip(words, next_starts_s, strict=True):
        result.append(word._replace(end_s=min(word.end_s, next_start_s)))
    return result


def output(words: Sequence[Word]) -> dict[str, Any]:
    """Content of output.json in the benchmark's format."""
    chunks = [{"text": word.text, "timestamp": [word.start_s, word.end_s]} for word in words]
    return {"text": " ".join(word.text for word in words), "chunks": chunks}


def run(
    root: Path, open_session: OpenSession, read_audio: ReadAudio
) -> list[tuple[Item, list[Word]]]:
    """Play every item to a session of its own and write its output.json.

    Returns:
        Each item with the words of its session.

    Raises:
        ValueError: there is no item, or one cannot be read.
    """
    results = []
    for item in with_progress(find_items(root), "items"):
        session = open_session()
        samples = read_audio(item.folder / "input.wav", None)  # (n,)
        # At once: a session computes slice by slice whatever the length of the push.
        events = session.push(torch.from_numpy(samples))
        words = words_of(events, session.duplex.tokens_per_s)
        content = json.dumps(output(words), indent=1) + "\n"
        (item.folder / "output.json").write_text(content)
        results.append((item, words))
    return results


def took_over(words: Sequence[Word]) -> bool:
    """Whether words take the turn: more than three, or a second from first to last."""
    if not words:
        return False
    duration_s = round(words[-1].end_s - words[0].start_s, 6)
    return duration_s >= MIN_TURN_S or len(words) > MAX_BACKCHANNEL_WORDS


def score_item(item: Item, words: Sequence[Word]) -> dict[str, list[float]]:
    """Single cases of each score. Raises ValueError: the annotation lacks a time."""
    if item.kind == "v1.5_timing":
        spans = [(word.start_s, word.end_s) for word in words]
        return timing(_user_spans(item), spans)
    if item.kind not in ("smooth_turn_taking", "user_interruption"):
        return {"takeover_rate": [took_over(words)]}
    if item.kind == "user_interruption":
        # Words before the end of the interruption belong to the interrupted answer.
        end_s = _time(item, item.annotation, 0, "timestamp", 1)
        words = [word for word in words if word.start_s >= end_s]
    else:
        end_s = _time(item, item.annotation, 0, "timestamp", 0)
    takes_over = took_over(words)
    latencies_s = []
    # Items without a takeover have no latency and do not count in its mean.
    if takes_over:
        latency_s = words[0].start_s - end_s
        latencies_s.append(max(0.0, latency_s))
    return {"takeover_rate": [takes_over], "latency_s": latencies_s}


def _user_spans(item: Item) -> list[Span]:
    """Speech of the user from the annotated event of v1.5 on."""
    begin_s = _time(item, item.annotation, "timestamps", 0)
    spans = [(begin_s, _time(item, item.annotation, "timestamps", 1))]
    file = item.folder / "transcription.json"
    if file.exists():
        transcription = read_json(file)
        # Some files hold the list of chunks itself, others a dict with text and chunks.
        chunks = transcription
        if isinstance(transcription, dict):
            chunks = transcription.get("chunks", [])
        spans = []
        for chunk in chunks:
            start_s = _time(item, chunk, "timestamp", 0)
            end_s = _time(item, chunk, "timestamp", 1)
            spans.append((start_s, end_s))
    # Speech that ends before the event is the question that the model is answering.
    return [span for span in merge(spans, USER_GAP_S) if span[1] > begin_s]


def _time(item: Item, value: Any, *path: str | int) -> float:
    """The number at a path of keys and indices in an annotation."""
    try:
        for key in path:
            value = value[key]
        return float(value)
    except (KeyError, IndexError, TypeError, ValueError):
        raise ValueError(
            f"{item.folder}: an annotation of {item.kind} has no time at {path}; fetch it again"
        ) from None


def merge(spans: Sequence[Span], gap_s: float) -> list[Span]:
    """Sort spans and join those less than `gap_s` apart."""
    merged: list[Span] = []
    for start_s, end_s in sorted(spans):
        # Rounded, since differences of decimal times have errors of floating point.
        if merged and round(start_s - merged[-1][1], 6) < gap_s:
            last_start_s, last_end_s = merged[-1]
            merged[-1] = (last_start_s, max(last_end_s, end_s))
        else:
            merged.append((start_s, end_s))
    return merged


def timing(user: Sequence[Span], model: Sequence[Span]) -> dict[str, list[float]]:
    """Compute the times of v1.5.

    Args:
        user: spans of the user's speech.
        model: spans of the model's words.

    Returns:
        `stop_latency_s`: length of each overlap of user and model. `response_latency_s`: time from
        each end of the user's speech to the next beginning of the model's, if that comes before
        the user speaks again.
    """
    user = merge(user, USER_GAP_S)
    model = merge(model, MODEL_GAP_S)
    stop_latencies_s = []
    for user_start_s, user_end_s in user:
        for model_start_s, model_end_s in model:
            overlap_s = min(user_end_s, model_end_s) - max(user_start_s, model_start_s)
            if overlap_s > 0:
                stop_latencies_s.append(overlap_s)
    response_latencies_s = []
    # After the last span the user never speaks again.
    user_starts_s = [start_s for start_s, _ in user]
    next_starts_s = [*user_starts_s, float("inf")][1:]
    for (_, end_s), next_start_s in zip(user, next_starts_s, strict=True):
        starts_s = [start_s for start_s, _ in model if end_s <= start_s < next_start_s]
        if starts_s:
            response_latencies_s.append(starts_s[0] - end_s)
    return {"stop_latency_s": stop_latencies_s, "response_latency_s": response_latencies_s}


def scores(results: Sequence[tuple[Item, Sequence[Word]]]) -> dict[str, ScoreValue]:
    """Means over the items of each group, as text_emission/<kind>/<group>/<score>."""
    cases: dict[str, list[float]] = collections.defaultdict(list)
    for item, words in results:
        for name, values in score_item(item, words).items():
            cases[f"text_emission/{item.kind}/{item.group}/{name}"] += values
    means = {}
    for name, values in cases.items():
        if values:
            means[name] = ScoreValue(statistics.fmean(values), len(values))
    return means
