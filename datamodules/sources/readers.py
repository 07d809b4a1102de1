"""A source of the configuration -> entries, one per utterance, and what was left out; no sound is decoded."""

import concurrent.futures
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from configs.schema import SourceConfig
from datamodules.sources.folders import (
    SOUND_SUFFIXES,
    read_duplexmamba,
    read_librispeech,
    read_mls,
    read_sidecars,
    read_tedlium,
    walk,
)
from datamodules.sources.lhotse_cuts import read_cuts, read_recordings, read_shar
from datamodules.sources.manifest_entry import Entry, Found, Skip, assign, split_of, summarise
from datamodules.sources.manifests import read_plain, read_rows
from datamodules.sources.parquet import read_dataset
from datamodules.sources.published import read_commonvoice, read_gigaspeech, read_instructs2s
from datamodules.sources.shards import expand, read_shard
from datamodules.sources.storage import is_url

SHARDS_AT_ONCE = 8
MANIFEST = re.compile(r"\.(jsonl(\.gz)?|csv)$")
KNOWN_STEM = re.compile(r"^(manifest|metadata|cuts)$|recordings")
"""Manifests that are known by their names, besides those of a split."""
LAYOUTS = (
    "a LibriSpeech-layout folder (*.trans.txt beside *.flac or *.wav), a folder of MLS, TED-LIUM 3, Common Voice or "
    "GigaSpeech, sound files with a .txt beside each, a JSONL manifest or a folder with manifest.jsonl or "
    "train/valid/test.jsonl (one line per utterance, with audio and text), lhotse cuts, recordings and supervisions or "
    "Shar, tar shards, or parquet files"
)
TREES: dict[str, Callable[[SourceConfig, Path], Iterator[Found]]] = {
    "librispeech": read_librispeech, "mls": read_mls, "tedlium": read_tedlium, "commonvoice": read_commonvoice,
    "duplexmamba": read_duplexmamba, "folder": read_sidecars,
}  # fmt: skip
TABLES = {"gigaspeech": "GigaSpeech.json", "instructs2s": "*.json"}
SHARDS = {"shar": re.compile(r"^cuts\.\d+\.jsonl(\.gz)?$"), "webdataset": re.compile(r"\.tar$")}
MARKS = (
    (re.compile(r"\.trans\.txt$"), "librispeech"),
    (re.compile(r"^transcripts\.txt$"), "mls"),
    (re.compile(r"\.stm$"), "tedlium"),
    (re.compile(r"^(train|dev|test|validated)\.tsv$"), "commonvoice"),
    (re.compile(r"^GigaSpeech\.json$"), "gigaspeech"),
    (re.compile(r"response\.txt$"), "duplexmamba"),
    *((mark, kind) for kind, mark in SHARDS.items()),
    (re.compile(r"\.parquet$"), "huggingface"),
)
"""Files by which a folder is known, anywhere in it."""


def read_source(source: SourceConfig) -> tuple[list[Entry], list[Skip]]:
    """Every utterance of a source, and what was left out.

    Raises:
        ValueError: no such path, a layout that is not understood, a broken manifest, or nothing usable in it.
    """
    wanted = {theirs: ours for ours, names in source.split.items() for theirs in names.split("+")}
    found = [assign(item, wanted, source.task) for item in _read(source)]
    entries = [item for item in found if isinstance(item, Entry)]
    skipped = [item for item in found if isinstance(item, Skip)]
    check_any(source.path, entries, skipped)
    return entries, skipped


def check_any(path: str, entries: list[Entry], skipped: list[Skip]) -> None:
    """Raises ValueError, with what was left out and why, when no entry remains."""
    if not entries:
        raise ValueError(
            f"{path} holds nothing usable; left out: {'; '.join(summarise(skipped)) or 'nothing'}"
        )


def _read(source: SourceConfig) -> Iterable[Found]:
    path = Path(source.path).expanduser()
    if source.kind == "huggingface" and not path.exists():
        return read_dataset(source)
    if is_url(source.path) or "{" in source.path:
        return _read_shards(
            [(name, split_of(name.rpartition("/")[2])) for name in expand(source.path)], source
        )
    if not path.exists():
        raise ValueError(f"{path} does not exist; give {LAYOUTS}")
    return _read_file(path, source, None) if path.is_file() else _read_folder(path, source)


