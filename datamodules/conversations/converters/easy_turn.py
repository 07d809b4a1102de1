"""Easy-Turn: single clips in Mandarin or English whose transcripts end with their turn state.

Layout: lines {"key", "wav", "txt", "lang", "speaker"} of *.jsonl or *.list, of which the sounds lie
at `wav` or in tar shards by `key`; or tar shards of key.wav and key.txt alone. `txt` ends with
<COMPLETE>, <INCOMPLETE>, <BACKCHANNEL> or <WAIT>. Source: ASLP-lab/Easy-Turn (arXiv 2509.23938).
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from datamodules.conversations.clips import clip_conversation
from datamodules.conversations.conversation import Conversation
from datamodules.dialogue.turns import Kind
from datamodules.sources.audio_sources import AudioSource, TarSource
from datamodules.sources.folders import split_above
from datamodules.sources.manifest_entry import NO_AUDIO, UNUSABLE, Skipped, spoken_text
from datamodules.sources.manifests import Record, read_numbered_records
from datamodules.sources.shards import members

STATE = re.compile(r"<([A-Z_ ]+)>\s*$")
"""The mark at the end of a transcript."""
STATES: dict[str, tuple[Kind, bool | None]] = {
    "COMPLETE": ("question", True),
    "INCOMPLETE": ("question", False),
    "BACKCHANNEL": ("backchannel", None),
    # Words to the model that ask it to be quiet: they get no answer.
    "WAIT": ("talking_to_other", None),
}
"""Mark -> kind of the only turn, and whether it is answered."""
LIST_PATTERNS = ("*.jsonl", "*.jsonl.gz", "*.list")


class Text(NamedTuple):
    """A text of a shard."""

    location: str
    """Shard and file, for messages."""
    content: str


def convert(root: Path) -> Iterator[Conversation | Skipped]:
    """Read every clip of a folder and those below it.

    Raises:
        ValueError: there is neither a list nor a shard.
    """
    lists = sorted(path for pattern in LIST_PATTERNS for path in root.rglob(pattern))
    shards = sorted(root.rglob("*.tar"))
    if not lists and not shards:
        raise ValueError(f"{root} holds no .jsonl, .list or .tar; give the folder that does")
    sounds: dict[str, TarSource] = {}
    texts: dict[str, Text] = {}
    for shard in shards:
        yield from _index(shard, sounds, texts)
    for path in lists:
        for number, record in read_numbered_records(path):
            yield _of_line(record, f"{path}, line {number}", path, root, sounds)
    if not lists:
        for key, text in texts.items():
            yield _of_shard(key, text, root, sounds)


def _index(shard: Path, sounds: dict[str, TarSource], texts: dict[str, Text]) -> Iterator[Skipped]:
    """Note the sounds and texts of a shard by their keys; yields what cannot be read."""
    for member, content in members(str(shard)):
        if isinstance(member, Skipped):
            yield member
            continue
        key = Path(member.name).name.rpartition(".")[0]
        if isinstance(content, float):
            sounds[key] = member
        elif member.name.endswith(".txt") and content is not None:
            texts[key] = Text(str(member), content.decode("utf-8", errors="replace"))


def _of_shard(
    key: str, text: Text, root: Path, sounds: dict[str, TarSource]
) -> Conversation | Skipped:
    """The clip of a text that lies in a shard."""
    if key not in sounds:
        return Skipped(NO_AUDIO, text.location)
    shard = Path(sounds[key].shard)
    split = split_above(shard.relative_to(root))
    return _clip(key, sounds[key], {"txt": text.content}, text.location, split)


def _of_line(
    record: Record, location: str, path: Path, root: Path, sounds: dict[str, TarSource]
) -> Conversation | Skipped:
    """The clip of a line, whose sound is a file or lies in a shard."""
    key = str(record.get("key") or Path(str(record.get("wav"))).stem)
    wav = path.parent / str(record.get("wav") or f"{key}.wav")
    # Lists of others have paths of their own machine: then the key finds the sound in a shard.
    audio: AudioSource | None = wav if wav.is_file() else sounds.get(key)
    if audio is None:
        return Skipped(NO_AUDIO, f"{location}: {wav}")
    return _clip(key, audio, record, location, split_above(path.relative_to(root)))


def _clip(
    key: str, audio: AudioSource, record: Record, location: str, split: str | None
) -> Conversation | Skipped:
    text = str(record.get("txt") or "")
    mark = STATE.search(text)
    if mark is None or mark[1] not in STATES:
        return Skipped(
            UNUSABLE,
            f"{location}: txt={text!r} ends with none of <{'>, <'.join(STATES)}>; correct it",
        )
    kind, answered = STATES[mark[1]]
    return clip_conversation(
        id=key,
        audio=audio,
        source="easy-turn",
        kind=kind,
        answered=answered,
        text=spoken_text(text[: mark.start()]),
        split=split,
        language=str(record.get("lang") or ""),
        speaker=str(record.get("speaker") or ""),
        label=mark[1],
    )
