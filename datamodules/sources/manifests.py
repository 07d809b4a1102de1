"""Manifests (JSONL, JSON, CSV, TSV) -> entries, whatever their columns are called."""

import csv
import gzip
import io
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from configs.schema import SourceConfig
from datamodules.corpus import UnusableAudio
from datamodules.sources.audio_sources import AudioSource, RemoteSource, audio_source_from_record
from datamodules.sources.manifest_entry import (
    NO_AUDIO,
    Entry,
    EntryOrSkipped,
    Skipped,
    spoken_text,
)
from datamodules.sources.storage import is_url, read_bytes

Record = dict[str, Any]
"""One line of a manifest or row of a table: column -> value."""
Item = TypeVar("Item")
USUAL_COLUMNS = {
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
"""Field -> names of its column that are recognised without configuration, the most likely first."""
EXCLUDED_BY_WHERE = "left out by `where`"
NUM_SAMPLED_PATHS = 20
"""Audio paths that are tried to find the folder to which they are relative."""


class Columns:
    """Access to the fields of a source's records, under the names that its columns have."""

    def __init__(self, source: SourceConfig):
        self.configured = source.columns
        self.where = source.where

    def names(self, field: str) -> tuple[str, ...]:
        """Columns that may hold a field, the most likely first."""
        if field in self.configured:
            return (self.configured[field],)
        return USUAL_COLUMNS[field]

    def get(self, record: Record, field: str) -> str:
        """First value of the field that is present and not null, as text; "" if there is none."""
        # A row may leave one of several columns empty and fill another.
        for name in self.names(field):
            if record.get(name) is not None:
                return str(record[name]).strip()
        return ""

    def seconds(self, record: Record, field: str, location: str) -> float | None:
        """A duration or offset in seconds; None if the record has none.

        Args:
            location: position of the record, for the message.

        Raises:
            ValueError: the value is not a number.
        """
        value = self.get(record, field)
        if not value:
            return None
        try:
            return float(value)
        except ValueError:
            name = next(name for name in self.names(field) if record.get(name) is not None)
            raise ValueError(
                f"{location}: {name}={record[name]!r} is not a number of seconds; correct "
                "it or leave it out"
            ) from None

    def selects(self, record: Record) -> bool:
        """Whether the record has every value that `where` demands."""
        return all(str(record.get(name)) == value for name, value in self.where.items())

    def check(
        self,
        keys: Iterable[str],
        location: str,
        required: tuple[str, ...] = ("audio", "text"),
    ) -> None:
        """Check the columns of a whole manifest.

        Args:
            keys: columns that occur in it.
            location: its name, for the message.
            required: fields that every record needs.

        Raises:
            ValueError: a required field or a column named in the configuration does not occur.
        """
        present = set(keys)
        listed = ", ".join(sorted(present))
        for field in required:
            if not present & set(self.names(field)):
                usual = ", ".join(self.names(field))
                raise ValueError(
                    f"{location}: no line has a key for {field}; its keys are {listed}; "
                    f"give one of {usual}, or name yours as columns.{field}"
                )
        for setting, named in (("columns", self.configured.values()), ("where", self.where)):
            missing = set(named) - present
            if missing:
                raise ValueError(
                    f"{location}: {setting} names {', '.join(sorted(missing))}; its keys "
                    f"are {listed}"
                )

    def entry(
        self,
        record: Record,
        audio: AudioSource,
        id: str,
        split: str | None,
        location: str,
    ) -> EntryOrSkipped:
        """Entry of a record.

        Args:
            record: columns and values.
            audio: location of its sound.
            id: used where the record has none.
            split: used where the record has none.
            location: position of the record, for messages.

        Raises:
            ValueError: a duration or offset is not a number.
        """
        if not self.selects(record):
            return Skipped(EXCLUDED_BY_WHERE, "")
        return Entry(
            id=self.get(record, "id") or id,
            path=audio,
            start_s=self.seconds(record, "offset", location) or 0.0,
            duration_s=self.seconds(record, "duration", location),
            text=spoken_text(self.get(record, "text")),
            answer=self.get(record, "answer"),
            speaker=self.get(record, "speaker"),
            split=self.get(record, "split") or split,
            channel=record.get("channel"),
        )


def read_records(path: str | Path) -> list[Record]:
    """Read a manifest (.jsonl, .json, .csv, .tsv, each optionally .gz) from a path or URL.

    Raises:
        ValueError: it is missing, empty, or broken, with the number of the line.
    """
    name = str(path)
    records = _parse(name.removesuffix(".gz"), _read_content(name))
    return _not_empty(name, records)


def read_numbered_records(path: str | Path) -> list[tuple[int, Record]]:
    """Read a JSONL manifest, optionally .gz, from a path or URL.

    Returns:
        The number of each line, from 1, and its content.

    Raises:
        ValueError: it is missing, empty, or broken, with the number of the line.
    """
    name = str(path)
    records = list(_parse_lines(name.removesuffix(".gz"), _read_content(name)))
    return _not_empty(name, records)


def _read_content(name: str) -> bytes:
    """Content of a path or URL, unpacked."""
    try:
        # In one piece: a manifest is small compared with its audio.
        content = read_bytes(name)
        return gzip.decompress(content) if name.endswith(".gz") else content
    except UnusableAudio as error:
        raise ValueError(str(error)) from None
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{name} cannot be unpacked: {error}; fetch or write it again") from None


def _not_empty(name: str, records: list[Item]) -> list[Item]:
    if not records:
        raise ValueError(f"{name} is empty; a manifest holds one JSON object per line")
    return records


def _parse(name: str, content: bytes) -> list[Record]:
    if name.endswith((".csv", ".tsv")):
        return _parse_table(name, content)
    if name.endswith(".json"):
        return _parse_json(name, content)
    return [record for _, record in _parse_lines(name, content)]


def _parse_lines(name: str, content: bytes) -> Iterator[tuple[int, Record]]:
    """Number and content of each line that is not blank."""
    # Split as bytes, since str.splitlines() also splits at characters that JSON strings may hold.
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            yield number, _parse_line(name, number, line)


def _parse_table(name: str, content: bytes) -> list[Record]:
    # utf-8-sig: spreadsheets write a byte order mark.
    lines = io.StringIO(content.decode("utf-8-sig"), newline="")
    if name.endswith(".tsv"):
        # Quotation marks in TSV corpora such as Common Voice belong to the text.
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))
    return list(csv.DictReader(lines))


