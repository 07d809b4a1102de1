"""A source of the configuration -> its entries, one per utterance, without decoding audio.

`read_source` works in three steps:

1. Locate: a URL or a pattern of shards, a single file, or a folder, whose format is configured or
   detected.
2. Read: the reader of the format (see `datamodules.sources.CORPUS_FORMATS`) yields entries and
   skipped items.
3. Assign: `assign_split` gives each entry its split and skips what the configuration does not use.
"""

import concurrent.futures
import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from configs.schema import SourceConfig
from datamodules.sources import AUTO, CORPUS_FORMATS, KNOWN_LAYOUTS
from datamodules.sources.folders import (
    SOUND_SUFFIXES,
    TRANSCRIPT_SUFFIXES,
    UNREAD_SUFFIXES,
    is_hidden,
    walk,
)
from datamodules.sources.lhotse_cuts import read_cuts, read_recordings, read_shar
from datamodules.sources.manifest_entry import (
    Entry,
    EntryOrSkipped,
    Skipped,
    assign_split,
    partition,
    split_of,
    summarise_skipped,
)
from datamodules.sources.manifests import read_plain_manifest, read_records
from datamodules.sources.parquet import read_dataset
from datamodules.sources.published import read_gigaspeech, read_instructs2s
from datamodules.sources.shards import expand, is_pattern, read_shard
from datamodules.sources.storage import is_url

NUM_SHARD_THREADS = 8
"""Shards that are read in parallel."""
MANIFEST_FILE = re.compile(
    r"\.(jsonl|csv)(\.gz)?$|(^|_)manifest(_\w+)?\.json$|^(manifest|metadata)\.tsv(\.gz)?$"
)
"""Names of files that may be manifests; NeMo calls those of JSON lines train_manifest.json."""
MANIFEST_STEM = re.compile(r"^(manifest|metadata|cuts)$|recordings")
"""Names of manifests, in addition to those of splits."""
COMPRESSED_TAR = re.compile(r"\.(tar\.(gz|bz2|xz|zst)|tgz)$")

Shard = tuple[str, str | None]
"""Path or URL of a shard, and the split that its name implies."""


def read_source(source: SourceConfig) -> tuple[list[Entry], list[Skipped]]:
    """Read every utterance of a source.

    Returns:
        Usable entries and skipped items.

    Raises:
        ValueError: no such path, an unknown layout, a broken manifest, or no usable utterance.
    """
    # {valid: dev-clean+dev-other} -> {dev-clean: valid, dev-other: valid}
    split_names = {}
    for split, joined_names in source.split.items():
        for name in joined_names.split("+"):
            split_names[name] = split
    items = [assign_split(item, split_names, source.task) for item in _read(source)]
    entries, skipped = partition(items)
    check_any(source.path, entries, skipped)
    return entries, skipped


def check_any(path: str, entries: list[Entry], skipped: list[Skipped]) -> None:
    """Raise ValueError, with the reasons for what was left out, when no entry remains."""
    if not entries:
        reasons = "; ".join(summarise_skipped(skipped)) or "nothing"
        raise ValueError(f"{path} holds nothing usable; left out: {reasons}")


def _read(source: SourceConfig) -> Iterable[EntryOrSkipped]:
    path = Path(source.path).expanduser()
    if source.kind == "huggingface" and not path.exists():
        return read_dataset(source)
    # A folder may have braces in its name, so what exists is no pattern.
    if is_url(source.path) or (is_pattern(source.path) and not path.exists()):
        names = expand(source.path)
        return _read_shards([(name, split_of(name.rpartition("/")[2])) for name in names], source)
    if not path.exists():
        raise ValueError(f"{path} does not exist; give {KNOWN_LAYOUTS}")
    if path.is_file():
        return _read_file(path, source, None)
    if not path.is_dir():
        raise ValueError(f"{path} is neither a file nor a folder; give {KNOWN_LAYOUTS}")
    return _read_folder(path, source)


