"""Corpora that are folders of sound files with transcripts among them -> entries."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from configs.schema import SourceConfig
from datamodules.sources.manifest_entry import (
    NO_AUDIO,
    NO_TEXT,
    NO_TRANSCRIPT,
    Entry,
    EntryOrSkipped,
    Skipped,
    split_of,
    spoken_text,
)

SOUND_SUFFIXES = (".flac", ".wav", ".ogg", ".mp3", ".opus", ".sph")
APART = re.compile(r" '(?=(?:s|re|ll|ve|d|m|t|em)\b)")
"""TED-LIUM writes "it 's"."""
UNSCORED = "ignore_time_segment_in_scoring"
NO_WORDS = "with a state or a response, but no transcript"


def walk(folder: Path) -> Iterator[tuple[Path, list[str], str | None]]:
    """Every folder, its files in order, and the name of the first folder on the way that is a
    split's."""
    for root, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        yield Path(root), sorted(files), split_above(Path(root).relative_to(folder))


def split_above(relative: Path) -> str | None:
    """The first part of a path that names a split."""
    return next((part for part in relative.parts if split_of(part)), None)


def read_librispeech(source: SourceConfig, folder: Path) -> Iterator[EntryOrSkipped]:
    """`*.trans.txt` beside its sound files: "ID WORDS" a line."""
    for root, files, split in walk(folder):
        audio = _sounds(root, files)
        for transcript in (name for name in files if name.endswith(".trans.txt")):
            for id, text in _lines(root / transcript):
                path = audio.pop(id, None)
                yield (
                    Skipped(NO_AUDIO, id)
                    if path is None
                    else _whole(id, path, text, id.split("-")[0], split)
                )
        yield from (Skipped(NO_TRANSCRIPT, str(path)) for path in audio.values())


def read_mls(source: SourceConfig, folder: Path) -> Iterator[EntryOrSkipped]:
    """<split>/transcripts.txt ("ID<tab>words") and <split>/audio/<speaker>/<book>/ID.flac or
    .opus."""
    for root, files, split in walk(folder):
        if "transcripts.txt" not in files:
            continue
        lengths = _mls_lengths(root / "segments.txt") if "segments.txt" in files else {}
        for id, text in _lines(root / "transcripts.txt"):
            speaker, book, _ = id.split("_")
            path = root / "audio" / speaker / book / f"{id}.flac"
            path = path if path.is_file() else path.with_suffix(".opus")
            found = path.is_file()
            yield (
                _whole(id, path, text, speaker, split, lengths.get(id))
                if found
                else Skipped(NO_AUDIO, id)
            )


def _mls_lengths(path: Path) -> dict[str, float]:
    """ID -> seconds, from "ID<tab>URL<tab>start<tab>end"."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return {row[0]: float(row[3]) - float(row[2]) for row in rows if len(row) == 4}


def read_tedlium(source: SourceConfig, folder: Path) -> Iterator[EntryOrSkipped]:
    """<split>/stm/TALK.stm ("talk channel speaker start end <tags> words") and
    <split>/sph/TALK.sph."""
    legacy = next(
        (root for root, _, _ in walk(folder) if root.name == "legacy"), folder
    )  # data/ has no splits
    for root, files, split in walk(legacy):
        talks = (
            _sounds(root.parent / "sph", sorted(os.listdir(root.parent / "sph")))
            if root.name == "stm"
            else {}
        )
        for transcript in (name for name in files if root.name == "stm" and name.endswith(".stm")):
            path = talks.get(Path(transcript).stem)
            for line in (root / transcript).read_text(encoding="utf-8").splitlines():
                if line.strip() and not line.startswith(";;"):
                    yield _talk_segment(line, path, split)


def _talk_segment(line: str, path: Path | None, split: str | None) -> EntryOrSkipped:
    talk, _, speaker, start, end, *rest = line.split(maxsplit=5)
    id = f"{talk}-{start}-{end}"
    if path is None:
        return Skipped(NO_AUDIO, id)
    text = "" if UNSCORED in line else spoken_text(APART.sub("'", " ".join(rest)))
    return Entry(id, path, float(start), float(end) - float(start), text, "", speaker, split)


def read_duplexmamba(source: SourceConfig, folder: Path) -> Iterator[EntryOrSkipped]:
    """`*response.txt` beside its sound files: "ID text" a line, the transcript where ID begins with
    asr-."""
    for root, files, split in walk(folder):
        audio = _sounds(root, files)
        for transcript in (name for name in files if name.endswith("response.txt")):
            for id, text in _lines(root / transcript):
                if not id.startswith("asr-"):
                    yield Skipped(NO_WORDS, id)
                elif id not in audio:
                    yield Skipped(NO_AUDIO, id)
                else:
                    yield _whole(id, audio[id], text, id.split("-")[1], split)


def read_sidecars(source: SourceConfig, folder: Path) -> Iterator[EntryOrSkipped]:
    """Any folder: the words of a sound file in a .txt or .lab of the same name beside it."""
    for root, files, split in walk(folder):
        words = {Path(name).stem: root / name for name in files if name.endswith((".txt", ".lab"))}
        for stem, path in _sounds(root, files).items():
            if stem in words:
                yield _whole(
                    str(path.relative_to(folder)),
                    path,
                    words[stem].read_text(encoding="utf-8"),
                    "",
                    split,
                )
            else:
                yield Skipped(NO_TRANSCRIPT, str(path))


def _sounds(folder: Path, files: list[str]) -> dict[str, Path]:
    return {
        Path(name).stem: folder / name for name in files if name.lower().endswith(SOUND_SUFFIXES)
    }


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """First word and rest of each line."""
    for line in path.read_text(encoding="utf-8").splitlines():
        id, _, text = line.strip().replace("\t", " ", 1).partition(" ")
        if id:
            yield id, text


def _whole(
    id: str, path: Path, text: str, speaker: str, split: str | None, duration_s: float | None = None
) -> EntryOrSkipped:
    return (
        Entry(id, path, 0.0, duration_s, spoken_text(text), "", speaker, split)
        if text.strip()
        else Skipped(NO_TEXT, id)
    )
