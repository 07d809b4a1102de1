"""otoSpeech turn, the training set of TurnBench: words, times and functions of every turn.

Layout: a folder for each conversation with `combined_audio.wav` (channel 0 is speaker 1),
`speaker_1_annotation_a.srt`, `speaker_2_annotation_a.srt` and `metadata.json`. The text of a cue is
"[Label] words". Labels are those of TurnBench (arXiv 2608.25218; SesameAILabs/turnbench).
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from datamodules.conversations.conversation import Conversation, Side, Span, SpokenTurn
from datamodules.conversations.listeners import Origin, Participant, both_listeners
from datamodules.corpus import UnusableAudio
from datamodules.dialogue.turns import Kind
from datamodules.sources.audio import audio_duration_s
from datamodules.sources.folders import split_above
from datamodules.sources.manifest_entry import UNUSABLE, Skipped, spoken_text
from datamodules.sources.manifests import Record

AUDIO = "combined_audio.wav"
LICENCE = "otoSpeech: non-commercial research"
TIMES = re.compile(r"(\d+):(\d\d):(\d\d)[,.](\d+) --> (\d+):(\d\d):(\d\d)[,.](\d+)")
CUE_TEXT = re.compile(r"^\[([^\]]*)\]\s*(.*)$", re.DOTALL)
KINDS: dict[str, Kind] = {
    "Normal Turn": "question",
    "Regular Turn": "question",
    "Strong Floor Hold": "question",
    "Bounded Response": "question",
    "Filler": "question",
    "Overlap": "question",
    "Floor-taking Competitive Interruption": "interruption",
    "Floor-taking Cooperative Interruption": "interruption",
    "Acknowledgement Backchannel": "backchannel",
    "Continuer Backchannel": "backchannel",
    "Reaction Backchannel": "backchannel",
    "Laughter": "noise",
    "Non-Speech Noise": "noise",
    "Channel Bleed": "noise",
    "Speech, Non-Linguistic": "noise",
}
"""Label -> kind of a turn. A turn takes the floor or holds it, whatever its length."""
EXCLUDED = frozenset(
    [
        "Non-floor Taking Competitive Interruption",
        "Non-floor Taking Cooperative Interruption",
    ]
)
"""Labels of attempts that do not differ from interruptions while they last."""
SILENT = "Awkward Silence"
"""Label of a span in which nobody speaks."""


class Cue(NamedTuple):
    """One annotation."""

    start_s: float
    end_s: float
    label: str
    text: str


def convert(root: Path) -> Iterator[Conversation | Skipped]:
    """Read every conversation below a folder; both speakers are listeners.

    Raises:
        ValueError: there is none.
    """
    folders = sorted(path.parent for path in root.rglob(AUDIO))
    if not folders:
        raise ValueError(f"{root} holds no */{AUDIO}; give the folder of the conversations")
    for folder in folders:
        try:
            yield from _listeners(folder, split_above(folder.relative_to(root)))
        except (ValueError, UnusableAudio) as error:
            yield Skipped(UNUSABLE, str(error))


def _listeners(folder: Path, split: str | None) -> Iterator[Conversation]:
    audio = folder / AUDIO
    metadata = _metadata(folder / "metadata.json")
    origin = Origin(
        id=folder.name,
        source="otoSpeech-turn",
        duration_s=audio_duration_s(audio),
        split=split,
        licence=LICENCE,
        language="en",
    )
    first, second = [_participant(folder, number, metadata) for number in (1, 2)]
    yield from both_listeners(origin, (first, second))


def _metadata(path: Path) -> Record:
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise ValueError(f"{path} is not a JSON object; fetch it again") from None


def _participant(folder: Path, number: int, metadata: Record) -> Participant:
    path = folder / f"speaker_{number}_annotation_a.srt"
    speaker = str(metadata.get(f"speaker_{number}_actor_id") or "")
    turns: list[SpokenTurn] = []
    excluded: list[Span] = []
    for cue in read_srt(path):
        if cue.label in EXCLUDED:
            excluded.append((cue.start_s, cue.end_s))
        elif cue.label != SILENT:
            turn = SpokenTurn(
                who="user",
                start_s=cue.start_s,
                end_s=cue.end_s,
                text=spoken_text(cue.text),
                kind=KINDS[cue.label],
                speaker=speaker,
                label=cue.label,
            )
            turns.append(turn)
    turns.sort(key=lambda turn: turn.start_s)
    return Participant(Side(folder / AUDIO, number - 1), turns, tuple(excluded))


def read_srt(path: Path) -> list[Cue]:
    """Read the cues of an annotation.

    Raises:
        ValueError: it is missing or broken, or a label is unknown; the message names the line.
    """
    if not path.is_file():
        raise ValueError(f"{path} is missing; fetch the annotations of both speakers")
    lines = path.read_text(encoding="utf-8-sig").splitlines()
    starts = [number for number, line in enumerate(lines) if TIMES.search(line)]
    cues = []
    for position, number in enumerate(starts):
        # The number of the next cue stands above its times.
        end = starts[position + 1] - 1 if position + 1 < len(starts) else len(lines)
        cues.append(_cue(lines[number], lines[number + 1 : end], f"{path}, line {number + 1}"))
    if not cues:
        raise ValueError(f"{path} holds no cue such as 00:00:01,000 --> 00:00:02,000; fetch it")
    return cues


def _cue(times: str, text_lines: list[str], location: str) -> Cue:
    found = TIMES.search(times)
    assert found is not None
    text = CUE_TEXT.match(" ".join(line.strip() for line in text_lines).strip())
    label = text[1].strip() if text else ""
    if label not in KINDS and label not in EXCLUDED and label != SILENT:
        known = ", ".join([*KINDS, *sorted(EXCLUDED), SILENT])
        raise ValueError(f"{location}: label {label!r} is none of {known}; correct it")
    assert text is not None
    return Cue(_seconds(*found.groups()[:4]), _seconds(*found.groups()[4:]), label, text[2])


def _seconds(hours: str, minutes: str, seconds: str, milliseconds: str) -> float:
    whole_s = 3600 * int(hours) + 60 * int(minutes) + int(seconds)
    return whole_s + int(milliseconds) / 1000
