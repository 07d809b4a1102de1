"""HumDial-FDBench: recordings of a user who interrupts, pauses, or is not the one who speaks.

Layout: {en,cn}_.../<scenario>/<speaker>_<item>.wav with a .json {"final_duration", "speech_segments":
[{"xmin", "xmax", "text"}]} of the same name; clean_... are the same without the event. The name of
the scenario says what the segments after the first one are. Source: ASLP-lab/HumDial-FDBench (arXiv
2604.21406).
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from datamodules.conversations.conversation import Conversation, Side, Span, SpokenTurn
from datamodules.corpus import UnusableAudio
from datamodules.dialogue.turns import Kind
from datamodules.sources.audio import audio_duration_s
from datamodules.sources.manifest_entry import UNUSABLE, Skipped, spoken_text
from datamodules.sources.manifests import Record

CLEAN = "clean_"
LATER_SEGMENTS: dict[str, tuple[Kind, bool | None] | None] = {
    "ask": ("interruption", True),
    "deny": ("interruption", True),
    "repeat": ("interruption", True),
    "shift": ("interruption", True),
    # Whether "wait" asks for an answer is open.
    "wait": None,
    "backchannel": ("backchannel", None),
    "talk_to_others": ("talking_to_other", None),
    "others_talk_to_user": ("background_speech", None),
    "others_talk_to_user_after": ("background_speech", None),
    "others_talk_to_user_before": ("background_speech", None),
    "pause": ("question", True),
}
"""Scenario -> kind of the segments beside the question, and whether they are answered; None: nothing
is known. In pause, they are parts of the question."""
QUESTION_IS_LAST = "others_talk_to_user_before"
PAUSE = "pause"
LANGUAGES = {"en": "en", "cn": "zh"}
"""Beginning of the folder's name -> language."""


def convert(root: Path) -> Iterator[Conversation | Skipped]:
    """Read every recording below a folder.

    Raises:
        ValueError: there is none.
    """
    paths = sorted(path for path in root.rglob("*.wav") if path.with_suffix(".json").is_file())
    if not paths:
        raise ValueError(
            f"{root} holds no .wav with a .json of its name; give the folder that does"
        )
    for path in paths:
        # Nothing happens in these, which are for comparison.
        if path.name.startswith(CLEAN):
            continue
        try:
            yield _conversation(path, root)
        except (ValueError, UnusableAudio) as error:
            yield Skipped(UNUSABLE, str(error))


def _conversation(path: Path, root: Path) -> Conversation:
    scenario = path.parent.name.lower().replace("-", "_").replace(" ", "_")
    if scenario not in LATER_SEGMENTS:
        raise ValueError(
            f"{path}: its folder {path.parent.name} is none of the scenarios "
            f"{', '.join(LATER_SEGMENTS)}; rename it"
        )
    segments = _segments(path.with_suffix(".json"))
    speaker = path.stem.rpartition("_")[0]
    excluded: tuple[Span, ...] = ()
    if scenario == PAUSE:
        turns = [_whole(segments, speaker)]
    elif LATER_SEGMENTS[scenario] is None:
        turns = [_turn(segments[0], "question", True, speaker)]
        excluded = tuple((start_s, end_s) for start_s, end_s, _ in segments[1:])
    else:
        turns = _turns(segments, scenario, speaker)
    language = path.relative_to(root).parts[0].partition("_")[0]
    return Conversation(
        id=str(path.relative_to(root).with_suffix("")),
        split="test",
        source="humdial-fdbench",
        licence="Apache-2.0",
        language=LANGUAGES.get(language, ""),
        duration_s=audio_duration_s(path),
        user=Side(path, None),
        agent=None,
        turns=tuple(turns),
        excluded=excluded,
    )


def _turns(
    segments: Sequence[tuple[float, float, str]], scenario: str, speaker: str
) -> list[SpokenTurn]:
    other = LATER_SEGMENTS[scenario]
    assert other is not None
    question = len(segments) - 1 if scenario == QUESTION_IS_LAST else 0
    turns = []
    for index, segment in enumerate(segments):
        kind, answered = ("question", True) if index == question else other
        # Who speaks in the background has no name.
        is_stranger = kind == "background_speech"
        turns.append(_turn(segment, kind, answered, "" if is_stranger else speaker))
    return turns


def _turn(
    segment: tuple[float, float, str], kind: Kind, answered: bool | None, speaker: str
) -> SpokenTurn:
    start_s, end_s, text = segment
    return SpokenTurn(
        who="user",
        start_s=start_s,
        end_s=end_s,
        text=text,
        kind=kind,
        answered=answered,
        speaker=speaker,
    )


def _whole(segments: Sequence[tuple[float, float, str]], speaker: str) -> SpokenTurn:
    """One question of several segments, with the pauses between them."""
    pauses = []
    for index in range(1, len(segments)):
        pauses.append((segments[index - 1][1], segments[index][0]))
    return SpokenTurn(
        who="user",
        start_s=segments[0][0],
        end_s=segments[-1][1],
        text=" ".join(text for _, _, text in segments if text),
        kind="question",
        answered=True,
        pauses=tuple(pauses),
        speaker=speaker,
    )


def _segments(path: Path) -> list[tuple[float, float, str]]:
    """Begin, end and text of each segment, by time.

    Raises:
        ValueError: the file is broken, or holds none.
    """
    try:
        notes: Record = json.loads(path.read_text(encoding="utf-8"))
        segments = [
            (float(each["xmin"]), float(each["xmax"]), spoken_text(str(each.get("text") or "")))
            for each in notes["speech_segments"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} must have speech_segments with xmin, xmax and text: {error!r}; fetch it again"
        ) from None
    if not segments:
        raise ValueError(f"{path}: speech_segments is empty, so that there is no speech; remove it")
    return sorted(segments)