def _read_file(path: Path, source: SourceConfig, split: str | None) -> Iterable[Found]:
    if path.suffix in (".tar", ".parquet"):
        return _read_shards([(str(path), split)], source)
    rows = read_rows(path)
    keys = set().union(*rows)
    if "audios" in keys:
        return read_gigaspeech(source, path)
    if "conversation" in keys:
        return read_instructs2s(source, path)
    read = read_cuts if keys & {"supervisions", "tracks"} else read_plain
    return read(path, rows, source, split)


def _read_folder(folder: Path, source: SourceConfig) -> Iterable[Found]:
    kind = detect(folder) if source.kind == "auto" else source.kind
    if kind in TREES:
        _check_no_columns(source, kind)
        return TREES[kind](source, folder)
    if kind in TABLES:
        return _read_file(_first_of(folder, TABLES[kind]), source, None)
    if kind in SHARDS:
        shards = [(root / name, split) for root, names, split in walk(folder) for name in names]
        wanted = [(path, split) for path, split in shards if SHARDS[kind].search(path.name)]
        return _read_shards(
            [(str(path), split or split_of(path.stem)) for path, split in wanted], source
        )
    return read_dataset(source) if kind == "huggingface" else _read_manifests(folder, source)


def _check_no_columns(source: SourceConfig, kind: str) -> None:
    if kind != "commonvoice" and (source.where or source.columns):
        raise ValueError(
            f"{source.path} is of kind {kind}, which has no columns; leave out `where` and `columns`"
        )


def _first_of(folder: Path, pattern: str) -> Path:
    found = next((path for path in sorted(folder.rglob(pattern))), None)
    if found is None:
        raise ValueError(f"{folder} holds no {pattern}; give the folder that does")
    return found


def _read_manifests(folder: Path, source: SourceConfig) -> Iterable[Found]:
    stems = _manifests(folder)
    whole = [file for file, stem in stems.items() if stem in ("manifest", "metadata")]
    cuts = [file for file, stem in stems.items() if not re.search("recordings|supervisions", stem)]
    if whole or cuts:
        return (
            item
            for file in whole or cuts
            for item in _read_file(file, source, split_of(stems[file]) and stems[file])
        )
    recordings = [file for file, stem in stems.items() if "recordings" in stem]
    return (
        item
        for file in recordings
        for item in read_recordings(file, source, split_of(stems[file]) and stems[file])
    )


def _manifests(folder: Path) -> dict[Path, str]:
    """The manifests in a folder and their names without suffixes."""
    stems = {
        f: f.name.split(".jsonl")[0].split(".csv")[0]
        for f in sorted(folder.iterdir())
        if MANIFEST.search(f.name)
    }
    return {f: stem for f, stem in stems.items() if KNOWN_STEM.search(stem) or split_of(stem)}


def _read_shards(shards: list[tuple[str, str | None]], source: SourceConfig) -> Iterator[Found]:
    """Shards side by side: over a network most of the time is waiting."""

    def read(shard: tuple[str, str | None]) -> list[Found]:
        path, split = shard
        if path.endswith(".parquet"):
            return list(read_dataset(dataclasses.replace(source, path=path)))
        if path.endswith((".jsonl", ".jsonl.gz")):
            is_shar = SHARDS["shar"].search(path.rpartition("/")[2])
            return list(
                read_shar(path, source, split)
                if is_shar
                else read_plain(path, read_rows(path), source, split)
            )
        return list(read_shard(path, source, split))

    with concurrent.futures.ThreadPoolExecutor(SHARDS_AT_ONCE) as pool:
        for found in pool.map(read, shards):
            yield from found


def detect(folder: Path) -> str:
    """The kind of a folder. Raises ValueError: it holds nothing that is understood."""
    if any(SHARDS["shar"].search(file.name) for file in folder.iterdir()):
        return "shar"
    if _manifests(folder):
        return "manifest"
    sounds = words = False
    for _, files, _ in walk(folder):
        for name in files:
            if kind := next((kind for mark, kind in MARKS if mark.search(name)), None):
                return kind
        sounds |= any(name.lower().endswith(SOUND_SUFFIXES) for name in files)
        words |= any(name.endswith((".txt", ".lab")) for name in files)
    if sounds and words:
        return "folder"
    trouble = "holds audio but no transcripts" if sounds else "holds no speech"
    raise ValueError(f"{folder} {trouble}; understood are {LAYOUTS}")
