"""What goes over the wire: docs/talk.md says it in words.

A client says hello as text, then sends samples, binary; the server answers with one JSON object a message.
"""

import dataclasses
import json
from typing import Any

from duplexmamba.duplex.session import Event

VERSION = 1
CLOSE = {
    "busy": 1013, "overloaded": 1013, "idle": 1000, "time": 1000, "hello": 1008, "rate": 1008, "audio": 1003,
    "flood": 1008, "slow": 1008, "failed": 1011,
}  # fmt: skip
"""Codes of the socket by the reason that a conversation ends for."""


class Ended(Exception):
    """A conversation is over, or does not begin.

    Args:
        reason: a key of CLOSE.
        message: for whom it concerns, with what to do.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason, self.message = reason, message

    @property
    def code(self) -> int:
        """With which the socket is closed."""
        return CLOSE[self.reason]


def check_hello(text: str | None, rate_hz: int) -> None:
    """Raises Ended: the first message is no hello, or of another version or rate."""
    try:
        said = json.loads(text or "")
        version, rate = said["version"], said["rate_hz"]
    except (ValueError, TypeError, KeyError, RecursionError):
        wanted = f'{{"version": {VERSION}, "rate_hz": {rate_hz}}}'
        raise Ended("hello", f"the first message must be a text: {wanted}") from None
    if type(version) is not int or version != VERSION:
        raise Ended(
            "hello",
            f"version={version!r:.40} is not spoken here; this server speaks version {VERSION}",
        )
    if isinstance(rate, bool) or rate != rate_hz:
        raise Ended(
            "rate", f"rate_hz={rate!r:.40}: samples must come at {rate_hz} Hz; resample them before"
        )


def ready(name: str, run: str, slice_s: float, rate_hz: int) -> str:
    """The first message of a conversation."""
    facts = {
        "version": VERSION,
        "conversation": name,
        "run": run,
        "slice_s": slice_s,
        "rate_hz": rate_hz,
    }
    return _message("ready", facts)


def happened(event: Event, latency_ms: float) -> str:
    """A slice. latency_ms: from the arrival of its last sample to this message."""
    return _message("slice", {**dataclasses.asdict(event), "latency_ms": round(latency_ms, 3)})


def ended(end: Ended) -> str:
    """The last message of a conversation that the server ends."""
    return _message("end", {"reason": end.reason, "message": end.message})


def _message(kind: str, facts: dict[str, Any]) -> str:
    return json.dumps({"type": kind, **facts})
