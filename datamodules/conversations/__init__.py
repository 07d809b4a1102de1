"""Recorded conversations of two sides, and the registry of the corpora that hold them.

To add a corpus, write a converter `folder -> conversations` in a module of `converters` and add one
record to CONVERSATION_FORMATS. `make data NAME=... ROOT=...` finds it by its name. Importing this
module is cheap: a converter's module is only imported when the converter is called.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datamodules.conversations.conversation import Conversation
    from datamodules.sources.manifest_entry import Skipped


@dataclasses.dataclass(frozen=True)
class ConversationFormat:
    """A layout of recorded conversations."""

    name: str
    """Value of NAME in `make data NAME=...`."""
    layout: str
    """Noun phrase for messages: the files of which such a corpus consists."""
    converter: str
    """Module of `converters` and function, joined by a dot."""
    published_names: tuple[str, ...] = ()
    """Other values of NAME: corpora of this layout."""

    def convert(self, root: Path) -> Iterable[Conversation | Skipped]:
        """Read a corpus.

        Args:
            root: its folder, or a manifest of it.

        Returns:
            A conversation for each listener, and a `Skipped` for what is left out.

        Raises:
            ValueError: the layout is another; the message says what is missing.
        """
        # Imported here, so that importing this package stays cheap.
        module_name, function_name = self.converter.split(".")
        module = importlib.import_module(f"{__name__}.converters.{module_name}")
        return getattr(module, function_name)(root)


_FORMATS = (
    ConversationFormat(
        name="conversations",
        layout="a manifest of conversations (conversations.jsonl.gz), to check it",
        converter="own_manifest.convert",
    ),
    ConversationFormat(
        name="two-channel-cuts",
        layout="lhotse cuts, recordings with supervisions, or Shar, a channel for each speaker",
        converter="two_channel_cuts.convert",
        published_names=("fisher", "switchboard", "callhome", "ami"),
    ),
    ConversationFormat(
        name="nemo-duplex",
        layout="NeMo's duplex cuts or Shar (custom.target_audio; speakers user and agent)",
        converter="nemo_duplex.convert",
    ),
    ConversationFormat(
        name="moshi-finetune",
        layout="moshi-finetune's stereo sounds with a .json of aligned words beside each",
        converter="moshi_finetune.convert",
        published_names=("dailytalk",),
    ),
    ConversationFormat(
        name="oto-turn",
        layout="otoSpeech turn (combined_audio.wav, speaker_1_annotation_a.srt, ... in a folder each)",
        converter="oto_turn.convert",
    ),
    ConversationFormat(
        name="seamless",
        layout="Seamless Interaction (V..._S..._I..._P....wav with .json, two of each interaction)",
        converter="seamless.convert",
    ),
    ConversationFormat(
        name="candor",
        layout="CANDOR (*/processed/channel_map.json and .mp3, */transcription/*.csv)",
        converter="candor.convert",
    ),
    ConversationFormat(
        name="easy-turn",
        layout="Easy-Turn's clips (lines of .jsonl or .list with key, wav, txt; or .tar shards)",
        converter="easy_turn.convert",
    ),
    ConversationFormat(
        name="humdial",
        layout="HumDial-FDBench's recordings (<scenario>/*.wav with .json of speech_segments)",
        converter="humdial.convert",
    ),
    ConversationFormat(
        name="smart-turn",
        layout="smart-turn's clips (*.parquet with audio, id, language, endpoint_bool)",
        converter="parquet_clips.convert_smart_turn",
    ),
    ConversationFormat(
        name="eot-bench",
        layout="eot-bench's turns (*.parquet with audio, id, language, silence_spans, duration)",
        converter="parquet_clips.convert_eot_bench",
    ),
    ConversationFormat(
        name="duplexmamba-states",
        layout="DuplexMamba's state items (*response.txt next to *.flac, IDs with -cut, -ignore)",
        converter="duplexmamba_states.convert",
    ),
)

CONVERSATION_FORMATS: dict[str, ConversationFormat] = {record.name: record for record in _FORMATS}
"""Name of the format -> record."""


def format_of(name: str) -> ConversationFormat | None:
    """Format with this NAME, or of the published corpus with this NAME; None: there is none."""
    for record in CONVERSATION_FORMATS.values():
        if name == record.name or name in record.published_names:
            return record
    return None