def _parse_json(name: str, content: bytes) -> list[Record]:
    try:
        value = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{name} is not JSON: {error}; fetch or write it again") from None
    return value if isinstance(value, list) else [value]


def _parse_line(name: str, number: int, line: bytes) -> Record:
    try:
        record = json.loads(line)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise ValueError(
            f"{name}, line {number}: not a JSON object; a manifest is JSONL, one object per line"
        )
    return record


def read_plain_manifest(
    path: str | Path,
    records: list[Record],
    source: SourceConfig,
    split: str | None,
) -> Iterator[EntryOrSkipped]:
    """Read records that name one sound file each.

    Args:
        path: the manifest, for relative audio paths and messages.
        records: its content.
        source: names of the columns.
        split: used where a record has none.

    Raises:
        ValueError: a column is missing, or a time is not a number.
    """
    columns = Columns(source)
    columns.check(set().union(*records), str(path))
    folder = audio_folder(path, (columns.get(record, "audio") for record in records))
    file_name = str(path).rsplit("/", 1)[-1]
    for number, record in enumerate(records, 1):
        audio_name = columns.get(record, "audio")
        if not audio_name:
            yield Skipped(NO_AUDIO, f"{file_name} row {number}")
            continue
        location = f"{path}, row {number}"
        start_s = columns.seconds(record, "offset", location)
        # Several segments of one file need IDs of their own.
        id = f"{audio_name}@{start_s:g}" if start_s else audio_name
        audio = audio_source_from_record(record) or _audio_source(folder, audio_name)
        yield columns.entry(record, audio, id, split, location)


def _audio_source(folder: str | Path, audio_name: str) -> AudioSource:
    if is_url(audio_name):
        return RemoteSource(audio_name)
    if isinstance(folder, str):
        return RemoteSource(f"{folder}/{audio_name}")
    return folder / audio_name


def audio_folder(manifest: str | Path, audio_names: Iterable[str]) -> str | Path:
    """Folder to which the audio paths of a manifest are relative.

    It is the manifest's own folder, or the nearest one above it that has the files: lhotse's and
    many other manifests are written relative to the folder in which their recipe ran.
    """
    if is_url(manifest):
        return str(manifest).rpartition("/")[0]
    manifest = Path(manifest)
    sample = list(itertools.islice(filter(None, audio_names), NUM_SAMPLED_PATHS))
    # The nearest folder comes first.
    for folder in manifest.absolute().parents:
        if any((folder / name).is_file() for name in sample):
            return folder
    return manifest.parent
