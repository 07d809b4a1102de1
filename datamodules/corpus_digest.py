"""What recorded corpora hold, as a few hex digits: equal for equal files, wherever they lie.

The files that name the utterances (manifests, tables, transcripts) count by their content, sound
files by name and size, archives by size and samples of their content. Times do not count, so that a
copy of a corpus is the same corpus.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

from configs.schema import Config
from datamodules.conversations.manifest import MANIFEST
from datamodules.sources.corpus_manifest import sources_of
from datamodules.sources.folders import SOUND_SUFFIXES, walk
from datamodules.sources.shards import expand
from datamodules.sources.storage import is_url

TEXT_SUFFIXES = (
    ".jsonl",
    ".json",
    ".csv",
    ".tsv",
    ".txt",
    ".lab",
    ".stm",
    ".gz",
    ".xml",
    ".trn",
)
"""File name suffixes of manifests, tables and transcripts, which count by their content."""
ARCHIVE_SUFFIXES = (".tar", ".parquet", ".arrow")
"""File name suffixes of files that hold sounds and texts."""
MAX_HASHED_BYTES = 2**26
"""Files that are larger count by size and samples."""
NUM_SAMPLES = 64
SAMPLE_BYTES = 2**16
NUM_HEX_DIGITS = 8


@dataclasses.dataclass(frozen=True)
class Contents:
    """Content of a file or folder."""

    digest: str
    """Hex digits that are equal for equal content."""
    num_files: int
    num_bytes: int
    newest_s: int
    """Time at which the newest file was written, in seconds since 1970."""


def corpus_contents(config: Config) -> dict[str, Contents]:
    """Contents of the recorded corpora on this machine that a configuration trains on.

    Returns:
        Name of the setting -> contents; corpora of a network are left out.
    """
    contents = {}
    for name, source in sources_of(config.data).items():
        setting = "data.path" if name == "path" else f"data.sources.{name}.path"
        found = contents_of(source.path)
        if found is not None:
            contents[setting] = found
    if config.stage.data == "dialogues":
        for name in config.data.conversations:
            # The manifest alone: its folder has a report, or the sounds, beside it.
            path = Path(name).expanduser()
            found = contents_of(str(path / MANIFEST if path.is_dir() else path))
            if found is not None:
                contents[f"data.conversations {name}"] = found
    return contents


@functools.cache
def contents_of(path: str) -> Contents | None:
    """Read the contents of a file, of a folder, or of all files for which a pattern stands.

    The result is kept: `contents_of.cache_clear()` makes the next call read the files anew.

    Returns:
        The contents; None: there is no such file here.
    """
    if is_url(path):
        return None
    digest = hashlib.sha256()
    num_files = 0
    num_bytes = 0
    newest_s = 0
    for name, file in _files(path):
        status = file.stat()
        digest.update(f"{name}\0{status.st_size}\0".encode(errors="surrogateescape"))
        if not name.lower().endswith(SOUND_SUFFIXES):
            _add_content(digest, file, status.st_size)
        num_files += 1
        num_bytes += status.st_size
        newest_s = max(newest_s, int(status.st_mtime))
    if not num_files:
        return None
    return Contents(digest.hexdigest()[:NUM_HEX_DIGITS], num_files, num_bytes, newest_s)


def _files(path: str) -> Iterable[tuple[str, Path]]:
    """Names, relative to the corpus, and paths of its files, in order."""
    names = expand(path) if "{" in path and not Path(path).exists() else [path]
    for name in names:
        top = Path(name).expanduser()
        if top.is_file():
            yield top.name, top
        elif top.is_dir():
            yield from _files_below(top)


def _files_below(folder: Path) -> Iterable[tuple[str, Path]]:
    known = (*SOUND_SUFFIXES, *TEXT_SUFFIXES, *ARCHIVE_SUFFIXES)
    for root, file_names, _ in walk(folder):
        for file_name in file_names:
            file = root / file_name
            is_hidden = file_name.startswith(".")
            if not is_hidden and file_name.lower().endswith(known) and file.is_file():
                yield file.relative_to(folder).as_posix(), file


def _add_content(digest: "hashlib._Hash", path: Path, num_bytes: int) -> None:
    """Add the content of a file to a digest, of a large one samples at equal distances."""
    with open(path, "rb") as file:
        if num_bytes <= MAX_HASHED_BYTES:
            digest.update(file.read())
            return
        last = num_bytes - SAMPLE_BYTES
        for number in range(NUM_SAMPLES):
            # the first and the last bytes are among them: archives have their tables there
            file.seek(last * number // (NUM_SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
