"""Rows -> entries: JSONL, JSON, CSV and TSV manifests, whatever their columns are called."""

import csv
import gzip
import io
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from configs.schema import SourceConfig
from datamodules.corpus import UnusableAudio
from datamodules.sources.audio_sources import Place, Remote, from_row
from datamodules.sources.manifest_entry import NO_AUDIO, Entry, Found, Skip, spoken
from datamodules.sources.storage import is_url, read_bytes

Row = dict[str, Any]
USUAL = {
    "audio": (
        "audio",
        "audio_filepath",
        "path",
        "wav",
        "source_wav",
        "question_audio",
        "file_name",
    ),
    "text": ("text", "transcript", "sentence", "source_text", "question", "transcription"),
    "answer": ("answer", "target_text"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "id": ("id", "key", "segment_id"),
    "duration": ("duration",),
    "offset": ("offset",),
    "split": ("split",),
}
"""What a column may be called without being named in the configuration."""
LEFT_OUT = "left out by `where`"


class Columns:
    """Where a source's rows hold what."""

    def __init__(self, source: SourceConfig):
        self.given, self.where = source.columns, source.where

    def names(self, field: str) -> tuple[str, ...]:
        """Columns that may hold a field, the likeliest first."""
        return (self.given[field],) if field in self.given else USUAL[field]

    def get(self, row: Row, field: str) -> str:
        """The first value that is there and not null, as text; else nothing."""
        return next(
            (str(row[name]).strip() for name in self.names(field) if row.get(name) is not None), ""
        )

    def seconds(self, row: Row, field: str, place: str) -> float | None:
        """A duration or offset. Raises ValueError naming the place of the row."""
        found = self.get(row, field)
        try:
            return float(found) if found else None
        except ValueError:
            name = next(name for name in self.names(field) if row.get(name) is not None)
            problem = f"{place}: {name}={row[name]!r} is not a number of seconds; correct it or leave it out"
            raise ValueError(problem) from None

    def wanted(self, row: Row) -> bool:
        return all(str(row.get(name)) == value for name, value in self.where.items())

    def check(
        self, keys: Iterable[str], place: str, fields: tuple[str, ...] = ("audio", "text")
    ) -> None:
        """Raises ValueError when no row can have what every row needs, or a column named by the user is nowhere."""
        has = sorted(keys)
        for field in fields:
            if not set(has) & set(self.names(field)):
                give = f"one of {', '.join(self.names(field))}, or name yours as columns.{field}"
                raise ValueError(
                    f"{place}: no line has a key for {field}; its keys are {', '.join(has)}; give {give}"
                )
        for what, named in (("columns", self.given.values()), ("where", self.where)):
            if missing := set(named) - set(has):
                raise ValueError(
                    f"{place}: {what} names {', '.join(sorted(missing))}; its keys are {', '.join(has)}"
                )

    def entry(self, row: Row, path: Place, id: str, split: str | None, place: str) -> Found:
        """The entry of a row whose sound lies at `path`; `id` and `split` hold where the row has none."""
        id = self.get(row, "id") or id
        if not self.wanted(row):
            return Skip(LEFT_OUT, "")
        return Entry(
            id=id,
            path=path,
            start_s=self.seconds(row, "offset", place) or 0.0,
            duration_s=self.seconds(row, "duration", place),
            text=spoken(self.get(row, "text")),
            answer=self.get(row, "answer"),
            speaker=self.get(row, "speaker"),
            split=self.get(row, "split") or split,
            channel=row.get("channel"),
        )


def read_rows(path: str | Path) -> list[Row]:
    """The rows of a manifest (.jsonl, .json, .csv, .tsv, each perhaps .gz), on the disk or the network.

    Raises:
        ValueError: broken, with the line, or empty.
    """
    try:
        content = read_bytes(str(path))
        content = gzip.decompress(content) if str(path).endswith(".gz") else content
    except UnusableAudio as error:
        raise ValueError(str(error)) from None
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path} cannot be unpacked: {error}; fetch or write it again") from None
    rows = _parse(str(path).removesuffix(".gz"), content)
    if not rows:
        raise ValueError(f"{path} is empty; a manifest holds one JSON object per line")
    return rows


def _parse(path: str, content: bytes) -> list[Row]:
    if path.endswith((".csv", ".tsv")):
        lines = io.StringIO(content.decode("utf-8-sig"), newline="")
        if path.endswith(".tsv"):
            return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
        return list(csv.DictReader(lines))
    if path.endswith(".json"):
        try:
            found = json.loads(content)
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}; fetch or write it again") from None
        return found if isinstance(found, list) else [found]
    return [
        _row(path, number, line)
        for number, line in enumerate(content.split(b"\n"), 1)
        if line.strip()
    ]


def _row(path: str, number: int, line: bytes) -> Row:
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise ValueError(
            f"{path}, line {number}: not a JSON object; a manifest is JSONL, one object per line"
        )
    return row


def read_plain(
    path: str | Path, rows: list[Row], source: SourceConfig, split: str | None
) -> Iterator[Found]:
    """Entries of rows that name a sound file each."""
    columns = Columns(source)
    columns.check(set().union(*rows), str(path))
    base = audio_base(path, (columns.get(row, "audio") for row in rows))
    name = str(path).rsplit("/", 1)[-1]
    for number, row in enumerate(rows, 1):
        audio = columns.get(row, "audio")
        if not audio:
            yield Skip(NO_AUDIO, f"{name} row {number}")
            continue
        place = f"{path}, row {number}"
        start_s = columns.seconds(row, "offset", place)
        id = f"{audio}@{start_s:g}" if start_s else audio
        yield columns.entry(row, from_row(row) or _place(base, audio), id, split, place)


def _place(base: str | Path, audio: str) -> Place:
    if is_url(audio):
        return Remote(audio)
    return Remote(f"{base}/{audio}") if isinstance(base, str) else base / audio


def audio_base(manifest: str | Path, audio: Iterable[str]) -> str | Path:
    """The folder that relative audio paths start from: the manifest's own, or the nearest above it that has the files.

    lhotse's and many other manifests are written relative to the folder their recipe ran in.
    """
    if is_url(manifest):
        return str(manifest).rpartition("/")[0]
    manifest = Path(manifest)
    sample = list(itertools.islice(filter(None, audio), 20))
    parents = manifest.absolute().parents
    return next(
        (base for base in parents if any((base / name).is_file() for name in sample)),
        manifest.parent,
    )
