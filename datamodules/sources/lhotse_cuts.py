"""lhotse's manifests and Shar folders -> entries. Plain cuts are read here; what is mixed or
transformed, by lhotse."""

import importlib.util
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from configs.schema import SourceConfig
from datamodules.sources.audio_sources import AudioSource, LhotseSource, TarSource
from datamodules.sources.manifest_entry import (
    NO_AUDIO,
    NO_TEXT,
    NO_TRANSCRIPT,
    Entry,
    EntryOrSkipped,
    Skipped,
    spoken_text,
)
from datamodules.sources.manifests import (
    EXCLUDED_BY_WHERE,
    Columns,
    Record,
    audio_folder,
    read_records,
)
from datamodules.sources.shards import members

NEEDS_LHOTSE = "mixed, transformed or not in files, which only lhotse can read: pip install lhotse"


def read_cuts(
    path: str | Path, rows: list[Record], source: SourceConfig, split: str | None
) -> Iterator[EntryOrSkipped]:
    """One entry per supervision, which counts its time from the start of the cut."""
    columns = Columns(source)
    base = audio_folder(path, _files(row["recording"] for row in rows if "recording" in row))
    for row in rows:
        supervisions = row.get("supervisions") or []
        if "recording" not in row or _only_lhotse(row["recording"]):
            yield _by_lhotse(row, columns, str(base), split)
        elif not supervisions:
            yield Skipped(NO_TEXT, str(row["id"]))
        else:
            yield from (
                _supervised(row["recording"], s, row["start"], base, columns, split)
                for s in supervisions
            )


def read_recordings(
    path: Path, source: SourceConfig, split: str | None
) -> Iterator[EntryOrSkipped]:
    """A file of recordings and the file of supervisions that bears the same name otherwise."""
    partner = path.with_name(path.name.replace("recordings", "supervisions"))
    if not partner.is_file():
        raise ValueError(
            f"{path} has no supervisions beside it; put {partner.name} there, or give cuts"
        )
    recordings, columns = {row["id"]: row for row in read_records(path)}, Columns(source)
    base = audio_folder(path, _files(recordings.values()))
    supervised = set()
    for supervision in read_records(partner):
        recording = recordings.get(supervision["recording_id"])
        supervised.add(supervision["recording_id"])
        if recording is None:
            yield Skipped(NO_AUDIO, supervision["id"])
        elif _only_lhotse(recording):
            yield Skipped(NEEDS_LHOTSE, supervision["id"])
        else:
            yield _supervised(recording, supervision, 0.0, base, columns, split)
    yield from (Skipped(NO_TRANSCRIPT, id) for id in recordings if id not in supervised)


def read_shar(cuts: str, source: SourceConfig, split: str | None) -> Iterator[EntryOrSkipped]:
    """A shard of cuts, with the sound of each in the tar of recordings that bears the same
    number."""
    shard = cuts.replace("cuts.", "recording.").removesuffix(".gz").removesuffix(".jsonl") + ".tar"
    columns, found = Columns(source), list(members(shard))
    sounds = {
        m.name.rpartition(".")[0]: m
        for m, known in found
        if isinstance(m, TarSource) and isinstance(known, float)
    }
    yield from (member for member, _ in found if isinstance(member, Skipped))
    for row in read_records(cuts):
        for supervision in row.get("supervisions") or []:
            sound = sounds.get(row["id"])
            yield (
                _entry(supervision, sound, 0.0, columns, split)
                if sound
                else Skipped(NO_AUDIO, row["id"])
            )


def _files(recordings: Iterable[Record]) -> Iterator[str]:
    return (
        source["source"]
        for recording in recordings
        for source in recording["sources"]
        if source["type"] == "file"
    )


def _only_lhotse(recording: Record) -> bool:
    return bool(recording.get("transforms")) or any(
        source["type"] != "file" for source in recording["sources"]
    )


def _by_lhotse(row: Record, columns: Columns, base: str, split: str | None) -> EntryOrSkipped:
    """The whole cut as one utterance, with the words of all its supervisions."""
    supervisions = row.get("supervisions") or [
        s for t in row.get("tracks", []) for s in t["cut"].get("supervisions", [])
    ]
    if not importlib.util.find_spec("lhotse"):
        return Skipped(NEEDS_LHOTSE, str(row.get("id")))
    if not supervisions:
        return Skipped(NO_TEXT, str(row["id"]))
    text = " ".join(columns.get(s, "text") for s in supervisions)
    whole = {**supervisions[0], "id": row["id"], "text": text, "start": 0.0, "duration": None}
    return _entry(whole, LhotseSource(row["id"], json.dumps(row), base), 0.0, columns, split)


def _supervised(
    recording: Record,
    supervision: Record,
    offset_s: float,
    base: str | Path,
    columns: Columns,
    split: str | None,
) -> EntryOrSkipped:
    channels = supervision.get("channel", 0)
    channels = channels if isinstance(channels, list) else [channels]
    files = [s for s in recording["sources"] if channels[0] in s["channels"]]
    if not files:
        return Skipped(NO_AUDIO, supervision["id"])
    in_file = files[0]["channels"]
    channel = in_file.index(channels[0]) if len(in_file) > 1 and len(channels) == 1 else None
    return _entry(supervision, Path(base) / files[0]["source"], offset_s, columns, split, channel)


def _entry(
    supervision: Record,
    path: AudioSource,
    offset_s: float,
    columns: Columns,
    split: str | None,
    channel: int | None = None,
) -> EntryOrSkipped:
    if not columns.selects(supervision):
        return Skipped(EXCLUDED_BY_WHERE, "")
    custom = supervision.get("custom") or {}
    return Entry(
        id=supervision["id"],
        path=path,
        start_s=offset_s + supervision["start"],
        duration_s=supervision["duration"],
        text=spoken_text(columns.get(supervision, "text")),
        answer=columns.get(custom, "answer"),
        speaker=columns.get(supervision, "speaker"),
        split=split,
        channel=channel,
    )
