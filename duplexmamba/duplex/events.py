"""Events of a live session, one per slice, and the responses that they add up to."""

import dataclasses
from collections.abc import Sequence

from duplexmamba.duplex.policy import Action
from duplexmamba.text.tokenizer import TurnState


@dataclasses.dataclass(frozen=True)
class Event:
    """The result of processing one slice of the user's audio."""

    slice: int
    """Index of the slice, counted from the start of the session."""
    time_s: float
    """End of the slice in the stream, in seconds."""
    probabilities: dict[TurnState, float]
    """Probability of each turn state that this kind of session distinguishes, after the slice."""
    state: TurnState
    """The turn state that was chosen from the probabilities."""
    action: Action
    """The decision of the policy."""
    tokens: list[int]
    """Ids of the response that were emitted in this slice."""
    text: str
    """The text that these ids add to the response; a leading space starts a new word."""
    answering: bool
    """Whether a response is still in progress after this slice."""
    compute_ms: float
    """Time that processing the slice took, in milliseconds."""
    paused: bool = False
    """Whether a response is in progress that pauses in this slice, since the user speaks."""


@dataclasses.dataclass(frozen=True)
class EmittedResponse:
    """One response as the user received it."""

    start_slice: int
    """Slice of the decision to respond."""
    stop_slice: int
    """Slice of the last token, or of the decision that interrupted the response."""
    text: str
    complete: bool
    """Whether the response ended by itself: neither interrupted nor still in progress."""


def emitted_responses(events: Sequence[Event]) -> list[EmittedResponse]:
    """Collect the responses of a session.

    Args:
        events: the consecutive events of one session, from its start.

    Returns:
        The responses in the order in which they started.
    """
    responses: list[EmittedResponse] = []
    for event in events:
        in_progress = bool(responses) and not responses[-1].complete
        if event.action == "respond":
            if in_progress:
                # The new response interrupts the old one, which stays incomplete.
                responses[-1] = dataclasses.replace(responses[-1], stop_slice=event.slice)
            started = EmittedResponse(
                start_slice=event.slice,
                stop_slice=event.slice,
                text=event.text,
                complete=not event.answering,
            )
            responses.append(started)
        elif in_progress:
            # Also slices without new text extend the response.
            responses[-1] = dataclasses.replace(
                responses[-1],
                stop_slice=event.slice,
                text=responses[-1].text + event.text,
                complete=not event.answering,
            )
    return responses
