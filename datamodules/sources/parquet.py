"""Hugging Face data sets -> entries. Only the columns of words are read; a sound is fetched when it
is asked for.

`datasets` says which files a data set consists of, pyarrow reads them; both come with the extra
`corpora`.
"""

import dataclasses
import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path

from configs.schema import SourceConfig
from datamodules.corpus import UnusableAudio
from datamodules.sources.audio_sources import ParquetSource, open_parquet
from datamodules.sources.manifest_entry import UNUSABLE, EntryOrSkipped, Skipped, split_of
from datamodules.sources.manifests import USUAL_COLUMNS, Columns, Record
from datamodules.sources.storage import retry

OWN_TIMES = ("begin_time", "end_time")
"""GigaSpeech's: where an utterance lay in its recording."""


def read_dataset(source: SourceConfig) -> Iterator[EntryOrSkipped]:
    """Every row of a data set: a local folder, parquet files, or a name on the hub."""
    if not importlib.util.find_spec("pyarrow"):
        raise ImportError(
            f"data.sources: {source.path} is parquet, which pyarrow reads: pip install '.[corpora]'"
        )
    for split, file in _files(source):
        yield from _read_file(file, split, source)


def _files(source: SourceConfig) -> list[tuple[str | None, str]]:
    """The files of a data set with the names of their splits."""
    path = Path(source.path).expanduser()
    if source.path.endswith(".parquet"):
        return [(split_of(path.stem), source.path)]
    card = path / "README.md"
    if path.is_dir() and not (card.is_file() and "configs:" in card.read_text(encoding="utf-8")):
        files = sorted(path.rglob("*.parquet"))
        return [(_split_in_name(file.relative_to(path)), str(file)) for file in files]
    return _resolved(source)


def _split_in_name(relative: Path) -> str | None:
    """train-00000-of-00007.parquet, train.parquet and train/0000.parquet are of train."""
    return next(
        (
            part.removesuffix(".parquet").split("-")[0]
            for part in reversed(relative.parts)
            if split_of(part)
        ),
        None,
    )


def _resolved(source: SourceConfig) -> list[tuple[str | None, str]]:
    if not importlib.util.find_spec("datasets"):
        raise ImportError(
            f"data.sources: {source.path} is read by way of datasets: pip install '.[corpora]'"
        )
    import datasets

    try:
        name = source.path.removeprefix("hf://datasets/")
        builder = datasets.load_dataset_builder(name, name=source.subset)
    except Exception as error:  # datasets and the hub's client have a dozen
        problem = (
            f"{source.path} cannot be opened by datasets: {' '.join(str(error).split())[:300]}"
        )
        raise ValueError(
            f"{problem}; check the name, the subset and your access (hf auth login)"
        ) from None
    files = [
        (split, file)
        for split, files in (builder.config.data_files or {}).items()
        for file in files
    ]
    if not files or not all(file.endswith(".parquet") for _, file in files):
        held = files[0][1] if files else "a script"
        raise ValueError(
            f"{source.path} is not made of parquet files but of such as {held}; save it "
            "with to_parquet"
        )
    return files


def _read_file(file: str, split: str | None, source: SourceConfig) -> Iterator[EntryOrSkipped]:
    import pyarrow as pa

    columns = Columns(source)
    try:
        opened = retry(lambda: open_parquet(file), file)
        has = opened.schema_arrow.names
        columns.check(has, file)
        sound = next(name for name in columns.names("audio") if name in has)
        wanted = {name for field in USUAL_COLUMNS for name in columns.names(field)}
        wanted |= {*columns.where, *OWN_TIMES, "duration_ms"}
        for group in range(opened.num_row_groups):
            rows = retry(
                functools.partial(_rows, file, group, sorted(wanted & {*has} - {sound})), file
            )
            for number, row in enumerate(rows):
                yield _entry(row, ParquetSource(file, group, number, sound), columns, split)
    except (UnusableAudio, pa.ArrowException, OSError) as error:
        yield Skipped(UNUSABLE, f"{file} is broken or truncated: {error}")


def _entry(row: Record, cell: ParquetSource, columns: Columns, split: str | None) -> EntryOrSkipped:
    found = columns.entry({**row, cell.column: None}, cell, str(cell), split, str(cell))
    if isinstance(found, Skipped):
        return found
    return dataclasses.replace(found, start_s=0.0, duration_s=found.duration_s or _length_s(row))


def _length_s(row: Record) -> float | None:
    if row.get("duration_ms") is not None:
        return float(row["duration_ms"]) / 1000
    if all(row.get(name) is not None for name in OWN_TIMES):
        return float(row["end_time"]) - float(row["begin_time"])
    return None


def _rows(file: str, group: int, names: list[str]) -> list[Record]:
    with open_parquet(file) as opened:
        return opened.read_row_group(group, columns=names).to_pylist()
