"""Folders and manifests of recorded speech -> entries, one per utterance, without opening any audio.

Understood are LibriSpeech-layout folders, JSONL manifests (NeMo's among them) and lhotse manifests; each reader yields
what it can use as `Entry` and what it cannot as `Skip`.
"""

import dataclasses
import gzip
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from duplexmamba.tokens import normalise

AUDIO_KEYS = ("audio", "audio_filepath", "path", "wav", "source_wav")
TEXT_KEYS = ("text", "transcript", "sentence", "source_text")
SPEAKER_KEYS = ("speaker", "speaker_id", "client_id")
ANSWER_KEYS = ("answer", "target_text")
ID_KEYS = ("id", "key")
SPLIT_WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLIT_WORDS |= dict.fromkeys(("valid", "validation", "val", "dev"), "valid")
SOUND_SUFFIXES = (".flac", ".wav", ".ogg", ".mp3", ".opus", ".m4a")
LAYOUTS = (
    "a LibriSpeech-layout folder (*.trans.txt beside *.flac or *.wav), a JSONL manifest or a folder with "
    "manifest.jsonl or train/valid/test.jsonl (one line per utterance, with audio and text), or lhotse cuts or "
    "recordings and supervisions"
)

NO_TEXT, NO_AUDIO, NO_TRANSCRIPT = "without text", "in a transcript but without audio", "audio without a transcript"
NEEDS_LHOTSE = "mixed, transformed or not in files, which only lhotse can read"


@dataclasses.dataclass(frozen=True)
class Entry:
    """Where one utterance lies and what is said in it."""

    id: str
    path: Path
    start_s: float
    duration_s: float | None
    """None: to the end of the file."""
    text: str
    """Normalised, never empty."""
    answer: str
    speaker: str
    """Empty: unknown."""
    split: str | None
    """train, valid or test where the corpus says so."""
    channel: int | None = None
    """None: the mean of all channels."""

    @property
    def length_s(self) -> float:
        """The duration of an entry that has been measured."""
        assert self.duration_s is not None
        return self.duration_s


@dataclasses.dataclass(frozen=True)
class Skip:
    """Something left out."""

    reason: str
    what: str
    """The name of the utterance or file, or a sentence that begins with it."""


def read_corpus(path: str | Path) -> tuple[list[Entry], list[Skip]]:
    """Every utterance of a folder or manifest, and what was left out.

    Raises:
        ValueError: no such path, a layout that is not understood, a broken manifest, or nothing usable in it.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise ValueError(f"data.path={path} does not exist; give {LAYOUTS}")
    found = list(_read_manifest(path) if path.is_file() else _read_folder(path))
    entries = [item for item in found if isinstance(item, Entry)]
    skipped = [item for item in found if isinstance(item, Skip)]
    check_any(path, entries, skipped)
    return entries, skipped


def check_any(path: str | Path, entries: list[Entry], skipped: list[Skip]) -> None:
    """Raises ValueError, with what was left out and why, when no entry remains."""
    if not entries:
        raise ValueError(
            f"data.path={path} holds nothing usable; left out: {'; '.join(summarise(skipped)) or 'nothing'}"
        )


def summarise(skipped: Iterable[Skip]) -> list[str]:
    """One phrase per reason: how many, and up to three of them."""
    by_reason: dict[str, list[str]] = {}
    for skip in skipped:
        by_reason.setdefault(skip.reason, []).append(skip.what)
    return [f"{len(names):,} {reason} ({_few(names)})" for reason, names in by_reason.items()]


def split_of(name: str) -> str | None:
    """train, valid or test from a name such as "dev-clean"; None if no word of it is known."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), None)


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _kept(entry: Entry) -> Entry | Skip:
    """The entry under its split's proper name, unless it cannot serve."""
    split = split_of(entry.split or "")
    if not entry.text:
        return Skip(NO_TEXT, entry.id)
    if entry.split and not split:
        return Skip(f"of split {entry.split!r}, which is none of train, valid and test", entry.id)
    return dataclasses.replace(entry, split=split)