def _read_file(path: Path, source: SourceConfig, split: str | None) -> Iterable[EntryOrSkipped]:
    if path.suffix.lower() in (".tar", ".parquet"):
        return _read_shards([(str(path), split)], source)
    _refuse_compressed_tar(path)
    if path.name.lower().endswith((*SOUND_SUFFIXES, *UNREAD_SUFFIXES)):
        raise ValueError(f"{path} is a single sound; give {KNOWN_LAYOUTS}")
    records = read_records(path)
    # JSON files do not name their format, but their keys tell them apart.
    keys: set[str] = set().union(*records)
    if "audios" in keys:
        return as_written(read_gigaspeech(source, path), path, "GigaSpeech")
    if "conversation" in keys:
        return as_written(read_instructs2s(source, path), path, "InstructS2S-200K")
    if keys & {"supervisions", "tracks"}:
        return as_written(read_cuts(path, records, source, split), path, "lhotse")
    return read_plain_manifest(path, records, source, split)


def as_written(
    items: Iterable[EntryOrSkipped], path: str | Path, layout: str
) -> Iterator[EntryOrSkipped]:
    """Pass on the items of a table in the layout of another project.

    Args:
        items: its items, read on demand.
        path: the table, for the message.
        layout: the project.

    Raises:
        ValueError: a record lacks a field of the layout, or has another type there.
    """
    num_items = 0
    try:
        for item in items:
            yield item
            num_items += 1
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"{path}: after {num_items} items comes one that is not as {layout} writes it ({reason}); "
            "correct or remove it"
        ) from None


def _refuse_compressed_tar(path: Path) -> None:
    """Raise ValueError for a compressed tar: an entry is a byte range of its shard."""
    if COMPRESSED_TAR.search(path.name.lower()):
        raise ValueError(
            f"{path} is a compressed tar, of which no single file can be read; unpack it to a tar, "
            "for example by gunzip"
        )


def _read_folder(folder: Path, source: SourceConfig) -> Iterable[EntryOrSkipped]:
    name = detect_format(folder) if source.kind == AUTO else source.kind
    corpus_format = CORPUS_FORMATS[name]
    if not corpus_format.has_columns and (source.where or source.columns):
        raise ValueError(
            f"{source.path} is of kind {name}, which has no columns; leave out `where` "
            "and `columns`"
        )
    return corpus_format.read(source, folder)


def read_gigaspeech_folder(source: SourceConfig, folder: Path) -> Iterable[EntryOrSkipped]:
    """Read a folder with GigaSpeech.json."""
    return _read_file(_first_match(folder, "GigaSpeech.json"), source, None)


def read_instructs2s_folder(source: SourceConfig, folder: Path) -> Iterable[EntryOrSkipped]:
    """Read a folder with the JSON file of InstructS2S-200K."""
    return _read_file(_first_match(folder, "*.json"), source, None)


def _first_match(folder: Path, pattern: str) -> Path:
    matches = sorted(path for path in folder.rglob(pattern) if not is_hidden(path.name))
    if not matches:
        raise ValueError(f"{folder} holds no {pattern}; give the folder that does")
    return matches[0]


def read_shar_folder(source: SourceConfig, folder: Path) -> Iterator[EntryOrSkipped]:
    """Read a folder of lhotse Shar."""
    return _read_shard_folder("shar", source, folder)


def read_webdataset_folder(source: SourceConfig, folder: Path) -> Iterator[EntryOrSkipped]:
    """Read a folder of WebDataset tar shards."""
    return _read_shard_folder("webdataset", source, folder)


def read_parquet_folder(source: SourceConfig, folder: Path) -> Iterator[EntryOrSkipped]:
    """Read a local folder of parquet files."""
    return read_dataset(source)


def _read_shard_folder(name: str, source: SourceConfig, folder: Path) -> Iterator[EntryOrSkipped]:
    shards: list[Shard] = []
    for root, file_names, split in walk(folder):
        for file_name in file_names:
            if CORPUS_FORMATS[name].matches(file_name):
                path = root / file_name
                # The folder's name takes precedence: shards are often only numbered.
                shards.append((str(path), split or split_of(path.stem)))
    return _read_shards(shards, source)


