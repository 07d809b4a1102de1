"""Tar shards in the layout of WebDataset -> entries.

Files of a shard that share their name up to the first dot are one utterance: a sound, and its words
in a .json or .txt. Nothing is unpacked; an entry locates its sound as a byte range of the shard.
"""

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

NUMBER_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
"""{000..041} in the name of a shard."""
Content = bytes | float
"""Content of a text file, or duration of a sound in seconds."""
Member = tuple[TarSource, Content]
"""A file of a shard, and its content."""


def expand(pattern: str) -> list[str]:
    """Every name for which a pattern such as shard-{000..041}.tar stands.

    A pattern may hold several ranges. The numbers have as many digits as the first of the range.
    """
    number_range = NUMBER_RANGE.search(pattern)
    if number_range is None:
        return [pattern]
    first, last = number_range.groups()
    prefix = pattern[: number_range.start()]
    suffix = pattern[number_range.end() :]
    names = []
    for number in range(int(first), int(last) + 1):
        # The suffix may hold further ranges.
        names += expand(f"{prefix}{number:0{len(first)}d}{suffix}")
    return names


def read_shard(shard: str, source: SourceConfig, split: str | None) -> Iterator[EntryOrSkipped]:
    """Read the utterances of a shard.

    Args:
        shard: path or URL.
        source: names of the columns.
        split: used where an utterance names none.

    Returns:
        One entry per utterance, and one skipped item per file that cannot be read.
    """
    columns = Columns(source)
    key = ""
    utterance: list[Member] = []
    for member, content in members(shard):
        if isinstance(member, Skipped):
            yield member
            continue
        assert content is not None
        # The files of an utterance follow each other, as WebDataset requires.
        member_key = _key(member.name)
        if member_key != key and utterance:
            yield _entry(key, utterance, columns, shard, split)
            utterance = []
        key = member_key
        utterance.append((member, content))
    if utterance:
        yield _entry(key, utterance, columns, shard, split)


def members(shard: str) -> Iterator[tuple[TarSource, Content] | tuple[Skipped, None]]:
    """Go through the files of a shard, without decoding sound.

    Yields:
        Each file with its content, or the reason why a file, or the rest of the shard, cannot be
        read.
    """
    num_files = 0
    try:
        with open_bytes(shard) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            shard_bytes = file.seek(0, 2)
            for info in tar:
                # tarfile would check this only when it proceeds to the next file.
                if info.offset_data + info.size > shard_bytes:
                    raise tarfile.ReadError("unexpected end of data")
                content = tar.extractfile(info)
                # None for a folder or a link
                if content is not None:
                    num_files += 1
                    location = TarSource(shard, info.name, info.offset_data, info.size)
                    yield _inspect(location, content)
    except (tarfile.TarError, OSError) as error:
        problem = f"{shard} is broken or truncated after {num_files:,} files: {error}"
        yield Skipped(UNUSABLE, problem), None
    except UnusableAudio as error:
        yield Skipped(UNUSABLE, str(error)), None


def _inspect(
    member: TarSource, content: IO[bytes]
) -> tuple[TarSource, Content] | tuple[Skipped, None]:
    """Read a text, or the header of a sound."""
    if not member.name.lower().endswith(SOUND_SUFFIXES):
        return member, content.read()
    try:
        return member, stream_duration_s(content, str(member))
    except UnusableAudio as error:
        return Skipped(UNUSABLE, str(error)), None


def _key(name: str) -> str:
    """Name of the utterance to which a file belongs."""
    folder, _, file = name.rpartition("/")
    stem = file.split(".")[0]
    return f"{folder}/{stem}"


def _entry(
    key: str, utterance: list[Member], columns: Columns, shard: str, split: str | None
) -> EntryOrSkipped:
    id = key.lstrip("/")
    sound: TarSource | None = None
    record: Record = {}
    for member, content in utterance:
        if isinstance(content, bytes):
            record |= _columns_of(member, content)
        elif sound is None:
            sound = member
            # In front: a duration in the utterance's JSON takes precedence.
            record = {"duration": content, **record}
    if sound is None:
        return Skipped(NO_AUDIO, f"{shard}:{id}")
    return columns.entry(record, sound, id, split, str(sound))


def _columns_of(member: TarSource, content: bytes) -> Record:
    """Columns that a text file of an utterance holds.

    A JSON object holds its keys; any other file holds one column with the name of its suffix.
    """
    suffix = member.name.rpartition(".")[2]
    text = content.decode("utf-8", errors="replace")
    if suffix != "json":
        return {"text" if suffix == "txt" else suffix: text}
    try:
        record = json.loads(text)
    except ValueError:
        # Without its columns the utterance is counted as one without text.
        return {}
    return record if isinstance(record, dict) else {}