# ---- folders


def _read_folder(folder: Path) -> Iterable[Entry | Skip]:
    stems = {f: f.name.split(".jsonl")[0] for f in sorted(folder.iterdir()) if f.name.endswith((".jsonl", ".jsonl.gz"))}
    recordings = [file for file, stem in stems.items() if "recordings" in stem]
    cuts = [file for file, stem in stems.items() if stem == "cuts" or split_of(stem)]
    whole = [file for file, stem in stems.items() if stem == "manifest"]
    manifests = whole or [file for file in cuts if not re.search("recordings|supervisions", stems[file])]
    if not manifests and not recordings:
        return _read_librispeech(folder)
    read = _read_manifest if manifests else _read_recordings
    return (item for file in manifests or recordings for item in read(file, split_of(stems[file])))


def _read_librispeech(folder: Path) -> Iterator[Entry | Skip]:
    has_audio = has_transcript = False
    for root, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        transcripts = sorted(name for name in files if name.endswith(".trans.txt"))
        has_audio |= any(name.lower().endswith(SOUND_SUFFIXES) for name in files)
        has_transcript |= bool(transcripts)
        yield from _read_chapter(Path(root), transcripts, files, _split_above(Path(root).relative_to(folder)))
    if not has_transcript:
        trouble = "holds audio but no transcripts" if has_audio else "holds no speech"
        raise ValueError(f"data.path={folder} {trouble}; understood are {LAYOUTS}")


def _split_above(relative: Path) -> str | None:
    return next((split for part in relative.parts if (split := split_of(part))), None)


def _read_chapter(folder: Path, transcripts: list[str], files: list[str], split: str | None) -> Iterator[Entry | Skip]:
    audio = {Path(name).stem: folder / name for name in sorted(files) if name.lower().endswith((".flac", ".wav"))}
    for transcript in transcripts:
        for line in (folder / transcript).read_text(encoding="utf-8").splitlines():
            id, _, text = line.strip().partition(" ")
            if not id:
                continue
            path = audio.pop(id, None)
            if path is None:
                yield Skip(NO_AUDIO, id)
            else:
                yield _kept(Entry(id, path, 0.0, None, normalise(text), "", id.split("-")[0], split))
    yield from (Skip(NO_TRANSCRIPT, str(path)) for path in audio.values())


# ---- JSONL manifests


