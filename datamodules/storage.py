"""Bytes from the disk and from the network: where a sound lies, and reading that is tried again before it fails."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

import fsspec

from datamodules.corpus import UnusableAudio

WAITS_S = (0.5, 1.0, 2.0)
"""Seconds before what cannot be read is tried again."""
BLOCK_BYTES = 2**16
"""Read ahead while a remote file is looked through."""
Result = TypeVar("Result")


class Sound(Protocol):
    """A sound file that is no file of its own; `str` names it."""

    def read(self) -> bytes:
        """The whole sound file. Raises UnusableAudio."""
        ...


Place = Path | Sound
"""Where a sound file lies."""


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
            raise UnusableAudio(f"{self} is cut off: {len(found):,} of {self.size:,} bytes are there")
        return found


def is_url(path: str | Path) -> bool:
    """Whether fsspec reads it rather than `open`."""
    return "://" in str(path)


def read_bytes(path: str, start: int | None = None, end: int | None = None) -> bytes:
    """A file or a range of it. Raises UnusableAudio: it cannot be had."""

    def read() -> bytes:
        if not is_url(path):
            with open(path, "rb") as file:
                file.seek(start or 0)
                return file.read(-1 if end is None else end - (start or 0))
        system, name = fsspec.core.url_to_fs(path)
        return system.cat_file(name, start, end)

    return persist(read, path)


def open_bytes(path: str) -> BinaryIO:
    """A file to look through; of a remote one only what is looked at is fetched. Raises UnusableAudio."""
    if not is_url(path):
        return persist(lambda: open(path, "rb"), path)
    system, name = fsspec.core.url_to_fs(path)
    return persist(lambda: system.open(name, "rb", block_size=BLOCK_BYTES, cache_type="readahead"), path)


def persist(read: Callable[[], Result], name: str) -> Result:
    """What `read` returns, tried again where a disk or a network fails for a moment. Raises UnusableAudio."""
    for wait_s in (*WAITS_S, None):
        try:
            return read()
        except FileNotFoundError:
            raise UnusableAudio(f"{name} is missing") from None
        except Exception as error:  # every store's client has its own
            if not is_url(name) and not isinstance(error, OSError):
                raise
            if wait_s is None:
                why = str(error) or type(error).__name__
                raise UnusableAudio(f"{name} cannot be read, tried {len(WAITS_S) + 1} times: {why}") from None
            time.sleep(wait_s)
    raise AssertionError("unreachable")
