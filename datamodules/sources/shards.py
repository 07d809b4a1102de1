"""Tar shards -> entries: WebDataset's, with the words in a .json or .txt beside each sound. Nothing
is unpacked."""

import json
import re
import tarfile
from collections.abc import Iterator
from typing import IO

from configs.schema import SourceConfig
from datamodules.corpus import UnusableAudio
from datamodules.sources.audio import stream_duration_s
from datamodules.sources.audio_sources import TarSource
from datamodules.sources.folders import SOUND_SUFFIXES
from datamodules.sources.manifest_entry import NO_AUDIO, UNUSABLE, EntryOrSkipped, Skipped
from datamodules.sources.manifests import Columns, Record
from datamodules.sources.storage import open_bytes

SPAN = re.compile(r"\{(\d+)\.\.(\d+)\}")
Content = tuple[TarSource | Skipped, bytes | float | None]
"""A member with its text or the seconds it lasts."""


def expand(pattern: str) -> list[str]:
    """shard-{000..041}.tar -> every name it stands for."""
    span = SPAN.search(pattern)
    if span is None:
        return [pattern]
    first, last = span.groups()
    numbers = (f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1))
    return [
        name
        for n in numbers
        for name in expand(pattern[: span.start()] + n + pattern[span.end() :])
    ]


def read_shard(shard: str, source: SourceConfig, split: str | None) -> Iterator[EntryOrSkipped]:
    """Files that share their name up to the first dot are one utterance."""
    columns, key, sample = Columns(source), "", list[tuple[TarSource, bytes | float | None]]()
    for member, content in members(shard):
        if isinstance(member, Skipped):
            yield member
            continue
        own = _key(member.name)
        if own != key and sample:
            yield _utterance(key, sample, columns, shard, split)
            sample = []
        key = own
        sample.append((member, content))
    if sample:
        yield _utterance(key, sample, columns, shard, split)


def members(shard: str) -> Iterator[Content]:
    """The files of a shard as far as it goes, with what is known of them without decoding sound."""
    count = 0
    try:
        with open_bytes(shard) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            size = file.seek(0, 2)
            for info in tar:
                if info.offset_data + info.size > size:
                    raise tarfile.ReadError("unexpected end of data")
                content = tar.extractfile(info)
                if content is not None:
                    count += 1
                    yield _look(TarSource(shard, info.name, info.offset_data, info.size), content)
    except (tarfile.TarError, OSError) as error:
        yield (
            Skipped(UNUSABLE, f"{shard} is broken or truncated after {count:,} files: {error}"),
            None,
        )
    except UnusableAudio as error:
        yield Skipped(UNUSABLE, str(error)), None


def _look(member: TarSource, content: IO[bytes]) -> Content:
    if not member.name.lower().endswith(SOUND_SUFFIXES):
        return member, content.read()
    try:
        return member, stream_duration_s(content, str(member))
    except UnusableAudio as error:
        return Skipped(UNUSABLE, str(error)), None


def _key(name: str) -> str:
    folder, _, file = name.rpartition("/")
    return f"{folder}/{file.split('.')[0]}"


def _utterance(
    key: str,
    sample: list[tuple[TarSource, bytes | float | None]],
    columns: Columns,
    shard: str,
    split: str | None,
) -> EntryOrSkipped:
    sounds = [(member, content) for member, content in sample if isinstance(content, float)]
    if not sounds:
        return Skipped(NO_AUDIO, f"{shard}:{key.lstrip('/')}")
    (sound, duration_s) = sounds[0]
    row: Record = {}
    for member, content in sample:
        if isinstance(content, bytes):
            row |= _words(member, content)
    return columns.entry({"duration": duration_s, **row}, sound, key.lstrip("/"), split, str(sound))


def _words(member: TarSource, content: bytes) -> Record:
    """The columns that a file beside the sound holds: those of its JSON, or its text under its own
    suffix."""
    suffix = member.name.rpartition(".")[2]
    text = content.decode("utf-8", errors="replace")
    if suffix != "json":
        return {"text" if suffix == "txt" else suffix: text}
    try:
        row = json.loads(text)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}
