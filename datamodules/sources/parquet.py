"""Hugging Face data sets -> entries.

The package datasets lists the files of a data set, pyarrow reads them; both come with the extra
`corpora`. Only the columns other than audio are read here; a sound is fetched when its
utterance is read.
"""

import dataclasses
import functools
import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.schema import SourceConfig
from datamodules.corpus import UnusableAudio
from datamodules.sources.audio_sources import ParquetSource, open_parquet
from datamodules.sources.folders import is_hidden
from datamodules.sources.manifest_entry import UNUSABLE, EntryOrSkipped, Skipped, split_of
from datamodules.sources.manifests import USUAL_COLUMNS, Columns, Record
from datamodules.sources.storage import retry

RECORDING_TIMES = ("begin_time", "end_time")
"""GigaSpeech's columns of the start and end of an utterance within its recording, in seconds."""
DURATION_MS = "duration_ms"
"""Column of a duration in milliseconds."""
SplitFile = tuple[str | None, str]
"""Name of a split, and path or URL of one of its files."""


def read_dataset(source: SourceConfig) -> Iterator[EntryOrSkipped]:
    """Read every row of a data set: a local folder, parquet files, or a name on the hub.

    Raises:
        ImportError: pyarrow or datasets is not installed.
        ValueError: the data set cannot be opened, or lacks a column.
    """
    if not importlib.util.find_spec("pyarrow"):
        raise ImportError(
            f"data.sources: {source.path} is parquet, which pyarrow reads: pip install '.[corpora]'"
        )
    for split, file in _files(source):
        yield from _read_file(file, split, source)


def _files(source: SourceConfig) -> list[SplitFile]:
    path = Path(source.path).expanduser()
    if source.path.endswith(".parquet"):
        return [(split_of(path.stem), source.path)]
    # A card with `configs:` lists the files of each split itself, and datasets understands it.
    card = path / "README.md"
    has_configs = card.is_file() and b"configs:" in card.read_bytes()
    if not path.is_dir() or has_configs:
        return _files_by_datasets(source)
    files: list[SplitFile] = []
    for file in sorted(path.rglob("*.parquet")):
        if any(is_hidden(part) for part in file.relative_to(path).parts):
            continue
        files.append((_split_in_name(file.relative_to(path)), str(file)))
    return files


def _split_in_name(relative: Path) -> str | None:
    """Split of a file: train for train-00000-of-00007.parquet, train.parquet, train/0000.parquet."""
    for part in reversed(relative.parts):
        if split_of(part):
            return part.removesuffix(".parquet").split("-")[0]
    return None


def _files_by_datasets(source: SourceConfig) -> list[SplitFile]:
    files: list[SplitFile] = []
    for split, split_files in _data_files(source).items():
        for file in split_files:
            files.append((split, file))
    if not files or not all(file.endswith(".parquet") for _, file in files):
        content = files[0][1] if files else "a script"
        raise ValueError(
            f"{source.path} is not made of parquet files but of such as {content}; save it "
            "with to_parquet"
        )
    return files


def _data_files(source: SourceConfig) -> dict[str, list[str]]:
    """Split -> files, according to datasets."""
    if not importlib.util.find_spec("datasets"):
        raise ImportError(
            f"data.sources: {source.path} is read by way of datasets: pip install '.[corpora]'"
        )
    import datasets

    try:
        name = source.path.removeprefix("hf://datasets/")
        builder = datasets.load_dataset_builder(name, name=source.subset)
    except Exception as error:  # datasets and the hub's client have a dozen
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{source.path} cannot be opened by datasets: {reason}; "
            "check the name, the subset and your access (hf auth login)"
        ) from None
    return builder.config.data_files or {}


def _read_file(file: str, split: str | None, source: SourceConfig) -> Iterator[EntryOrSkipped]:
    import pyarrow as pa

    columns = Columns(source)
    try:
        parquet = retry(lambda: open_parquet(file), file)
        present = parquet.schema_arrow.names
        columns.check(present, file)
        audio_column = next(name for name in columns.names("audio") if name in present)
        _check_type(parquet.schema_arrow.field(audio_column), file)
        names = _columns_to_read(columns, present, audio_column)
        for group in range(parquet.num_row_groups):
            # One row group at a time: the table of a large corpus does not fit into memory.
            records = retry(functools.partial(_read_rows, file, group, names), file)
            for number, record in enumerate(records):
                audio = ParquetSource(file, group, number, audio_column)
                yield _entry(record, audio, columns, split)
    except (UnusableAudio, pa.ArrowException, OSError) as error:
        yield Skipped(UNUSABLE, f"{file} is broken or truncated: {error}")


def _check_type(field: Any, file: str) -> None:
    """Raise ValueError where a column cannot hold sound files or their paths.

    Args:
        field: pyarrow's description of the column.
        file: its file, for the message.
    """
    import pyarrow.types as kinds

    if kinds.is_struct(field.type):
        inner = {field.type.field(i).name for i in range(field.type.num_fields)}
        fits = bool(inner & {"bytes", "path"})
    else:
        is_samples = kinds.is_list(field.type) or kinds.is_large_list(field.type)
        is_samples = is_samples or kinds.is_fixed_size_list(field.type)
        fits = not is_samples and not kinds.is_primitive(field.type)
    if not fits:
        raise ValueError(
            f"{file}: column {field.name} holds {field.type}, samples and not sound files; cast it "
            "to datasets.Audio and save anew, or write the sounds as files"
        )


def _columns_to_read(columns: Columns, present: list[str], audio_column: str) -> list[str]:
    """Columns of a file that an entry needs, without the encoded audio."""
    used = {*columns.where, *RECORDING_TIMES, DURATION_MS}
    for field in USUAL_COLUMNS:
        used.update(columns.names(field))
    used.discard(audio_column)
    return sorted(used & set(present))


def _entry(
    record: Record, audio: ParquetSource, columns: Columns, split: str | None
) -> EntryOrSkipped:
    location = str(audio)
    # The audio column counts as present, although it has not been read.
    record = {**record, audio.column: None}
    entry = columns.entry(record, audio, location, split, location)
    if isinstance(entry, Skipped):
        return entry
    # A cell holds one utterance, whatever offset in a recording another column tells.
    duration_s = entry.duration_s or _duration_s(record, location)
    return dataclasses.replace(entry, start_s=0.0, duration_s=duration_s)


def _duration_s(record: Record, location: str) -> float | None:
    """Seconds of an utterance, by its columns; None: unknown."""
    duration_ms = _number(record, DURATION_MS, location)
    if duration_ms is not None:
        return duration_ms / 1000
    begin_s, end_s = [_number(record, name, location) for name in RECORDING_TIMES]
    if begin_s is None or end_s is None:
        return None
    return end_s - begin_s


def _number(record: Record, name: str, location: str) -> float | None:
    """A number of a row; None: it has none, or NaN, which pandas writes for none."""
    value = record.get(name)
    try:
        number = None if value is None else float(value)
    except (TypeError, ValueError):
        raise ValueError(
            f"{location}: {name}={value!r} is not a number; correct it or leave the column out"
        ) from None
    return None if number is None or math.isnan(number) else number


def _read_rows(file: str, group: int, names: list[str]) -> list[Record]:
    with open_parquet(file) as parquet:
        return parquet.read_row_group(group, columns=names).to_pylist()
