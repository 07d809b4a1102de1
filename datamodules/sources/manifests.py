"""Manifests (JSONL, JSON, CSV, TSV) -> entries, whatever their columns are called."""

import collections
import gzip
import itertools
import json
import math
import os
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

from configs.schema import SourceConfig
from datamodules.corpus import UnusableAudio
from datamodules.sources import tables
from datamodules.sources.audio_sources import AudioSource, RemoteSource, audio_source_from_record
from datamodules.sources.json_records import parse_json
from datamodules.sources.manifest_entry import (
    NO_AUDIO,
    NO_PLAIN_TEXT,
    Entry,
    EntryOrSkipped,
    Skipped,
    answer_text,
    spoken_text,
)
from datamodules.sources.storage import is_url, read_bytes
from datamodules.sources.text_files import LINE_BREAK, decode

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
MISSING_TEXTS = ("", "NaN", "<NA>", "#N/A")
"""Texts by which pandas and spreadsheets write that there is none."""
MISSING_TRANSCRIPTS = ("nan", "None", "NULL", "N/A")
"""Further ones of a transcript, by which Python and databases write it. An answer may be one word
such as None."""
GZIP_MAGIC = b"\x1f\x8b"
COMPRESSED = {b"PK\3\4": "zip", b"BZh": "bzip2", b"\xfd7zX": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
"""First bytes of a file -> its compression, of those that are not unpacked here."""
TIME_COLUMNS = frozenset(
    [*("start", "start_s", "start_time", "begin", "begin_time", "end", "end_s", "end_time")]
)
"""Columns of times that are not read, since corpora mean different things by them."""
UNICODE_FORMS: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")
MAX_SHOWN_CHARS = 80
"""Length up to which a message shows a value."""
NUM_SAMPLED_PATHS = 20
"""Audio paths that are tried to find the folder to which they are relative."""


def _no_seconds(location: str, field: str, value: str) -> ValueError:
    return ValueError(
        f"{location}: {field}={value[:MAX_SHOWN_CHARS]!r} is not a number of seconds from 0; correct "
        "it or leave it out"
    )


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

    def value(self, record: Record, field: str) -> Any:
        """First value of the field that is present, neither null nor NaN; None if there is none."""
        # A row may leave one of several columns empty and fill another.
        for name in self.names(field):
            value = record.get(name)
            # pandas writes NaN for a value that is missing; only NaN differs from itself.
            is_missing = value is None or value != value or value in MISSING_TEXTS
            is_missing |= field == "text" and str(value).strip() in MISSING_TRANSCRIPTS
            if not is_missing:
                return value
        return None

    def get(self, record: Record, field: str) -> str:
        """First value of the field that is present, as text; "" if there is none."""
        value = self.value(record, field)
        # A column of whole numbers with gaps becomes one of floats in pandas.
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        return "" if value is None else str(value).strip()

    def audio_name(self, record: Record, location: str) -> str:
        """Path or URL of the sound of a record; "" if there is none.

        Args:
            record: columns and values. An object {"path": ...}, as `datasets` exports it, counts
                as its path.
            location: position of the record, for the message.

        Raises:
            ValueError: the value is no path.
        """
        value = self.value(record, "audio")
        if isinstance(value, dict) and isinstance(value.get("path"), str):
            value = value["path"]
        if value is None:
            return ""
        if not isinstance(value, str):
            raise ValueError(
                f"{location}: audio is {str(value)[:MAX_SHOWN_CHARS]!r}, which is no path of a "
                "sound file; write the path as text"
            )
        return value.strip()

    def channel(self, record: Record, location: str) -> int | None:
        """Number of the channel to read, from 0; None: the mean of all.

        Raises:
            ValueError: the value is no such number.
        """
        value = record.get("channel")
        if value is None or value != value or value == "":
            return None
        try:
            number = float(value)
            # In Python, true is the number 1.
            if number >= 0 and number == int(number) and not isinstance(value, bool):
                return int(number)
        except (TypeError, ValueError, OverflowError):
            pass
        raise ValueError(
            f"{location}: channel={str(value)[:MAX_SHOWN_CHARS]!r} is not the number of a channel; "
            "give 0 for the first, or leave it out"
        )

    def seconds(self, record: Record, field: str, location: str) -> float | None:
        """A duration or offset in seconds; None if the record has none.

        Args:
            location: position of the record, for the message.

        Raises:
            ValueError: the value is no finite number from 0.
        """
        value = self.get(record, field)
        if not value:
            return None
        try:
            seconds = float(value)
        except ValueError:
            raise _no_seconds(location, field, value) from None
        # NaN as text, as pandas writes it where it is told to, counts as missing.
        if math.isnan(seconds):
            return None
        # A duration of 0 is left out as too short, with its count.
        if seconds < 0 or math.isinf(seconds):
            raise _no_seconds(location, field, value)
        return seconds

    def selects(self, record: Record) -> bool:
        """Whether the record has every value that `where` demands."""
        return all(value in _spellings(record.get(name)) for name, value in self.where.items())

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
            ValueError: a duration, an offset or a channel is not a number.
        """
        if not self.selects(record):
            return Skipped(EXCLUDED_BY_WHERE, "")
        for field in ("text", "answer"):
            value = self.value(record, field)
            is_infinite = isinstance(value, float) and math.isinf(value)
            if is_infinite or isinstance(value, (dict, list, bool, bytes)):
                return Skipped(NO_PLAIN_TEXT, location)
        return Entry(
            id=self.get(record, "id") or id,
            path=audio,
            start_s=self.seconds(record, "offset", location) or 0.0,
            duration_s=self.seconds(record, "duration", location),
            text=spoken_text(self.get(record, "text")),
            answer=answer_text(self.get(record, "answer")),
            speaker=self.get(record, "speaker"),
            split=self.get(record, "split") or split,
            channel=self.channel(record, location),
        )


def _spellings(value: Any) -> set[str]:
    """How a value may be written in a configuration: True as True and true, 1.0 also as 1."""
    spellings = {str(value)}
    if value is None or isinstance(value, bool):
        spellings.add(json.dumps(value))
    if isinstance(value, float):
        spellings.add(f"{value:g}")
    return spellings


def read_records(path: str | Path) -> list[Record]:
    """Read a manifest (.jsonl, .json, .csv, .tsv, each optionally .gz) from a path or URL.

    Raises:
        ValueError: it is missing, empty, or broken, with the number of the line.
    """
    name = str(path)
    records = _parse(name, _read_content(name))
    return _not_empty(name, records)


def read_numbered_records(path: str | Path) -> list[tuple[int, Record]]:
    """Read a JSONL manifest, optionally .gz, from a path or URL.

    Returns:
        The number of each line, from 1, and its content.

    Raises:
        ValueError: it is missing, empty, or broken, with the number of the line.
    """
    return _not_empty(str(path), list(iterate_numbered_records(path)))


def iterate_numbered_records(path: str | Path) -> Iterator[tuple[int, Record]]:
    """The records of `read_numbered_records` one after another, of an empty manifest none."""
    name = str(path)
    text = decode(_read_content(name), name)
    yield from _parse_lines(name, text)


def _read_content(name: str) -> bytes:
    """Content of a path or URL, unpacked."""
    try:
        # In one piece: a manifest is small compared with its audio.
        content = read_bytes(name)
        # Also where the name does not say it: browsers and copies lose or change the suffix.
        is_packed = name.lower().endswith(".gz") or content.startswith(GZIP_MAGIC)
        return gzip.decompress(content) if is_packed else content
    except UnusableAudio as error:
        raise ValueError(str(error)) from None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{name} cannot be unpacked: {error}; fetch or write it again") from None


def _not_empty(name: str, records: list[Item]) -> list[Item]:
    if not records:
        raise ValueError(
            f"{name} is empty: it holds no row; a manifest holds one JSON object per line, or a "
            "header and rows"
        )
    return records


def _parse(name: str, content: bytes) -> list[Record]:
    for beginning, compression in COMPRESSED.items():
        if content.startswith(beginning):
            raise ValueError(
                f"{name} is packed with {compression}, which is not read; unpack it, or pack it "
                "with gzip"
            )
    text = decode(content, name)
    unpacked_name = name.lower().removesuffix(".gz")
    if unpacked_name.endswith((".csv", ".tsv")):
        return tables.parse_table(name, text)
    if unpacked_name.endswith(".json"):
        return _parse_json(name, text)
    return [record for _, record in _parse_lines(name, text)]


def _parse_lines(name: str, text: str) -> Iterator[tuple[int, Record]]:
    """Number and content of each line that is not blank."""
    # Not str.splitlines(), which also splits at characters that JSON strings may hold.
    for number, line in enumerate(LINE_BREAK.split(text), 1):
        if line.strip():
            yield number, _parse_line(name, number, line)


def _parse_json(name: str, text: str) -> list[Record]:
    """One JSON value; or one per line, which NeMo calls .json too."""
    value = parse_json(text, name)
    if value is None:
        if _begins_with_object(text):
            return [record for _, record in _parse_lines(name, text)]
        raise ValueError(f"{name} is not JSON{_reason(text)}; fetch or write it again")
    records = value if isinstance(value, list) else [value]
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise ValueError(
                f"{name}, item {number}: not a JSON object; give a list of objects, or JSONL"
            )
    return records


def _reason(text: str) -> str:
    """What is wrong with a text that is no JSON, after a colon; empty where nothing tells."""
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        return f": {error}"
    return ""


def _begins_with_object(text: str) -> bool:
    """Whether the first line is a JSON object by itself."""
    first_line = text.lstrip().partition("\n")[0]
    return isinstance(parse_json(first_line, "line 1"), dict)


def _parse_line(name: str, number: int, line: str) -> Record:
    location = f"{name}, line {number}"
    record = parse_json(line, location)
    if not isinstance(record, dict):
        raise ValueError(
            f"{location}: not a JSON object; a manifest is JSONL, one object per line, or a table "
            "named .csv or .tsv"
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
    audio_names = []
    for number, record in enumerate(records, 1):
        audio_names.append(columns.audio_name(record, f"{path}, row {number}"))
    _check_segments(path, records, audio_names, columns)
    folder = audio_folder(path, audio_names)
    file_name = str(path).rsplit("/", 1)[-1]
    for number, (record, audio_name) in enumerate(zip(records, audio_names, strict=True), 1):
        if not audio_name:
            yield Skipped(NO_AUDIO, f"{file_name} row {number}")
            continue
        location = f"{path}, row {number}"
        start_s = columns.seconds(record, "offset", location)
        # Several segments of one file need IDs of their own.
        id = f"{audio_name}@{start_s:g}" if start_s else audio_name
        audio = audio_source_from_record(record) or _audio_source(folder, audio_name)
        yield columns.entry(record, audio, id, split, location)


def _check_segments(
    path: str | Path, records: list[Record], audio_names: list[str], columns: Columns
) -> None:
    """Raise ValueError where rows are segments of one file, by times that are not read.

    Each row would otherwise get the whole file for the words of its segment.
    """
    keys = set().union(*records)
    unread = sorted(TIME_COLUMNS & keys - set(columns.names("offset")))
    if not unread or keys & set(columns.names("offset")) or not any(audio_names):
        return
    [(most_frequent, count)] = collections.Counter(filter(None, audio_names)).most_common(1)
    if count > 1:
        raise ValueError(
            f"{path}: {most_frequent} stands in several rows, and {', '.join(unread)} are not read; name "
            "the start in seconds offset, or as columns.offset, and write the length in seconds as "
            "duration"
        )


def _audio_source(folder: str | Path, audio_name: str) -> AudioSource:
    if is_url(audio_name):
        return RemoteSource(audio_name)
    if isinstance(folder, str):
        return RemoteSource(f"{folder}/{audio_name}")
    return find_file(folder, audio_name) or folder / audio_name


def find_file(folder: Path, name: str) -> Path | None:
    """The file that a manifest names, also where another system has written the name.

    Tried are the name as it is, `~` as the home folder, backslashes as slashes, and letters with
    accents in the other Unicode form (macOS decomposes them).

    Returns:
        The path; None: there is no such file.
    """
    spellings = [name]
    # Only for such names, since each further look at a network's disk takes time.
    if name.startswith("~"):
        spellings.append(os.path.expanduser(name))
    if "\\" in name:
        spellings.append(name.replace("\\", "/"))
    if not name.isascii():
        for form in UNICODE_FORMS:
            spellings += [unicodedata.normalize(form, spelling) for spelling in spellings]
    for spelling in spellings:
        path = folder / spelling
        if _is_file(path):
            return path
    return None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is longer than the file system allows
        return False


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
        if any(find_file(folder, name) for name in sample):
            return folder
    return manifest.parent
