"""Bytes from the disk and from the network; what fails is tried again before it is given up."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import fsspec

from datamodules.corpus import UnusableAudio

WAITS_S = (0.5, 1.0, 2.0)
"""Seconds before what cannot be read is tried again."""
BLOCK_BYTES = 2**16
"""Read ahead while a remote file is looked through."""
Result = TypeVar("Result")


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

    return retry(read, path)


def open_bytes(path: str) -> BinaryIO:
    """A file to look through; of a remote one only what is looked at is fetched. Raises
    UnusableAudio."""
    if not is_url(path):
        return retry(lambda: open(path, "rb"), path)
    system, name = fsspec.core.url_to_fs(path)
    file = retry(
        lambda: system.open(name, "rb", block_size=BLOCK_BYTES, cache_type="readahead"), path
    )
    return io.BufferedReader(_Steady(file, path), BLOCK_BYTES)


class _Steady(io.RawIOBase):
    """A remote file each read of which is tried again."""

    def __init__(self, file: BinaryIO, name: str):
        self.file, self.name = file, name

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def readinto(self, buffer: Any) -> int:
        found = retry(lambda: self.file.read(len(buffer)), self.name)
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self.file.close()
        super().close()


def retry(read: Callable[[], Result], name: str) -> Result:
    """Call `read` and return its result, again where a disk or a network fails for a moment. Raises
    UnusableAudio."""
    for wait_s in (*WAITS_S, None):
        try:
            return read()
        except UnusableAudio:
            raise
        except FileNotFoundError:
            raise UnusableAudio(f"{name} is missing") from None
        except Exception as error:  # every store's client has its own
            if not is_url(name) and not isinstance(error, OSError):
                raise
            if wait_s is None:
                why = str(error) or type(error).__name__
                raise UnusableAudio(
                    f"{name} cannot be read, tried {len(WAITS_S) + 1} times: {why}"
                ) from None
            time.sleep(wait_s)
    raise AssertionError("unreachable")
