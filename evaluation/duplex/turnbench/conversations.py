"""Reads TurnBench as published: parquet with both channels and annotations, or exported gold.

A folder holds parquet files of the splits dev and test, or `<conversation_id>.wav` of two channels
for each conversation, and optionally the JSON file that `python -m turnbench.gold export` writes.
Only the annotations are read at once; sound is read when a conversation is heard.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datamodules.corpus import UnusableAudio
from datamodules.sources.audio import sound_shape
from datamodules.sources.audio_sources import AudioSource, ParquetSource, open_parquet
from evaluation.duplex.turnbench import SPEAKERS
from evaluation.duplex.turnbench.gold import (
    ANNOTATORS,
    Annotation,
    Gold,
    Instant,
    Span,
    TaskGold,
    gold_of,
)
from evaluation.duplex.turnbench.scoring import EARLY_S, LATE_S

DEV_REVISION = "8fa18a24"
"""Beginning of the revision of the dev split that the benchmark pins."""
NUM_DEV = 38
NUM_TEST = 116
DURATION_SLACK_S = 0.05
"""By so much may the duration in a gold file differ from that of the audio."""
EXPORTED = {"eot": ("eot_positive_events", "eot_negative_spans", "eot_excluded"),
            "int": ("int_positive_events", "int_negative_spans", "int_excluded")}  # fmt: skip
"""Task -> keys of a gold file."""


@dataclasses.dataclass(frozen=True)
class Conversation:
    """A conversation of two speakers."""

    id: str
    audio: Mapping[int, tuple[AudioSource, int | None]]
    """Speaker -> sound and channel of it; None for a sound of one channel."""
    kind: str = ""
    """`conversation_type`, such as Casual; empty where it is not known."""
    gold: Gold | None = None
    """None in the test split."""

    def duration_s(self) -> float:
        """Length of its audio.

        Raises:
            ValueError: the audio cannot be read, or the speakers' sounds differ in length.
        """
        durations_s = []
        for source, _ in self.audio.values():
            try:
                durations_s.append(sound_shape(source)[0])
            except UnusableAudio as error:
                raise ValueError(f"{error}; fetch it again") from None
        if len(set(durations_s)) > 1:
            lengths = " and ".join(f"{duration_s:.3f} s" for duration_s in durations_s)
            raise ValueError(
                f"conversation {self.id}: the channels last {lengths}; fetch its file again"
            )
        return durations_s[0]


def read_conversations(folder: Path) -> list[Conversation]:
    """Read all conversations below a folder, in the order of their numbers.

    Raises:
        ValueError: there is none, or a file does not have the published layout.
    """
    conversations: dict[str, Conversation] = {}
    files = [*sorted(folder.rglob("*.parquet")), *sorted(folder.glob("*.wav"))]
    for file in files:
        rows = _read_parquet(file) if file.suffix == ".parquet" else [_stereo(file)]
        for conversation in rows:
            if conversation.id in conversations:
                raise ValueError(
                    f"{file}: conversation {conversation.id} is there twice; remove one of them"
                )
            conversations[conversation.id] = conversation
    if not conversations:
        raise ValueError(
            f"{folder}: no parquet and no wav in it; download mundo-ai/turn-benchmark-dev, or put "
            "each conversation there as <number>.wav of two channels"
        )
    for file in sorted(folder.glob("*.json")):
        for name, gold in read_exported_gold(file).items():
            # Gold of conversations whose audio is not there is not used.
            if name in conversations and conversations[name].gold is None:
                conversations[name] = dataclasses.replace(conversations[name], gold=gold)
    # As numbers: 3 comes before 20.
    return sorted(conversations.values(), key=lambda each: int(each.id))


def _check_id(name: str, where: str) -> str:
    if not name.isdigit():
        raise ValueError(
            f"{where}: conversation_id {name!r} is no number; name it as in the data set"
        )
    return name


# ---- sound files of two channels


def _stereo(wav: Path) -> Conversation:
    try:
        _, num_channels = sound_shape(wav)
    except UnusableAudio as error:
        raise ValueError(f"{error}; repair or remove it") from None
    if num_channels != len(SPEAKERS):
        raise ValueError(
            f"{wav} has {num_channels} channels instead of two; put a speaker into each"
        )
    channels = {speaker: (wav, speaker - 1) for speaker in SPEAKERS}
    return Conversation(_check_id(wav.stem, str(wav)), channels)


# ---- parquet


def annotation_column(speaker: int, annotator: str) -> str:
    """Name of the column with the annotations of a speaker by an annotator."""
    return f"speaker_{speaker}_annotation_{annotator}"


def audio_column(speaker: int) -> str:
    """Name of the column with the sound of a speaker."""
    return f"speaker_{speaker}_audio"


def _read_parquet(file: Path) -> Iterator[Conversation]:
    with open_parquet(str(file)) as parquet:
        present = parquet.schema_arrow.names
        annotated = [annotation_column(s, a) for s in SPEAKERS for a in ANNOTATORS]
        needed = ["conversation_id", *(audio_column(speaker) for speaker in SPEAKERS)]
        absent = [name for name in needed if name not in present]
        if absent:
            raise ValueError(
                f"{file} has no column {', '.join(absent)}; download mundo-ai/turn-benchmark-dev "
                "again, or move other files out of the folder"
            )
        # Audio is nearly all of the bytes and is not read here.
        wanted = ["conversation_id", "metadata", *annotated]
        columns = [name for name in wanted if name in present]
        for group in range(parquet.num_row_groups):
            rows = parquet.read_row_group(group, columns=columns).to_pylist()
            for number, row in enumerate(rows):
                where = f"{file}, row group {group}, row {number}"
                yield _conversation(row, ParquetSource(str(file), group, number, ""), where)


def _conversation(row: Mapping[str, Any], cell: ParquetSource, where: str) -> Conversation:
    """A row of a parquet file.

    Args:
        row: its columns other than audio.
        cell: the row, without a column.
        where: the row, for messages.
    """
    audio: dict[int, tuple[AudioSource, int | None]] = {}
    for speaker in SPEAKERS:
        audio[speaker] = (dataclasses.replace(cell, column=audio_column(speaker)), None)
    tracks: dict[tuple[int, str], list[Annotation]] = {}
    for speaker in SPEAKERS:
        for annotator in ANNOTATORS:
            column = annotation_column(speaker, annotator)
            tracks[speaker, annotator] = _annotations(row.get(column), f"{where}, {column}")
    # The columns are blank in the test split.
    gold = gold_of(tracks) if any(tracks.values()) else None
    name = _check_id(str(row["conversation_id"]), where)
    metadata = row.get("metadata") or {}
    return Conversation(name, audio, metadata.get("conversation_type") or "", gold)


def _annotations(values: Sequence[Mapping[str, Any]] | None, where: str) -> list[Annotation]:
    annotations = []
    for index, value in enumerate(values or []):
        try:
            annotation = Annotation(
                float(value["start_s"]), float(value["end_s"]), str(value["label"])
            )
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{where}, annotation {index}: no start_s, end_s and label; download the data again"
            ) from None
        if not 0 <= annotation.start_s <= annotation.end_s:
            raise ValueError(
                f"{where}, annotation {index}: from {annotation.start_s} to {annotation.end_s} s "
                "is no span of time; download the data again"
            )
        annotations.append(annotation)
    return annotations


# ---- exported gold


def read_exported_gold(file: Path) -> dict[str, Gold]:
    """Read a file that `python -m turnbench.gold export` has written.

    Returns:
        Conversation -> gold.

    Raises:
        ValueError: it is no such file, or one of another revision of the scorer or of the data.
    """
    # The text is kept to name the line of what is wrong.
    text = file.read_text()
    try:
        exported = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{file} is no JSON ({error}); export the gold again") from None
    if not isinstance(exported, dict) or "conversations" not in exported:
        raise ValueError(
            f"{file} has no `conversations`; write it with `python -m turnbench.gold export`, or "
            "move it out of the folder"
        )
    for key, expected in (("tau_pre_s", EARLY_S), ("tau_max_s", LATE_S)):
        if exported.get(key) != expected:
            raise _other_revision(file, text, key, exported.get(key), expected)
    revision = str(exported.get("dataset_revision"))
    if not revision.startswith(DEV_REVISION):
        raise _other_revision(file, text, "dataset_revision", revision, DEV_REVISION)
    gold = {}
    for name, values in exported["conversations"].items():
        _check_id(name, str(file))
        try:
            gold[name] = _exported(values)
        except (KeyError, TypeError) as error:
            line = line_of(text, f'"{name}"')
            raise ValueError(
                f"{file}, line {line}: conversation {name} lacks {error}; export the gold again"
            ) from None
    return gold


def _other_revision(file: Path, text: str, key: str, value: Any, expected: Any) -> ValueError:
    line = line_of(text, f'"{key}"')
    return ValueError(
        f"{file}, line {line}: {key} is {value} instead of {expected}: gold of another revision; "
        "check out the current turnbench and run `python -m turnbench.gold export` again"
    )


def line_of(text: str, wanted: str) -> int:
    """Number of the line in which a text occurs first, from 1; 1 if it does not."""
    found = re.search(re.escape(wanted), text)
    return text.count("\n", 0, found.start()) + 1 if found else 1


def _exported(values: Mapping[str, Any]) -> Gold:
    gold = {}
    for task, (positive_key, negative_key, excluded_key) in EXPORTED.items():
        positives = [Instant(each["speaker"], each["time_s"]) for each in values[positive_key]]
        gold[task] = TaskGold(positives, _spans(values[negative_key]), _spans(values[excluded_key]))
    return gold


def _spans(values: Sequence[Mapping[str, Any]]) -> list[Span]:
    return [Span(each["speaker"], each["start"], each["end"]) for each in values]


def check_gold(conversation: Conversation, duration_s: float) -> None:
    """Check that the gold of a conversation lies within its audio.

    Raises:
        ValueError: an event lies beyond the end, so the gold is of other audio.
    """
    if conversation.gold is None:
        return
    latest_s = 0.0
    for task in conversation.gold.values():
        times_s = [positive.time_s for positive in task.positives]
        times_s += [span.end_s for span in task.negatives]
        latest_s = max([latest_s, *times_s])
    if latest_s > duration_s + DURATION_SLACK_S:
        raise ValueError(
            f"conversation {conversation.id}: gold at {latest_s:.2f} s, but its audio lasts "
            f"{duration_s:.2f} s; audio and gold are of different revisions, fetch both again"
        )
