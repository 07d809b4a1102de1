"""The manifest of conversations: JSONL, one line per conversation and listener.

Paths of sound files are relative to the manifest's folder. docs/conversations.md describes the
fields; `make data` writes such manifests from the corpora of `converters`.
"""

import dataclasses
import difflib
import gzip
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from datamodules.conversations.conversation import Conversation, Side, Span, SpokenTurn, problem_of
from datamodules.sources.audio_sources import (
    AudioSource,
    RemoteSource,
    audio_source_from_record,
    audio_source_to_record,
)
from datamodules.sources.manifest_entry import DAMAGED, UNUSABLE, Skipped
from datamodules.sources.manifests import Record, iterate_numbered_records
from datamodules.sources.storage import is_url

MANIFEST = "conversations.jsonl.gz"
"""Name of the manifest that `make data` writes."""
CONVERSATION_FIELDS = tuple(field.name for field in dataclasses.fields(Conversation))
TURN_FIELDS = tuple(field.name for field in dataclasses.fields(SpokenTurn))
SIDE_FIELDS = ("path", "channel", "start_s", "remote", "member", "cell", "cut")
"""Keys of a side; the last four locate audio in shards, tables and cuts."""
SPLITS = ("train", "valid", "test")
MAX_CHANNEL = 1_000
MAX_TIME_S = 1e7
"""Longest time in a conversation, more than three months."""
DECIMALS = 4
"""Digits of times after the point, a tenth of a millisecond."""