def read_manifest_folder(source: SourceConfig, folder: Path) -> Iterator[EntryOrSkipped]:
    """Read a folder of manifests.

    manifest.jsonl or metadata.csv holds the whole corpus where there is one; otherwise each file of
    lhotse cuts or of a split is read, and recordings with their supervisions where there is nothing
    else.
    """
    stems = _manifest_stems(folder)
    _check_single(stems)
    complete = []
    recordings = []
    others = []
    for file, stem in stems.items():
        if stem in ("manifest", "metadata"):
            complete.append(file)
        if "recordings" in stem:
            recordings.append(file)
        if not re.search("recordings|supervisions", stem):
            others.append(file)
    # A complete manifest repeats what the files of the splits hold.
    for file in complete or others:
        yield from _read_file(file, source, _split_name(stems[file]))
    if not complete and not others:
        for file in recordings:
            items = read_recordings(file, source, _split_name(stems[file]))
            yield from as_written(items, file, "lhotse")


def _check_single(stems: dict[Path, str]) -> None:
    """Raise ValueError where the same manifest lies there in two formats: it would count twice."""
    files: dict[str, Path] = {}
    for file, stem in stems.items():
        earlier = files.setdefault(stem, file)
        if earlier != file:
            raise ValueError(
                f"{file.parent} holds {earlier.name} and {file.name}, which count as one manifest "
                "in two formats; remove one, or name the file that is meant"
            )


def _split_name(stem: str) -> str | None:
    return stem if split_of(stem) else None


def _manifest_stems(folder: Path) -> dict[Path, str]:
    """Manifests directly in a folder, and their names without suffixes."""
    stems = {}
    for file in sorted(folder.iterdir()):
        stem = re.split(r"\.jsonl|\.csv|\.json|\.tsv", file.name)[0]
        is_manifest = MANIFEST_FILE.search(file.name) is not None and not is_hidden(file.name)
        if is_manifest and (MANIFEST_STEM.search(stem) or split_of(stem)):
            stems[file] = stem
    return stems


def _read_shards(shards: list[Shard], source: SourceConfig) -> Iterator[EntryOrSkipped]:
    """Read shards in parallel, since most of the time of a network is waiting; results keep the
    order of shards."""

    def read(shard: Shard) -> list[EntryOrSkipped]:
        return list(_read_one_shard(shard, source))

    with concurrent.futures.ThreadPoolExecutor(NUM_SHARD_THREADS) as pool:
        for items in pool.map(read, shards):
            yield from items


def _read_one_shard(shard: Shard, source: SourceConfig) -> Iterable[EntryOrSkipped]:
    path, split = shard
    # URLs have no folder that could be searched for markers, so the suffix decides.
    if path.endswith(".parquet"):
        return read_dataset(dataclasses.replace(source, path=path))
    if not path.endswith((".jsonl", ".jsonl.gz")):
        return read_shard(path, source, split)
    if CORPUS_FORMATS["shar"].matches(path.rpartition("/")[2]):
        return as_written(read_shar(path, source, split), path, "lhotse")
    return read_plain_manifest(path, read_records(path), source, split)


def detect_format(folder: Path) -> str:
    """Name of the format of a folder.

    Shar and manifests are recognised by the files directly in the folder, the other formats by the
    first marker of CORPUS_FORMATS that any file below it matches.

    Raises:
        ValueError: no known format.
    """
    names = [file.name for file in folder.iterdir() if not is_hidden(file.name)]
    if any(CORPUS_FORMATS["shar"].matches(name) for name in names):
        return "shar"
    if _manifest_stems(folder):
        return "manifest"
    has_audio = False
    compressed = False
    has_transcripts = False
    for _, file_names, _ in walk(folder):
        for file_name in file_names:
            for name, corpus_format in CORPUS_FORMATS.items():
                if corpus_format.matches(file_name):
                    return name
            # Those that cannot be read are counted by the reader, with the remedy.
            has_audio |= file_name.lower().endswith((*SOUND_SUFFIXES, *UNREAD_SUFFIXES))
            has_transcripts |= file_name.lower().endswith(TRANSCRIPT_SUFFIXES)
            compressed |= COMPRESSED_TAR.search(file_name) is not None
    if has_audio and has_transcripts:
        return "folder"
    if compressed and not has_audio:
        raise ValueError(
            f"{folder} holds compressed tars, of which no single file can be read; unpack them to "
            "tars, for example by gunzip"
        )
    problem = "holds audio but no transcripts" if has_audio else "holds no speech"
    raise ValueError(f"{folder} {problem}; understood are {KNOWN_LAYOUTS}")