def _read_manifest(path: Path, split: str | None = None) -> Iterator[Entry | Skip]:
    rows = _rows(path)
    keys = set().union(*rows)
    if keys & {"supervisions", "tracks"}:
        return _read_cuts(path, rows, split)
    for what, known in (("audio", AUDIO_KEYS), ("text", TEXT_KEYS)):
        if not keys & set(known):
            has, give = ", ".join(sorted(keys)), ", ".join(known)
            raise ValueError(f"{path}: no line has a key for {what}; its keys are {has}; give one of {give}")
    return _read_plain(path, rows, split)


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            rows = [_row(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path} cannot be unpacked: {error}; fetch or write it again") from None
    if not rows:
        raise ValueError(f"{path} is empty; a manifest holds one JSON object per line")
    return rows


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise ValueError(f"{path}, line {number}: not a JSON object; a manifest is JSONL, one object per line")
    return row


def _read_plain(path: Path, rows: list[dict[str, Any]], split: str | None) -> Iterator[Entry | Skip]:
    base = _audio_base(path, (_first(row, AUDIO_KEYS) for row in rows))
    for number, row in enumerate(rows, 1):
        audio = _first(row, AUDIO_KEYS)
        start_s, duration_s = (_seconds(row, key, f"{path}, row {number}") for key in ("offset", "duration"))
        start_s = start_s or 0.0
        if not audio:
            yield Skip(NO_AUDIO, f"{path.name} row {number}")
            continue
        entry = Entry(
            id=_first(row, ID_KEYS) or (f"{audio}@{start_s:g}" if start_s else audio),
            path=base / audio,
            start_s=start_s,
            duration_s=duration_s,
            text=normalise(_first(row, TEXT_KEYS)),
            answer=_first(row, ANSWER_KEYS),
            speaker=_first(row, SPEAKER_KEYS),
            split=_first(row, ("split",)) or split,
        )
        yield _kept(entry)


def _seconds(row: dict[str, Any], key: str, where: str) -> float | None:
    try:
        return None if row.get(key) is None else float(row[key])
    except (TypeError, ValueError):
        raise ValueError(
            f"{where}: {key}={row[key]!r} is not a number of seconds; correct it or leave it out"
        ) from None


def _first(row: dict[str, Any], keys: tuple[str, ...]) -> str:
    """The first value that is there and not null, as text; else nothing."""
    return next((str(row[key]).strip() for key in keys if row.get(key) is not None), "")


def _audio_base(manifest: Path, audio: Iterable[str]) -> Path:
    """The folder that relative audio paths start from: the manifest's own, or the nearest above it that has the files.

    lhotse's and many other manifests are written relative to the folder their recipe ran in.
    """
    sample = list(itertools.islice(filter(None, audio), 20))
    parents = manifest.absolute().parents
    return next((base for base in parents if any((base / name).is_file() for name in sample)), manifest.parent)


# ---- lhotse


def _read_cuts(path: Path, rows: list[dict[str, Any]], split: str | None) -> Iterator[Entry | Skip]:
    """One entry per supervision, which counts its time from the start of the cut."""
    base = _audio_base(path, _sources(row["recording"] for row in rows if "recording" in row))
    for row in rows:
        supervisions = row.get("supervisions") or []
        if "recording" not in row:
            yield Skip(NEEDS_LHOTSE, str(row.get("id")))
        elif not supervisions:
            yield Skip(NO_TEXT, str(row["id"]))
        else:
            yield from (_supervised(row["recording"], s, row["start"], base, split) for s in supervisions)


def _read_recordings(path: Path, split: str | None) -> Iterator[Entry | Skip]:
    """A file of recordings and the file of supervisions that bears the same name otherwise."""
    partner = path.with_name(path.name.replace("recordings", "supervisions"))
    if not partner.is_file():
        raise ValueError(f"{path} has no supervisions beside it; put {partner.name} there, or give cuts")
    recordings = {row["id"]: row for row in _rows(path)}
    base = _audio_base(path, _sources(recordings.values()))
    supervised = set()
    for supervision in _rows(partner):
        recording = recordings.get(supervision["recording_id"])
        supervised.add(supervision["recording_id"])
        if recording is None:
            yield Skip(NO_AUDIO, supervision["id"])
        else:
            yield _supervised(recording, supervision, 0.0, base, split)
    yield from (Skip(NO_TRANSCRIPT, id) for id in recordings if id not in supervised)


def _sources(recordings: Iterable[dict[str, Any]]) -> Iterator[str]:
    return (source["source"] for recording in recordings for source in recording["sources"] if source["type"] == "file")


def _supervised(
    recording: dict[str, Any], supervision: dict[str, Any], offset_s: float, base: Path, split: str | None
) -> Entry | Skip:
    id, channels = supervision["id"], supervision.get("channel", 0)
    channels = channels if isinstance(channels, list) else [channels]
    files = [s for s in recording["sources"] if s["type"] == "file" and channels[0] in s["channels"]]
    if not files or recording.get("transforms"):
        return Skip(NEEDS_LHOTSE, id)
    in_file = files[0]["channels"]
    entry = Entry(
        id=id,
        path=base / files[0]["source"],
        start_s=offset_s + supervision["start"],
        duration_s=supervision["duration"],
        text=normalise(_first(supervision, ("text",))),
        answer=_first(supervision.get("custom") or {}, ANSWER_KEYS),
        speaker=_first(supervision, ("speaker",)),
        split=split,
        channel=in_file.index(channels[0]) if len(in_file) > 1 and len(channels) == 1 else None,
    )
    return _kept(entry)
