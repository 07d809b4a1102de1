"""Messages of the wire protocol, which docs/talk.md documents.

A client sends a hello as text, then audio as binary messages; the server sends one JSON object per
message.
"""

import dataclasses
import json
from typing import Any, Literal

from duplexmamba.duplex.events import Event
from serving.transcripts import Transcription

VERSION = 1
CLOSE_CODES = {
    "busy": 1013,
    "overloaded": 1013,
    "idle": 1000,
    "time": 1000,
    "hello": 1008,
    "rate": 1008,
    "audio": 1003,
    "flood": 1008,
    "slow": 1008,
    "failed": 1011,
}
"""WebSocket close code for each reason that ends a conversation."""
Heard = Literal["no", "once", "live"]
"""Which `heard` messages a client wants: none; one for each stretch of speech, when its transcript
is complete; or also its text while it is spoken."""
FAILED_MESSAGE = "something went wrong in the server; its log has the error"


class ConversationEnded(Exception):
    """The server ends a conversation, or refuses to start it.

    Args:
        reason: a key of CLOSE_CODES.
        message: explanation and remedy for the user.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason
        self.message = message

    @property
    def code(self) -> int:
        """WebSocket close code."""
        return CLOSE_CODES[self.reason]


def check_hello(text: str | None, rate_hz: int) -> Heard:
    """Check the first message of a client.

    Args:
        text: the message; None if it was binary.
        rate_hz: sample rate of the server.

    Returns:
        Which `heard` messages the client asks for.

    Raises:
        ConversationEnded: the message is not a hello, or has another version or sample rate.
    """
    try:
        hello = json.loads(text or "")
        client_version = hello["version"]
        client_rate_hz = hello["rate_hz"]
    # RecursionError: deeply nested JSON.
    except (ValueError, TypeError, KeyError, RecursionError):
        expected = f'{{"version": {VERSION}, "rate_hz": {rate_hz}}}'
        message = f"the first message must be a text: {expected}"
        raise ConversationEnded("hello", message) from None
    # True == 1, and 1.0 == 1, but neither is a version.
    if type(client_version) is not int or client_version != VERSION:
        raise ConversationEnded(
            "hello",
            f"version={client_version!r:.40} is not supported; this server uses version {VERSION}",
        )
    if isinstance(client_rate_hz, bool) or client_rate_hz != rate_hz:
        raise ConversationEnded(
            "rate",
            f"rate_hz={client_rate_hz!r:.40} is not supported: resample to {rate_hz} Hz first",
        )
    # Only on request, since a transcript takes time and earlier clients do not know its message.
    wanted = hello.get("heard")
    if wanted == "live":
        return "live"
    return "once" if wanted is True else "no"


def ready_message(name: str, run: str, slice_s: float, rate_hz: int) -> str:
    """First message of a conversation.

    Args:
        name: name of the conversation.
        run: name of the model.
        slice_s: duration of a slice in seconds.
        rate_hz: sample rate of the audio that the client sends.
    """
    fields = {
        "version": VERSION,
        "conversation": name,
        "run": run,
        "slice_s": slice_s,
        "rate_hz": rate_hz,
    }
    return _message("ready", fields)


def slice_message(event: Event, latency_ms: float) -> str:
    """Message about one slice.

    Args:
        event: the event of the slice.
        latency_ms: time from the arrival of the slice's last sample to this message.
    """
    fields = dataclasses.asdict(event)
    fields["latency_ms"] = round(latency_ms, 3)
    return _message("slice", fields)


def heard_message(transcription: Transcription, end_slice: int, slice_s: float) -> str:
    """Message about a stretch of speech.

    Args:
        transcription: its transcript as far as it has been made.
        end_slice: its latest slice; that of the decision if there is one.
        slice_s: duration of a slice in seconds.
    """
    stretch = transcription.stretch
    fields = {
        "slice": None if stretch is None else stretch.end_slice,
        "start_s": round(transcription.start_slice * slice_s, 3),
        "end_s": round((end_slice + 1) * slice_s, 3),
        "text": transcription.text,
        "answered": None if stretch is None else stretch.answered,
        "final": transcription.complete,
    }
    return _message("heard", fields)


def end_message(end: ConversationEnded) -> str:
    """Last message of a conversation that the server ends."""
    return _message("end", {"reason": end.reason, "message": end.message})


def _message(kind: str, fields: dict[str, Any]) -> str:
    return json.dumps({"type": kind, **fields})
