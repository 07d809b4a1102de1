"""Locations of encoded audio: a file, a URL, a member of a tar shard, a cell of a parquet table, a
lhotse cut."""

import dataclasses
import functools
import io
import json
import threading
from pathlib import Path
from typing import Any, Protocol

import soundfile as sf

from datamodules.corpus import UnusableAudio
from datamodules.sources.storage import is_url, open_bytes, read_bytes, retry

NUM_CACHED_ROW_GROUPS = 8
"""Parquet row groups that a process caches, enough for the row groups of one window of the training
stream."""
_row_group_lock = threading.Lock()


class StoredAudio(Protocol):
    """An encoded sound that is not a local file of its own. `str` names it in messages."""

    def read(self) -> bytes:
        """Read the whole encoded sound.

        Raises:
            UnusableAudio: it is missing, incomplete or unreachable.
        """
        ...


AudioSource = Path | StoredAudio
"""Location of an encoded sound: a local file, or anything that can be read as bytes."""


@dataclasses.dataclass(frozen=True)
class BytesSource:
    """A sound file in memory."""

    data: bytes
    name: str

    def __str__(self) -> str:
        return self.name

    def read(self) -> bytes:
        """Return the bytes."""
        return self.data


@dataclasses.dataclass(frozen=True)
class RemoteSource:
    """A sound file with a URL."""

    url: str

    def __str__(self) -> str:
        return self.url

    def read(self) -> bytes:
        """Download the file. Raises UnusableAudio."""
        return read_bytes(self.url)


# `make data` writes the fields of the following classes to manifests by position: their order is a
# file format.


@dataclasses.dataclass(frozen=True)
class TarSource:
    """A sound file within an uncompressed tar shard, addressed as a byte range."""

    shard: str
    """Path or URL."""
    name: str
    start: int
    """Offset of the sound within the shard, in bytes."""
    size: int
    """Length of the sound, in bytes."""

    def __str__(self) -> str:
        return f"{self.shard}:{self.name}"

    def read(self) -> bytes:
        """Read the byte range. Raises UnusableAudio: unreachable, or the shard ends early."""
        data = read_bytes(self.shard, self.start, self.start + self.size)
        if len(data) < self.size:
            raise UnusableAudio(
                f"{self} is cut off: {len(data):,} of {self.size:,} bytes are there"
            )
        return data


@dataclasses.dataclass(frozen=True)
class ParquetSource:
    """A sound in one cell of a parquet file: bytes, a path, or the struct of both that `datasets`
    writes."""

    file: str
    """Path or URL."""
    group: int
    """Number of the row group."""
    row: int
    """Row within the row group."""
    column: str

    def __str__(self) -> str:
        return f"{self.file}:{self.group}:{self.row}"

    def read(self) -> bytes:
        """Read the cell, or the file that it names. Raises UnusableAudio."""
        # Threads that measure durations request the same row group at once; the lock makes one of
        # them fetch it.
        with _row_group_lock:
            cells = retry(lambda: _read_column(self.file, self.group, self.column), self.file)
        cell = cells[self.row].as_py()
        if isinstance(cell, bytes):
            return cell
        if isinstance(cell, str):
            return self._read_named_file(cell)
        if not isinstance(cell, dict):
            raise UnusableAudio(f"{self} is empty, or holds no sound file")
        if cell.get("bytes"):
            return cell["bytes"]
        if not cell.get("path"):
            raise UnusableAudio(f"{self} is empty")
        return self._read_named_file(cell["path"])

    def _read_named_file(self, path: str) -> bytes:
        if not path:
            raise UnusableAudio(f"{self} is empty")
        if is_url(path):
            return read_bytes(path)
        return read_bytes(str(Path(self.file).parent / path))


@dataclasses.dataclass(frozen=True)
class LhotseSource:
    """A lhotse cut that lhotse mixes or transforms as it is read."""

    id: str
    manifest: str
    """JSON of the cut."""
    base: str
    """Folder to which the paths in the JSON are relative."""

    def __str__(self) -> str:
        return f"cut {self.id}"

    def read(self) -> bytes:
        """Let lhotse render the cut, as the bytes of a float WAV. Raises UnusableAudio."""
        from lhotse.serialization import deserialize_item

        try:
            cut = deserialize_item(json.loads(self.manifest))
            cut = cut.with_recording_path_prefix(self.base)
            samples = cut.load_audio()  # (channels, n)
            if samples is None:
                raise ValueError("it has no recording")
        except Exception as error:  # lhotse passes on what its backends raise
            reason = " ".join(str(error).split())[:200]
            raise UnusableAudio(f"{self} cannot be read by lhotse: {reason}") from None
        file = io.BytesIO()
        sf.write(file, samples.T, cut.sampling_rate, format="WAV", subtype="FLOAT")
        return file.getvalue()


SOURCE_CLASSES: dict[str, Any] = {
    "remote": RemoteSource,
    "member": TarSource,
    "cell": ParquetSource,
    "cut": LhotseSource,
}
"""Key in a prepared manifest -> class whose fields the key's value lists."""


def audio_source_to_record(audio: AudioSource) -> dict[str, Any]:
    """Columns that locate a sound in a manifest, as `audio_source_from_record` reads them."""
    if isinstance(audio, Path):
        return {"audio": str(audio.absolute())}
    [key] = [key for key, cls in SOURCE_CLASSES.items() if isinstance(audio, cls)]
    fields = dataclasses.fields(SOURCE_CLASSES[key])
    values = [getattr(audio, field.name) for field in fields]
    return {"audio": str(audio), key: values}


def audio_source_from_record(record: dict[str, Any]) -> StoredAudio | None:
    """Audio source that a prepared manifest names; None: the column `audio` is a path or URL.

    A column of another manifest that has the name of such a key, but other values, is no location.
    """
    for key, cls in SOURCE_CLASSES.items():
        values = record.get(key)
        types = [field.type for field in dataclasses.fields(cls)]
        if isinstance(values, list) and [type(value) for value in values] == types:
            return cls(*values)
    return None


def open_parquet(file: str) -> Any:
    """Open a path or URL as a pyarrow ParquetFile. Only the requested parts of a remote file are
    fetched."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(open_bytes(file) if is_url(file) else file)


@functools.lru_cache(maxsize=NUM_CACHED_ROW_GROUPS)
def _read_column(file: str, group: int, column: str) -> Any:
    with open_parquet(file) as parquet:
        table = parquet.read_row_group(group, columns=[column])
    return table.column(column)
