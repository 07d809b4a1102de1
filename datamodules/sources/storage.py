"""Reading bytes from disk and network, with retries."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import fsspec

from datamodules.corpus import UnusableAudio

WAITS_S = (0.5, 1.0, 2.0)
"""Seconds between attempts to read a file."""
BLOCK_BYTES = 2**16
"""Bytes that are fetched at least while a remote file is searched."""
Result = TypeVar("Result")


def is_url(path: str | Path) -> bool:
    """Whether a path is a URL, which fsspec opens."""
    return "://" in str(path)


def read_bytes(path: str, start: int | None = None, end: int | None = None) -> bytes:
    """Read a file or a range of it.

    Args:
        path: path or URL.
        start: first byte; None: from the beginning.
        end: byte after the last one; None: to the end.

    Raises:
        UnusableAudio: the file is missing or unreachable.
    """

    def read() -> bytes:
        if is_url(path):
            system, name = fsspec.core.url_to_fs(path)
            return system.cat_file(name, start, end)
        offset = start or 0
        with open(path, "rb") as file:
            file.seek(offset)
            return file.read(-1 if end is None else end - offset)

    return retry(read, path)


def open_bytes(path: str) -> BinaryIO:
    """Open a path or URL for reading. Only the requested parts of a remote file are fetched.

    Raises:
        UnusableAudio: the file is missing or unreachable.
    """
    if not is_url(path):
        return retry(lambda: open(path, "rb"), path)
    system, name = fsspec.core.url_to_fs(path)

    def open_remote() -> BinaryIO:
        return system.open(name, "rb", block_size=BLOCK_BYTES, cache_type="readahead")

    file = retry(open_remote, path)
    # The buffer saves requests for the many small reads of tar headers.
    return io.BufferedReader(_RetryingFile(file, path), BLOCK_BYTES)


class _RetryingFile(io.RawIOBase):
    """A remote file whose reads are retried."""

    def __init__(self, file: BinaryIO, name: str):
        self.file = file
        self.name = name

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def readinto(self, buffer: Any) -> int:
        data = retry(lambda: self.file.read(len(buffer)), self.name)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.file.close()
        super().close()


def retry(read: Callable[[], Result], name: str) -> Result:
    """Call a function that reads a file, again after a wait when disk or network fails.

    Args:
        read: the function.
        name: path or URL of the file.

    Returns:
        The result of `read`.

    Raises:
        UnusableAudio: the file is missing, or every attempt failed.
    """
    # After the last attempt there is nothing to wait for.
    for wait_s in (*WAITS_S, None):
        try:
            return read()
        except UnusableAudio:
            raise
        except FileNotFoundError:
            raise UnusableAudio(f"{name} is missing") from None
        except Exception as error:
            # The clients of remote stores raise classes of their own, so any error of a URL counts.
            if not is_url(name) and not isinstance(error, OSError):
                raise
            if wait_s is None:
                num_attempts = len(WAITS_S) + 1
                reason = str(error) or type(error).__name__
                raise UnusableAudio(
                    f"{name} cannot be read, tried {num_attempts} times: {reason}"
                ) from None
            time.sleep(wait_s)
    raise AssertionError("unreachable")
