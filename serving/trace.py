"""Trace of a conversation as a JSONL file: a header in the first line, then one event per line."""

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from duplexmamba.duplex.events import Event


@dataclasses.dataclass(frozen=True)
class TraceHeader:
    """First line of a trace."""

    run: str
    """Folder or name of the run."""
    slice_s: float
    """Duration of a slice in seconds."""
    wav: str | None = None
    """File of the user's audio, absolute or relative to the folder of the trace; None: no file."""
    channel: int | None = None
    """Channel of that file; None: the mean of all channels."""


@dataclasses.dataclass(frozen=True)
class Trace:
    """A whole conversation."""

    header: TraceHeader
    events: list[Event]


class TraceWriter:
    """Writes events as they happen, so that an interrupted conversation is saved up to that point.

    Args:
        path: the file.
        header: its first line.
    """

    def __init__(self, path: Path, header: TraceHeader):
        self._file = path.open("w")
        self._write_line(header)

    def write(self, event: Event) -> None:
        """Append an event."""
        self._write_line(event)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write_line(self, record: TraceHeader | Event) -> None:
        self._file.write(json.dumps(dataclasses.asdict(record)) + "\n")
        # A process that is killed loses nothing, and clients can download open traces.
        self._file.flush()


def record_trace(path: Path, header: TraceHeader, events: Iterable[Event]) -> Iterator[Event]:
    """Write events to a trace as they happen, and yield them."""
    with contextlib.closing(TraceWriter(path, header)) as writer:
        for event in events:
            writer.write(event)
            yield event


def load_trace(path: Path) -> Trace:
    """Read a trace.

    Returns:
        The trace; a relative audio file in its header is resolved against the trace's folder.

    Raises:
        ValueError: the file does not exist or is not a trace.
    """
    remedy = "name the file that `make converse` has written"
    if not path.is_file():
        raise ValueError(f"TRACE={path} is missing: {remedy}")
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        header = TraceHeader(**lines[0])
        events = [Event(**line) for line in lines[1:]]
    except (ValueError, TypeError, IndexError) as error:
        message = f"TRACE={path} is not a trace of a conversation ({error}): {remedy}"
        raise ValueError(message) from None
    # Joining leaves an absolute path as it is.
    if header.wav is not None:
        header = dataclasses.replace(header, wav=str(path.parent / header.wav))
    return Trace(header, events)
