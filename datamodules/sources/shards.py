"""Tar shards in the layout of WebDataset -> entries.

Files of a shard that share their name up to the first dot are one utterance: a sound, and its words
in a .json or .txt. Nothing is unpacked; an entry locates its sound as a byte range of the shard.
"""

import posixpath
import re
import tarfile
from collections.abc import Iterator
from typing import IO

from configs.schema import SourceConfig
from datamodules.corpus import UnusableAudio
from datamodules.sources.audio import stream_duration_s
from datamodules.sources.audio_sources import TarSource
from datamodules.sources.folders import SECOND_SOUND, SOUND_SUFFIXES, UNREAD_SUFFIXES
from datamodules.sources.json_records import parse_json
from datamodules.sources.manifest_entry import (
    NO_AUDIO,
    UNREAD_FORMAT,
    UNUSABLE,
    EntryOrSkipped,
    Skipped,
)
from datamodules.sources.manifests import Columns, Record
from datamodules.sources.storage import open_bytes
from datamodules.sources.text_files import decode

TEXT_SUFFIXES = ("json", "txt", "lab")
"""Suffixes of files that hold the words of an utterance."""
NO_TARGET = "a link to a file that is not in the shard; write the shard anew with tar --dereference"
NUMBER_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
"""{000..041} in the name of a shard."""
Content = bytes | float
"""Content of a text file, or duration of a sound in seconds."""
Member = tuple[TarSource, Content]
"""A file of a shard, and its content."""


def is_pattern(path: str) -> bool:
    """Whether a path stands for several shards, see `expand`."""
    return NUMBER_RANGE.search(path) is not None


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

    Where an utterance would have several sounds, names count up to their last dot instead.

    Args:
        shard: path or URL.
        source: names of the columns.
        split: used where an utterance names none.

    Returns:
        One entry per utterance, and one skipped item per file that cannot be read.
    """
    columns = Columns(source)
    # WebDataset requires that the files of an utterance follow each other, but tar sorts them as
    # its user does. In memory: texts are small, and of a sound only the place is kept.
    utterances: dict[str, list[Member]] = {}
    for member, content in members(shard):
        if isinstance(member, Skipped):
            yield member
            continue
        assert content is not None
        key = _key(member.name)
        utterance = utterances.setdefault(key, [])
        if any(member.name == earlier.name for earlier, _ in utterance):
            # A name that repeats begins another utterance.
            yield from _entries(key, utterance, columns, shard, split)
            utterance = utterances[key] = []
        utterance.append((member, content))
    for key, utterance in utterances.items():
        yield from _entries(key, utterance, columns, shard, split)


def _entries(
    key: str, utterance: list[Member], columns: Columns, shard: str, split: str | None
) -> Iterator[EntryOrSkipped]:
    """The entry of an utterance; several where dots in names have joined several utterances."""
    parts: dict[str, list[Member]] = {}
    for member, content in utterance:
        parts.setdefault(_stem(member), []).append((member, content))
    sounds = [member for member, content in utterance if isinstance(content, float)]
    if len(sounds) > 1 and all(len(parts[_stem(sound)]) > 1 for sound in sounds):
        for stem, part in parts.items():
            yield _entry(stem, part, columns, shard, split)
        return
    yield _entry(key, utterance, columns, shard, split)
    for sound in sounds[1:]:
        yield Skipped(SECOND_SOUND, str(sound))


def _stem(member: TarSource) -> str:
    """Name of a file without its last suffix."""
    return member.name.rpartition(".")[0]


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
            files: dict[str, tarfile.TarInfo] = {}
            links = []
            for info in tar:
                if _is_of_macos(info.name):
                    continue
                if info.issym() or info.islnk():
                    links.append(info)
                    continue
                # tarfile would check this only when it proceeds to the next file.
                if info.offset_data + info.size > shard_bytes:
                    raise tarfile.ReadError("unexpected end of data")
                if info.isfile():
                    num_files += 1
                    files[posixpath.normpath(info.name)] = info
                    yield _read_member(tar, info, info.name, shard)
            for link in links:
                found = files.get(_target(link))
                if found is None:
                    yield Skipped(UNUSABLE, f"{shard}:{link.name} is {NO_TARGET}"), None
                else:
                    yield _read_member(tar, found, link.name, shard)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        problem = f"{shard} is broken or truncated after {num_files:,} files: {error}"
        yield Skipped(UNUSABLE, problem), None
    except UnusableAudio as error:
        yield Skipped(UNUSABLE, str(error)), None


def _target(link: tarfile.TarInfo) -> str:
    """Name of the file to which a link of a shard leads: tar writes a file once that has two names."""
    folder = posixpath.dirname(link.name) if link.issym() else ""
    return posixpath.normpath(posixpath.join(folder, link.linkname))


def _read_member(
    tar: tarfile.TarFile, info: tarfile.TarInfo, name: str, shard: str
) -> tuple[TarSource, Content] | tuple[Skipped, None]:
    """Read a file of a shard, under its own name or that of a link to it."""
    if info.issparse():
        return Skipped(UNUSABLE, f"{shard}:{name} is stored with holes; write the shard anew"), None
    content = tar.extractfile(info)
    assert content is not None
    return _inspect(TarSource(shard, name, info.offset_data, info.size), content)


def _is_of_macos(name: str) -> bool:
    """Whether macOS has added a file to an archive, beside each that the user has put there."""
    return any(part.startswith("._") or part == "__MACOSX" for part in name.split("/"))


def _inspect(
    member: TarSource, content: IO[bytes]
) -> tuple[TarSource, Content] | tuple[Skipped, None]:
    """Read a text, or the header of a sound."""
    if member.name.lower().endswith(UNREAD_SUFFIXES):
        return Skipped(UNREAD_FORMAT, str(member)), None
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
            try:
                record |= _columns_of(member, content)
            except ValueError as error:
                return Skipped(UNUSABLE, str(error))
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

    Raises:
        ValueError: the file is not UTF-8, or no JSON object.
    """
    suffix = member.name.rpartition(".")[2].lower()
    if suffix not in TEXT_SUFFIXES:
        # Such as an image beside the sound.
        return {suffix: content.decode("utf-8", errors="replace")}
    text = decode(content, str(member))
    if suffix != "json":
        return {"text": text}
    record = parse_json(text, str(member))
    if not isinstance(record, dict):
        raise ValueError(f"{member} is not a JSON object; write it again")
    return record
