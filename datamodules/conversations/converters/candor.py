"""CANDOR: video calls of two people, an mp3 of two channels and tables of turns for each.

Layout: <id>/processed/<id>.mp3, processed/channel_map.json {"L": user, "R": user}, and
transcription/transcript_audiophile.csv with `speaker, start, stop, utterance`: speech between
silences. transcript_backbiter.csv has the back-channels, in `backchannel_speaker, backchannel_start,
backchannel_stop`; its turns may last minutes, so that only these are taken from it. Source: arXiv
2203.00674; the files as users of the corpus describe them.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from datamodules.conversations.conversation import Conversation, Side, SpokenTurn
from datamodules.conversations.listeners import Origin, Participant, both_listeners
from datamodules.corpus import UnusableAudio
from datamodules.sources.audio import audio_duration_s
from datamodules.sources.folders import split_above
from datamodules.sources.manifest_entry import UNUSABLE, Skipped, spoken_text
from datamodules.sources.manifests import Record

CHANNEL_MAP = "channel_map.json"
CHANNELS = ("L", "R")
"""Keys of channel_map.json, in the order of the channels of the mp3."""
TURNS = "transcript_audiophile.csv"
BACKCHANNELS = "transcript_backbiter.csv"
LICENCE = "CANDOR: on request"
TURN_COLUMNS = ("speaker", "start", "stop", "utterance")
BACKCHANNEL_COLUMNS = (
    "backchannel",
    "backchannel_speaker",
    "backchannel_start",
    "backchannel_stop",
)


def convert(root: Path) -> Iterator[Conversation | Skipped]:
    """Read every conversation below a folder; both speakers are listeners.

    Raises:
        ValueError: there is none.
    """
    maps = sorted(root.rglob(f"processed/{CHANNEL_MAP}"))
    if not maps:
        raise ValueError(
            f"{root} holds no */processed/{CHANNEL_MAP}; give the folder of the conversations"
        )
    for path in maps:
        folder = path.parent.parent
        try:
            yield from _listeners(folder, split_above(folder.relative_to(root)))
        except (ValueError, UnusableAudio) as error:
            yield Skipped(UNUSABLE, str(error))


def _listeners(folder: Path, split: str | None) -> Iterator[Conversation]:
    audio = folder / "processed" / f"{folder.name}.mp3"
    speakers = _speakers(folder / "processed" / CHANNEL_MAP)
    duration_s = audio_duration_s(audio)
    origin = Origin(
        id=folder.name,
        source="candor",
        duration_s=duration_s,
        split=split,
        licence=LICENCE,
        language="en",
    )
    backchannels = _backchannels(folder / "transcription" / BACKCHANNELS, speakers)
    turns = _turns(folder / "transcription" / TURNS, speakers)
    first, second = [
        Participant(Side(audio, channel), _with_backchannels(turns[speaker], backchannels[speaker]))
        for channel, speaker in enumerate(speakers)
    ]
    yield from both_listeners(origin, (first, second))


def _speakers(path: Path) -> tuple[str, str]:
    """User of the left and of the right channel."""
    try:
        channels = json.loads(path.read_text(encoding="utf-8"))
        left, right = [str(channels[key]) for key in CHANNELS]
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f'{path} must be {{"L": user, "R": user}}, since the channels would be taken for each '
            "other; fetch it again"
        ) from None
    if left == right:
        raise ValueError(f"{path} names {left} for both channels; fetch it again")
    return left, right


def _turns(path: Path, speakers: Sequence[str]) -> dict[str, list[SpokenTurn]]:
    """Speech of each speaker between silences."""
    turns: dict[str, list[SpokenTurn]] = {speaker: [] for speaker in speakers}
    for location, row in _rows(path, TURN_COLUMNS):
        turn = SpokenTurn(
            who="user",
            start_s=_seconds(row, "start", location),
            end_s=_seconds(row, "stop", location),
            text=spoken_text(row["utterance"]),
            speaker=_speaker(row, "speaker", speakers, location),
        )
        turns[turn.speaker].append(turn)
    return turns


def _backchannels(path: Path, speakers: Sequence[str]) -> dict[str, list[SpokenTurn]]:
    """Back-channels of each speaker, which stand in the rows of the turns of the other one."""
    backchannels: dict[str, list[SpokenTurn]] = {speaker: [] for speaker in speakers}
    for location, row in _rows(path, BACKCHANNEL_COLUMNS):
        # Most turns are heard without one.
        if not row["backchannel_start"]:
            continue
        turn = SpokenTurn(
            who="user",
            start_s=_seconds(row, "backchannel_start", location),
            end_s=_seconds(row, "backchannel_stop", location),
            text=spoken_text(row["backchannel"]),
            kind="backchannel",
            speaker=_speaker(row, "backchannel_speaker", speakers, location),
        )
        backchannels[turn.speaker].append(turn)
    return backchannels


def _with_backchannels(
    turns: Sequence[SpokenTurn], backchannels: Sequence[SpokenTurn]
) -> list[SpokenTurn]:
    """Turns and back-channels of one speaker; what is in both tables is a back-channel."""
    kept = list(backchannels)
    for turn in turns:
        # By the middle, since the two tables end it at different words.
        middle_s = (turn.start_s + turn.end_s) / 2
        if not any(other.start_s <= middle_s <= other.end_s for other in backchannels):
            kept.append(turn)
    return sorted(kept, key=lambda turn: turn.start_s)


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Record]]:
    """Rows of a table, each with its place for messages."""
    if not path.is_file():
        raise ValueError(f"{path} is missing; fetch the transcripts of the conversation")
    with open(path, encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file, restval="")
        missing = set(columns).difference(table.fieldnames or [])
        if missing:
            raise ValueError(f"{path} has no column {', '.join(sorted(missing))}; fetch it again")
        for row in table:
            # The number of the line, which is not that of the row where a text has line breaks.
            yield f"{path}, line {table.line_num}", row


def _seconds(row: Record, column: str, location: str) -> float:
    try:
        return float(row[column])
    except ValueError:
        raise ValueError(
            f"{location}: {column}={row[column]!r} must be a number of seconds; correct it"
        ) from None


def _speaker(row: Record, column: str, speakers: Sequence[str], location: str) -> str:
    speaker = str(row[column])
    if speaker not in speakers:
        raise ValueError(
            f"{location}: {column}={speaker!r} is none of {', '.join(speakers)} of {CHANNEL_MAP}; "
            "correct one of both"
        )
    return speaker
