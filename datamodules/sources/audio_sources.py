"""Where a sound lies: in a file, on the network, within a shard, in a table, or in what lhotse makes of others."""

import dataclasses
import functools
import io
import json
import threading
from pathlib import Path
from typing import Any, Protocol

import soundfile as sf

from datamodules.corpus import UnusableAudio
from datamodules.sources.storage import is_url, open_bytes, persist, read_bytes

GROUPS_HELD = 8
"""Row groups that a process keeps, so that their rows are fetched once: those that a window of the stream is from."""
_one_at_a_time = threading.Lock()


class Sound(Protocol):
    """A sound file that is no file of its own; `str` names it."""

    def read(self) -> bytes:
        """The whole sound file. Raises UnusableAudio."""
        ...


Place = Path | Sound
"""Where a sound file lies."""


@dataclasses.dataclass(frozen=True)
class Held:
    """A sound file in memory."""

    data: bytes
    name: str

    def __str__(self) -> str:
        return self.name

    def read(self) -> bytes:
        return self.data


@dataclasses.dataclass(frozen=True)
class Remote:
    """A sound file with a URL."""

    url: str

    def __str__(self) -> str:
        return self.url

    def read(self) -> bytes:
        return read_bytes(self.url)


@dataclasses.dataclass(frozen=True)
class Member:
    """A sound file within a tar shard."""

    shard: str
    """Path or URL."""
    name: str
    start: int
    size: int
    """Bytes of the shard."""

    def __str__(self) -> str:
        return f"{self.shard}:{self.name}"

    def read(self) -> bytes:
        found = read_bytes(self.shard, self.start, self.start + self.size)
        if len(found) < self.size:
            raise UnusableAudio(
                f"{self} is cut off: {len(found):,} of {self.size:,} bytes are there"
            )
        return found


@dataclasses.dataclass(frozen=True)
class Cell:
    """A sound in a row of a parquet file."""

    file: str
    """Path or URL."""
    group: int
    row: int
    """Within the row group."""
    column: str

    def __str__(self) -> str:
        return f"{self.file}:{self.group}:{self.row}"

    def read(self) -> bytes:
        with _one_at_a_time:  # threads that measure want the same row group at the same time
            sounds = persist(lambda: _sounds(self.file, self.group, self.column), self.file)
        value = sounds[self.row].as_py()
        if isinstance(value, bytes):
            return value
        value = {"path": value} if isinstance(value, str) else value or {}
        if value.get("bytes"):
            return value["bytes"]
        if not value.get("path"):
            raise UnusableAudio(f"{self} is empty")
        beside = (
            value["path"] if is_url(value["path"]) else str(Path(self.file).parent / value["path"])
        )
        return read_bytes(beside)


@dataclasses.dataclass(frozen=True)
class Cut:
    """Sound that lhotse mixes or transforms while it is read."""

    id: str
    manifest: str
    """JSON of the cut."""
    base: str
    """Folder that the paths in it start from."""

    def __str__(self) -> str:
        return f"cut {self.id}"

    def read(self) -> bytes:
        from lhotse.serialization import deserialize_item

        try:
            cut = deserialize_item(json.loads(self.manifest)).with_recording_path_prefix(self.base)
            samples = cut.load_audio()
        except Exception as error:  # lhotse passes on what its readers raise
            raise UnusableAudio(
                f"{self} cannot be read by lhotse: {' '.join(str(error).split())[:200]}"
            ) from None
        file = io.BytesIO()
        sf.write(file, samples.T, cut.sampling_rate, format="WAV", subtype="FLOAT")
        return file.getvalue()


KINDS = {"remote": Remote, "member": Member, "cell": Cell, "cut": Cut}


def to_row(place: Place) -> dict[str, Any]:
    """Columns of a manifest that `from_row` understands."""
    if isinstance(place, Path):
        return {"audio": str(place.absolute())}
    [kind] = (name for name, kind in KINDS.items() if isinstance(place, kind))
    return {
        "audio": str(place),
        kind: [getattr(place, field.name) for field in dataclasses.fields(KINDS[kind])],
    }


def from_row(row: dict[str, Any]) -> Sound | None:
    """The place that a prepared manifest names; None: `audio` is a path."""
    return next((place(*row[kind]) for kind, place in KINDS.items() if row.get(kind)), None)


def open_parquet(file: str) -> Any:
    """A pyarrow ParquetFile; of a remote one only what is asked for is fetched."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(open_bytes(file) if is_url(file) else file)


@functools.lru_cache(maxsize=GROUPS_HELD)
def _sounds(file: str, group: int, column: str) -> Any:
    with open_parquet(file) as opened:
        return opened.read_row_group(group, columns=[column]).column(column)
