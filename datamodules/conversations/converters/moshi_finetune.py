"""moshi-finetune's data: x.wav with the model left and the user right, x.json with the words.

`x.json` is {"alignments": [[word, [start_s, end_s], "SPEAKER_MAIN"], ...]}. The words are those of
the left channel alone, since annotate.py transcribes channel 0; speech of the right channel is found
by its level. Lines {"path", "duration"} of a .jsonl list the sounds; without one, every .wav is read.
Source: kyutai-labs/moshi-finetune.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datamodules.conversations.conversation import Conversation, Side, SpokenTurn
from datamodules.conversations.listeners import Origin, Participant, both_listeners
from datamodules.conversations.units import joined_spans
from datamodules.conversations.voice_activity import speech_spans
from datamodules.corpus import UnusableAudio
from datamodules.sources.audio import audio_duration_s
from datamodules.sources.folders import split_above
from datamodules.sources.manifest_entry import UNUSABLE, Skipped, spoken_text
from datamodules.sources.manifests import read_numbered_records

MODEL_CHANNEL = 0
USER_CHANNEL = 1
MAIN_SPEAKER = "SPEAKER_MAIN"


def convert(root: Path) -> Iterator[Conversation | Skipped]:
    """Read a folder or a .jsonl; both sides are listeners.

    Raises:
        ValueError: there is no sound.
    """
    paths = list(_sounds(root))
    if not paths:
        raise ValueError(f"{root} holds no .wav, nor a .jsonl with a path in each line; give one")
    top = root.parent if root.is_file() else root
    for path in paths:
        try:
            yield from _listeners(path, top)
        except (ValueError, UnusableAudio) as error:
            yield Skipped(UNUSABLE, str(error))


def _sounds(root: Path) -> Iterator[Path]:
    manifests = [root] if root.is_file() else sorted(root.glob("*.jsonl"))
    for manifest in manifests:
        for number, record in read_numbered_records(manifest):
            if "path" not in record:
                raise ValueError(f"{manifest}, line {number} has no path; name the sound file")
            yield manifest.parent / record["path"]
    if not manifests:
        yield from sorted(root.rglob("*.wav"))


def _listeners(path: Path, top: Path) -> Iterator[Conversation]:
    words_path = path.with_suffix(".json")
    if not words_path.is_file():
        raise ValueError(f"{path} has no {words_path.name} beside it; write it by annotate.py")
    duration_s = audio_duration_s(path)
    model = Side(path, MODEL_CHANNEL)
    user = Side(path, USER_CHANNEL)
    relative = path.relative_to(top) if path.is_relative_to(top) else Path(path.name)
    origin = Origin(
        id=str(relative.with_suffix("")),
        source="moshi-finetune",
        duration_s=duration_s,
        split=split_above(relative.parent),
    )
    spans = speech_spans(user, duration_s)
    heard = [SpokenTurn("user", start_s, end_s) for start_s, end_s in spans]
    spoken = _model_turns(words_path, duration_s)
    yield from both_listeners(origin, (Participant(user, heard), Participant(model, spoken)))


def _model_turns(path: Path, duration_s: float) -> list[SpokenTurn]:
    """Turns of the left channel: its words, joined over short silences."""
    words = []
    for number, alignment in enumerate(_alignments(path)):
        word, start_s, end_s, speaker = _word(alignment, f"{path}: alignment {number}")
        if speaker == MAIN_SPEAKER:
            # Forced alignment may pass the end of the audio by a frame.
            words.append((word, start_s, min(end_s, duration_s)))
    turns = []
    for start_s, end_s in joined_spans((start_s, end_s) for _, start_s, end_s in words):
        inside = tuple(word for word in words if start_s <= word[1] < end_s)
        text = spoken_text(" ".join(word for word, _, _ in inside))
        turns.append(SpokenTurn("user", start_s, end_s, text))
    return turns


def _alignments(path: Path) -> list[Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return list(content["alignments"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f'{path} must be {{"alignments": [[word, [start_s, end_s], speaker], ...]}}; '
            "write it anew by annotate.py"
        ) from None


def _word(alignment: Any, location: str) -> tuple[str, float, float, str]:
    try:
        word, (start_s, end_s), speaker = alignment
        return str(word), float(start_s), float(end_s), str(speaker)
    except (TypeError, ValueError):
        raise ValueError(
            f"{location} is {alignment!r}, not [word, [start_s, end_s], speaker]; correct it"
        ) from None
