"""lhotse cuts with a channel for each speaker: Fisher, Switchboard, CALLHOME, AMI's headsets.

Layout: that of lhotse's recipes fisher_english, switchboard, callhome_english and ami (mic="ihm").
The channel of a supervision, not its speaker, says who speaks: Switchboard's recipe gives both
channels one name.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from datamodules.conversations.conversation import Conversation, Side, SpokenTurn
from datamodules.conversations.converters.cut_files import LocatedCut, by_time, read_cut_files
from datamodules.conversations.listeners import (
    Origin,
    Participant,
    both_listeners,
    every_listener,
)
from datamodules.conversations.units import joined_spans
from datamodules.sources.manifest_entry import UNUSABLE, Skipped, spoken_text
from datamodules.sources.manifests import Record


def convert(root: Path) -> Iterator[Conversation | Skipped]:
    """Read cuts; each channel with speech is a listener's."""
    for item in read_cut_files(root):
        if isinstance(item, Skipped):
            yield item
            continue
        try:
            yield from _listeners(item)
        except ValueError as error:
            yield Skipped(UNUSABLE, str(error))


def _listeners(located: LocatedCut) -> Iterator[Conversation]:
    by_channel = _by_channel(located)
    if len(by_channel) < 2:
        channels = ", ".join(str(channel) for channel in by_channel) or "none"
        raise ValueError(
            f"{located.location}: cut {located.id} has supervised speech in one channel at most "
            f"({channels}); give each speaker a channel, or leave the cut out"
        )
    participants = []
    names: list[str] = []
    for channel, supervisions in sorted(by_channel.items()):
        audio, in_file, start_s = located.sound("recording", channel)
        turns = _joined(supervisions)
        names.append(turns[0].speaker)
        participants.append(Participant(Side(audio, in_file, start_s), turns))
    if len(set(names)) < len(names):
        # One name for both channels names nobody.
        participants = [_unnamed(participant) for participant in participants]
    origin = Origin(
        id=located.id,
        source="lhotse",
        duration_s=float(located.cut["duration"]),
        split=located.split,
        language=str(next(iter(by_channel.values()))[0].get("language") or ""),
    )
    if len(participants) == 2:
        yield from both_listeners(origin, (participants[0], participants[1]))
    else:
        yield from every_listener(origin, participants)


def _by_channel(located: LocatedCut) -> dict[int, list[Record]]:
    by_channel: dict[int, list[Record]] = {}
    for supervision in by_time(located.cut.get("supervisions") or []):
        channel = supervision.get("channel", 0)
        if isinstance(channel, list):
            if len(channel) > 1:
                raise ValueError(
                    f"{located.location}: supervision {supervision['id']} is of the channels "
                    f"{channel}; give it that of its speaker"
                )
            [channel] = channel
        by_channel.setdefault(channel, []).append(supervision)
    return by_channel


def _joined(supervisions: Sequence[Record]) -> list[SpokenTurn]:
    """Turns of one channel: supervisions joined over short silences and overlaps."""
    spans = [(float(s["start"]), float(s["start"]) + float(s["duration"])) for s in supervisions]
    turns = []
    for start_s, end_s in joined_spans(spans):
        inside = [s for s in supervisions if start_s <= s["start"] < end_s]
        text = spoken_text(" ".join(str(s.get("text") or "") for s in inside))
        speaker = str(inside[0].get("speaker") or "")
        turns.append(SpokenTurn("user", start_s, end_s, text, speaker=speaker))
    return turns


def _unnamed(participant: Participant) -> Participant:
    turns = [SpokenTurn("user", turn.start_s, turn.end_s, turn.text) for turn in participant.turns]
    return Participant(participant.side, turns)
