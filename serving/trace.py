"""A conversation as a file: its first line says what it is of, every other one is what happened in a slice."""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from duplexmamba.conversation import Event


@dataclasses.dataclass(frozen=True)
class Header:
    """What a conversation is of."""

    run: str
    """Folder of the model."""
    slice_s: float
    wav: str | None = None
    """File of what was heard; None: there is none."""
    channel: int | None = None
    """Of that file; None: the mean of all."""


@dataclasses.dataclass(frozen=True)
class Trace:
    """A whole conversation."""

    header: Header
    events: list[Event]


def record(path: Path, header: Header, events: Iterable[Event]) -> Iterator[Event]:
    """Pass events on, each written as it comes, so that a conversation that breaks off is there up to that point."""
    with path.open("w") as file:
        file.write(json.dumps(dataclasses.asdict(header)) + "\n")
        for event in events:
            file.write(json.dumps(dataclasses.asdict(event)) + "\n")
            file.flush()
            yield event


def load(path: Path) -> Trace:
    """Raises ValueError: no such file, or not a trace."""
    if not path.is_file():
        raise ValueError(f"TRACE={path} is missing: name the file that `make converse` has written")
    try:
        header, *events = [json.loads(line) for line in path.read_text().splitlines()]
        return Trace(Header(**header), [Event(**event) for event in events])
    except (ValueError, TypeError) as error:
        message = f"TRACE={path} is no trace of a conversation ({error}): name one that `make converse` has written"
        raise ValueError(message) from None
