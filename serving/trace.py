"""A conversation as a file: its first line says what it is of, every other one is what happened in a slice."""

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from duplexmamba.duplex.session import Event


@dataclasses.dataclass(frozen=True)
class Header:
    """What a conversation is of."""

    run: str
    """Folder of the model."""
    slice_s: float
    wav: str | None = None
    """File of what was heard, as an absolute path or beside the trace; None: there is none."""
    channel: int | None = None
    """Of that file; None: the mean of all."""


@dataclasses.dataclass(frozen=True)
class Trace:
    """A whole conversation."""

    header: Header
    events: list[Event]


class Writer:
    """Writes events as they come, so that a conversation that breaks off is there up to that point."""

    def __init__(self, path: Path, header: Header):
        self._file = path.open("w")
        self._line(header)

    def write(self, event: Event) -> None:
        """One more."""
        self._line(event)

    def close(self) -> None:
        """No more."""
        self._file.close()

    def _line(self, part: Header | Event) -> None:
        self._file.write(json.dumps(dataclasses.asdict(part)) + "\n")
        self._file.flush()


def record(path: Path, header: Header, events: Iterable[Event]) -> Iterator[Event]:
    """Pass events on, each written as it comes."""
    with contextlib.closing(Writer(path, header)) as writer:
        for event in events:
            writer.write(event)
            yield event


def load(path: Path) -> Trace:
    """Raises ValueError: no such file, or not a trace."""
    if not path.is_file():
        raise ValueError(f"TRACE={path} is missing: name the file that `make converse` has written")
    try:
        header, *events = [json.loads(line) for line in path.read_text().splitlines()]
        found = Trace(Header(**header), [Event(**event) for event in events])
    except (ValueError, TypeError) as error:
        message = f"TRACE={path} is no trace of a conversation ({error}): name one that `make converse` has written"
        raise ValueError(message) from None
    wav = found.header.wav
    beside = dataclasses.replace(found.header, wav=None if wav is None else str(path.parent / wav))
    return dataclasses.replace(found, header=beside)
