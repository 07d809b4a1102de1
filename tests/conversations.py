"""Small conversations for tests."""

from pathlib import Path
from typing import Any

from datamodules.conversations.conversation import Conversation, Side, SpokenTurn
from datamodules.dialogue.turns import Slices

SLICES = Slices(rate_hz=1000, length=200, min_speech=60, endpoint_silence=120)
"""200 ms each; speech counts after 60 ms and is over after 120 ms of silence."""


def said(who: Any, start_s: float, end_s: float, text: str = "so what is this", **more: Any):
    """A turn whose words are not those of a back-channel."""
    return SpokenTurn(who, start_s, end_s, text, **more)


def conversation(*turns: SpokenTurn, duration_s: float = 8.0, **more: Any) -> Conversation:
    """A conversation of two channels of one file."""
    fields: dict[str, Any] = {
        "id": "c-1",
        "split": None,
        "source": "test",
        "licence": "",
        "language": "en",
        "duration_s": duration_s,
        "user": Side(Path("c.wav"), 0),
        "agent": Side(Path("c.wav"), 1),
        "turns": tuple(sorted(turns, key=lambda turn: turn.start_s)),
    }
    return Conversation(**{**fields, **more})
