"""Single clips with a label as conversations of one turn."""

from datamodules.conversations.conversation import Conversation, Side, SpokenTurn
from datamodules.conversations.voice_activity import speech_spans
from datamodules.corpus import UnusableAudio
from datamodules.dialogue.turns import Kind
from datamodules.sources.audio import audio_duration_s
from datamodules.sources.audio_sources import AudioSource
from datamodules.sources.manifest_entry import UNUSABLE, Skipped


def clip_conversation(
    id: str,
    audio: AudioSource,
    source: str,
    kind: Kind,
    answered: bool | None,
    text: str = "",
    split: str | None = None,
    language: str = "",
    speaker: str = "",
    label: str | None = None,
) -> Conversation | Skipped:
    """Conversation of a clip that is one turn, from its first to its last speech by level.

    Returns:
        The conversation; or why the clip cannot be used.
    """
    try:
        duration_s = audio_duration_s(audio)
        side = Side(audio, None)
        spans = speech_spans(side, duration_s)
    except UnusableAudio as error:
        return Skipped(UNUSABLE, str(error))
    if not spans:
        return Skipped(UNUSABLE, f"{audio} holds no speech; remove it")
    pauses = [
        (previous[1], following[0]) for previous, following in zip(spans, spans[1:], strict=False)
    ]
    turn = SpokenTurn(
        who="user",
        start_s=spans[0][0],
        end_s=spans[-1][1],
        text=text,
        kind=kind,
        answered=answered,
        pauses=tuple(pauses),
        speaker=speaker,
        label=label,
    )
    return Conversation(id, split, source, "", language, duration_s, side, None, (turn,))