def write_conversations(conversations: Iterable[Conversation], path: Path) -> None:
    """Write a manifest, gzipped if its name ends with .gz."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as file:
        for conversation in conversations:
            record = to_record(conversation)
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def to_record(conversation: Conversation) -> Record:
    """Line of a manifest."""
    record = _fields(conversation)
    record["user"] = _side_record(conversation.user)
    record["agent"] = _side_record(conversation.agent) if conversation.agent else None
    record["turns"] = [_turn_record(turn) for turn in conversation.turns]
    return record


def _side_record(side: Side) -> Record:
    located = audio_source_to_record(side.audio)
    path = located.pop("audio")
    return {"path": path, "channel": side.channel, "start_s": side.start_s, **located}


def _turn_record(turn: SpokenTurn) -> Record:
    """A turn without the fields that say nothing."""
    record = {}
    for name, value in _fields(turn).items():
        if value is not None and value != () and value != "":
            record[name] = value
    return record


def _fields(item: Conversation | SpokenTurn) -> Record:
    """Fields and values, with times rounded."""
    record = {}
    for field in dataclasses.fields(item):
        value = getattr(item, field.name)
        record[field.name] = round(value, DECIMALS) if isinstance(value, float) else value
    return record


def read_conversations(path: Path) -> tuple[list[Conversation], list[Skipped]]:
    """Read a manifest; arguments and errors as those of `iterate_conversations`.

    Returns:
        The sound conversations; and for each broken one a sentence with file, line and remedy.
    """
    conversations = []
    skipped = []
    for item in iterate_conversations(path):
        if isinstance(item, Skipped):
            skipped.append(item)
        else:
            conversations.append(item)
    return conversations, skipped


def iterate_conversations(path: Path) -> Iterator[Conversation | Skipped]:
    """Read a manifest line by line, since hours of words take much memory.

    Args:
        path: the manifest, or a folder that holds one named conversations.jsonl.gz.

    Yields:
        The sound conversations; and for each broken one a sentence with file, line and remedy.

    Raises:
        ValueError: the manifest is missing, empty or not JSONL.
    """
    if path.is_dir():
        path = path / MANIFEST
    lines_by_id: dict[str, int] = {}
    number = 0
    for number, record in iterate_numbered_records(path):
        try:
            conversation = from_record(record, path.parent)
            problem = problem_of(conversation)
            if conversation.id in lines_by_id:
                other = lines_by_id[conversation.id]
                problem = f"id={conversation.id} is that of line {other}; give each its own"
        except ValueError as error:
            problem = str(error)
        if problem:
            yield Skipped(UNUSABLE, f"{path}, line {number}: {problem}")
            continue
        lines_by_id[conversation.id] = number
        yield conversation
    if not number:
        raise ValueError(f"{path} is empty; a manifest holds one JSON object per line")


def from_record(record: Record, folder: Path) -> Conversation:
    """Conversation of one line.

    Args:
        record: the line.
        folder: folder to which the paths of sound files are relative.

    Raises:
        ValueError: a field is missing, unknown or of the wrong type; the message names it and the
            remedy.
    """
    # A misspelt field would otherwise be lost without a word.
    _check_fields(record, CONVERSATION_FIELDS, "the conversation")
    split = record.get("split")
    if split not in (None, *SPLITS):
        raise ValueError(f"split={split!r} is none of {', '.join(SPLITS)}; correct it or give null")
    turns = record.get("turns") or []
    if not isinstance(turns, list):
        raise ValueError(f"turns={turns!r:.60} must be a list of objects; correct it")
    agent = record.get("agent")
    return Conversation(
        id=_text(record, "id", "the conversation"),
        split=split,
        source=str(record.get("source") or ""),
        licence=str(record.get("licence") or ""),
        language=str(record.get("language") or ""),
        duration_s=_seconds(record, "duration_s", "the conversation"),
        user=_side(record.get("user"), "user", folder),
        agent=_side(agent, "agent", folder) if agent else None,
        turns=tuple(_turn(turn, number) for number, turn in enumerate(turns)),
        excluded=_spans(record.get("excluded"), "excluded"),
    )


def _side(record: Any, name: str, folder: Path) -> Side:
    if not isinstance(record, dict):
        raise ValueError(f"{name}={record!r} must be an object with path and channel; add it")
    _check_fields(record, SIDE_FIELDS, name)
    channel = record.get("channel")
    # In Python, true is the number 1.
    is_number = isinstance(channel, int) and not isinstance(channel, bool)
    if channel is not None and not (is_number and 0 <= channel <= MAX_CHANNEL):
        raise ValueError(
            f"{name}.channel={channel!r} must be a number from 0, or null for the mean"
        )
    start_s = _seconds(record, "start_s", name) if "start_s" in record else 0.0
    if start_s < 0:
        raise ValueError(f"{name}: start_s={start_s:g} must be a number of seconds from 0")
    return Side(_audio(record, name, folder), channel, start_s)


def _audio(record: Record, name: str, folder: Path) -> AudioSource:
    stored = audio_source_from_record(record)
    if stored is not None:
        return stored
    path = _text(record, "path", name)
    return RemoteSource(path) if is_url(path) else folder / path


def _turn(record: Any, number: int) -> SpokenTurn:
    name = f"turn {number}"
    if not isinstance(record, dict):
        raise ValueError(f"{name} must be an object with who, start_s and end_s; correct it")
    _check_fields(record, TURN_FIELDS, name)
    who = _text(record, "who", name)
    if who not in ("user", "agent"):
        raise ValueError(f"{name}: who={who!r} must be user or agent; correct it")
    words = record.get("words")
    return SpokenTurn(
        who=who,  # type: ignore[arg-type]
        start_s=_seconds(record, "start_s", name),
        end_s=_seconds(record, "end_s", name),
        text=_readable(record, name),
        kind=_optional(record, "kind", str, name),
        answered=_optional(record, "answered", bool, name),
        to=_optional(record, "to", int, name),
        pauses=_spans(record.get("pauses"), f"{name}: pauses"),
        speaker=str(record.get("speaker") or ""),
        words=None if words is None else _words(words, name),
        label=_optional(record, "label", str, name),
    )


def _words(values: Any, name: str) -> tuple[tuple[str, float, float], ...]:
    try:
        return tuple(
            (str(word), _finite(start_s), _finite(end_s)) for word, start_s, end_s in values
        )
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{name}: words must be a list of [word, start_s, end_s]; correct or remove it"
        ) from None


def _spans(values: Any, name: str) -> tuple[Span, ...]:
    try:
        return tuple((_finite(start_s), _finite(end_s)) for start_s, end_s in values or [])
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{name} must be a list of [from_s, to_s]; correct it") from None


def _finite(value: Any) -> float:
    """A time; raises ValueError where it is NaN or infinite, which JSON of Python may hold."""
    number = float(value)
    if not abs(number) <= MAX_TIME_S:
        raise ValueError
    return number


def _readable(record: Record, name: str) -> str:
    """Text of a turn; empty where there is none."""
    value = record.get("text")
    # pandas writes NaN for a text that is missing; only NaN differs from itself.
    if value is None or value != value:
        return ""
    if not isinstance(value, str) or DAMAGED.search(value):
        raise ValueError(
            f"{name}: text={value!r:.60} must be a text without damaged letters; correct it"
        )
    return value


def _text(record: Record, field: str, name: str) -> str:
    value = record.get(field)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}: {field}={value!r} must be a text; add it")
    return value


def _optional(record: Record, field: str, kind: type, name: str) -> Any:
    value = record.get(field)
    if value is not None and not isinstance(value, kind):
        raise ValueError(f"{name}: {field}={value!r} must be a {kind.__name__} or null; correct it")
    return value


def _seconds(record: Record, field: str, name: str) -> float:
    value: Any = record.get(field)
    # In Python, true is a number.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name}: {field}={value!r:.60} must be a number of seconds; correct it")
    # NaN, and what no float can hold, are refused too.
    if not abs(value) <= MAX_TIME_S:
        raise ValueError(f"{name}: {field}={value!r:.60} must be a number of seconds; correct it")
    return float(value)


def _check_fields(record: Record, known: tuple[str, ...], name: str) -> None:
    for field in record:
        if field not in known:
            close = difflib.get_close_matches(field, known, 1)
            remedy = f"did you mean {close[0]}?" if close else f"the fields are {', '.join(known)}"
            raise ValueError(f"{name} has an unknown field {field}; {remedy}")
