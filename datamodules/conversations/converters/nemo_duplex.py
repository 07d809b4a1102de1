"""NVIDIA NeMo's duplex cuts: the recording is the user, `custom.target_audio` the agent.

Source: NeMo, docs/source/speechlm2/datasets.rst and speechlm2/data/s2s_dataset.py.
"""

from collections.abc import Iterator
from pathlib import Path

from datamodules.conversations.conversation import Conversation, Side, SpokenTurn
from datamodules.conversations.converters.cut_files import LocatedCut, by_time, read_cut_files
from datamodules.sources.duplex_cuts import ROLES, role_of, without_stamps
from datamodules.sources.manifest_entry import UNUSABLE, Skipped, spoken_text


def convert(root: Path) -> Iterator[Conversation | Skipped]:
    """Read duplex cuts from manifests or Shar; the user is the only listener."""
    for item in read_cut_files(root):
        if isinstance(item, Skipped):
            yield item
            continue
        try:
            yield _conversation(item)
        except ValueError as error:
            yield Skipped(UNUSABLE, str(error))


def _conversation(located: LocatedCut) -> Conversation:
    return Conversation(
        id=located.id,
        split=located.split,
        source="nemo-duplex",
        licence="",
        language="",
        duration_s=float(located.cut["duration"]),
        user=_side(located, "recording"),
        agent=_side(located, "target_audio"),
        turns=tuple(_turns(located)),
    )


def _side(located: LocatedCut, field: str) -> Side:
    # Both are single channels, each with the number that lhotse gives a single one.
    audio, channel, start_s = located.sound(field, 0)
    return Side(audio, channel, start_s)


def _turns(located: LocatedCut) -> list[SpokenTurn]:
    """Turns of both; the agent replies to the user's latest turn."""
    turns: list[SpokenTurn] = []
    latest: int | None = None
    for supervision in by_time(located.cut.get("supervisions") or []):
        role = role_of(supervision)
        if role is None:
            raise ValueError(
                f"{located.location}: speaker={supervision.get('speaker')!r} of supervision "
                f"{supervision['id']} is none of {', '.join(ROLES)}; rename it"
            )
        start_s = float(supervision["start"])
        end_s = start_s + float(supervision["duration"])
        text = without_stamps(supervision.get("text") or "")
        if role == "user":
            latest = len(turns)
            turns.append(SpokenTurn("user", start_s, end_s, spoken_text(text)))
        else:
            turns.append(SpokenTurn("agent", start_s, end_s, text, kind="answer", to=latest))
    return turns
