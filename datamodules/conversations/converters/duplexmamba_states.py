"""DuplexMamba's state items: single clips whose IDs say how they end.

Layout: that of its transcripts, `*response.txt` with lines "ID text" in the folder of ID.flac. An ID
without suffix is a complete question, and the text is its response; -cut is a question that breaks
off; -ignore is speech that is not meant for the model. Items asr-... are transcripts, which
`make data NAME=duplexmamba` reads.
"""

from collections.abc import Iterator
from pathlib import Path

from datamodules.conversations.clips import clip_conversation
from datamodules.conversations.conversation import Conversation
from datamodules.dialogue.turns import Kind
from datamodules.sources.folders import SOUND_SUFFIXES, walk
from datamodules.sources.manifest_entry import NO_AUDIO, Skipped

OF_TRANSCRIPTS = "transcripts, read by make data NAME=duplexmamba"
ENDINGS: dict[str, tuple[Kind, bool | None]] = {
    "-cut": ("question", False),
    "-ignore": ("background_speech", None),
    "": ("question", True),
}
"""Suffix of an ID -> kind of its only turn, and whether it is answered; the empty one is the last."""


def convert(root: Path) -> Iterator[Conversation | Skipped]:
    """Read every state item of a folder and those below it.

    Raises:
        ValueError: there is no *response.txt.
    """
    found = False
    for folder, names, split in walk(root):
        sounds = {
            Path(name).stem: folder / name
            for name in names
            if name.lower().endswith(SOUND_SUFFIXES)
        }
        for name in names:
            if not name.endswith("response.txt"):
                continue
            found = True
            for line in (folder / name).read_text(encoding="utf-8").splitlines():
                if line.strip():
                    yield _item(line.split()[0], sounds, split)
    if not found:
        raise ValueError(f"{root} holds no *response.txt; give the folder that does")


def _item(id: str, sounds: dict[str, Path], split: str | None) -> Conversation | Skipped:
    if id.startswith("asr-"):
        return Skipped(OF_TRANSCRIPTS, "")
    if id not in sounds:
        return Skipped(NO_AUDIO, id)
    suffix = next(suffix for suffix in ENDINGS if id.endswith(suffix))
    kind, answered = ENDINGS[suffix]
    return clip_conversation(
        id=id,
        audio=sounds[id],
        source="duplexmamba-states",
        kind=kind,
        answered=answered,
        split=split,
        # An ID is speaker-chapter-number, as in LibriSpeech.
        speaker=id.split("-")[0],
        label=suffix or None,
    )
