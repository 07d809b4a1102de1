"""Seamless Interaction: face-to-face conversations, a sound file for each participant.

Layout: V<vendor>_S<session>_I<interaction>_P<participant>.wav with a .json of the same name; the two
files with equal vendor, session and interaction are one conversation. The JSON has
`metadata:transcript` [{start, end, transcript, words}] and `metadata:vad` [{start, end}], whose
spans end turns more exactly than the transcript does. Source: facebookresearch/seamless_interaction.
"""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from datamodules.conversations.conversation import Conversation, Side, Span, SpokenTurn
from datamodules.conversations.listeners import Origin, Participant, both_listeners
from datamodules.conversations.units import joined_spans
from datamodules.corpus import UnusableAudio
from datamodules.sources.audio import audio_duration_s
from datamodules.sources.folders import split_above
from datamodules.sources.manifest_entry import UNUSABLE, Skipped, spoken_text
from datamodules.sources.manifests import Record

NAME = re.compile(r"^(V\w+_S\w+_I\w+)_P(\w+)$")
TRANSCRIPT = "metadata:transcript"
VAD = "metadata:vad"
LICENCE = "CC-BY-NC-4.0"
MAX_LENGTH_DIFFERENCE_S = 0.5
"""Two files of one clock differ by less; about a tenth of the interactions have wrong times."""


def convert(root: Path) -> Iterator[Conversation | Skipped]:
    """Read every pair of participants below a folder; both are listeners.

    Raises:
        ValueError: there is no sound of that name.
    """
    by_interaction: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("V*_P*.wav")):
        name = NAME.match(path.stem)
        if name:
            by_interaction.setdefault(name[1], []).append(path)
    if not by_interaction:
        raise ValueError(f"{root} holds no V..._S..._I..._P....wav; give the folder that does")
    for id, paths in by_interaction.items():
        try:
            yield from _listeners(id, paths, split_above(paths[0].parent.relative_to(root)))
        except (ValueError, UnusableAudio) as error:
            yield Skipped(UNUSABLE, str(error))


def _listeners(id: str, paths: Sequence[Path], split: str | None) -> Iterator[Conversation]:
    if len(paths) != 2:
        raise ValueError(
            f"{paths[0]}: {id} has {len(paths)} participants where a conversation has two; fetch "
            "the other one, or remove it"
        )
    first_s, second_s = [audio_duration_s(path) for path in paths]
    if abs(first_s - second_s) > MAX_LENGTH_DIFFERENCE_S:
        raise ValueError(
            f"{paths[0]} lasts {first_s:.2f} s and {paths[1].name} {second_s:.2f} s, so that they "
            "have no common clock; remove both"
        )
    # The shorter one, since both must have audio to the end.
    origin = Origin(id, "seamless-interaction", min(first_s, second_s), split, LICENCE, "en")
    first, second = [_participant(path, origin.duration_s) for path in paths]
    yield from both_listeners(origin, (first, second))


def _participant(path: Path, duration_s: float) -> Participant:
    notes_path = path.with_suffix(".json")
    try:
        notes = json.loads(notes_path.read_text(encoding="utf-8"))
        voiced = [(float(span["start"]), float(span["end"])) for span in notes[VAD]]
        transcript = list(notes[TRANSCRIPT])
        turns = _turns(transcript, joined_spans(voiced), duration_s)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{notes_path} must have {TRANSCRIPT} and {VAD} with start and end: {error!r}; fetch "
            "it again"
        ) from None
    name = NAME.match(path.stem)
    assert name is not None
    speaker = f"P{name[2]}"
    named = [
        SpokenTurn("user", start_s, end_s, text, speaker=speaker) for start_s, end_s, text in turns
    ]
    return Participant(Side(path, None), named)


def _turns(
    transcript: Sequence[Record], voiced: Sequence[Span], duration_s: float
) -> list[tuple[float, float, str]]:
    """Spans of speech with the words whose middle they hold."""
    turns = []
    words = _words(transcript)
    for start_s, end_s in voiced:
        inside = [word for word, middle_s in words if start_s <= middle_s < end_s]
        if start_s < duration_s:
            turns.append((start_s, min(end_s, duration_s), spoken_text(" ".join(inside))))
    return turns


def _words(transcript: Sequence[Record]) -> list[tuple[str, float]]:
    """Word and the middle of its time; a line without times of words is one word."""
    words = []
    for line in transcript:
        for word in line.get("words") or [{**line, "word": line["transcript"]}]:
            # The aligner leaves out the times of words that it does not know.
            start_s = float(word.get("start", line["start"]))
            end_s = float(word.get("end", line["end"]))
            words.append((str(word["word"]), (start_s + end_s) / 2))
    return words
