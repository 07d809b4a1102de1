"""Play a recording to a session, and print the conversation while it runs."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from duplexmamba.duplex.events import Event, emitted_responses
from duplexmamba.duplex.session import Session


def play_recording(session: Session, samples: np.ndarray, in_real_time: bool) -> Iterator[Event]:
    """Play a recording to a session, then silence until the session has finished responding.

    Args:
        session: a new session.
        samples: (n,) float32.
        in_real_time: whether a slice is processed when its duration has passed, as with a
            microphone; if not, as soon as possible.

    Yields:
        The events of the session.
    """
    start_s = time.perf_counter()
    slice_samples = session.slice_samples
    for end in range(slice_samples, len(samples) + 1, slice_samples):
        if in_real_time:
            # From the start and not from the last slice, so that delays do not add up.
            due_s = start_s + end / session.rate_hz
            time.sleep(max(0.0, due_s - time.perf_counter()))
        yield from session.push(torch.from_numpy(samples[end - slice_samples : end]))
    # The rest stays pending in the session until `close` fills the slice with silence.
    num_full_samples = len(samples) // slice_samples * slice_samples
    yield from session.push(torch.from_numpy(samples[num_full_samples:]))
    yield from session.close()


def printable(text: str) -> str:
    """Replace characters that a terminal may interpret as control sequences."""
    return "".join(char if char.isprintable() else "·" for char in text)


class ConversationPrinter:
    """Prints a conversation: one line per change, and the text of responses as it is emitted.

    Args:
        write: receives text, including line ends.
    """

    def __init__(self, write: Callable[[str], object]):
        self.write = write
        self.state: str | None = None
        self.answering = False
        self._line_open = False

    def print(self, event: Event) -> None:
        """Print the changes since the previous event."""
        self._print_state(event)
        if event.action == "respond" and self.answering:
            self._print_line(event, "stops   and starts a new response")
        if event.text and not self._line_open:
            self._print_line(event, f"speaks  {printable(event.text.strip())}", keep_open=True)
        elif event.text:
            self.write(printable(event.text))
        was_answering = self.answering or event.action == "respond"
        if was_answering and not event.answering:
            self._print_line(event, "ends    the response")
        self.answering = event.answering

    def close(self) -> None:
        """End the last line."""
        if self._line_open:
            self.write("\n")
        self._line_open = False

    def _print_state(self, event: Event) -> None:
        """Print a change of the turn state."""
        # During a response most slices are to be ignored, and printing them would split its text.
        irrelevant = self.answering and event.state == "ignore"
        if event.state != self.state and not irrelevant:
            percent = 100 * event.probabilities[event.state]
            self._print_line(event, f"state   {event.state} {percent:.0f} %")
            self.state = event.state

    def _print_line(self, event: Event, text: str, keep_open: bool = False) -> None:
        """Start a new line; `keep_open` lets text of a response follow on it."""
        self.close()
        line_end = "" if keep_open else "\n"
        self.write(f"{event.time_s:7.1f} s  {text}{line_end}")
        self._line_open = keep_open


def summary(events: Sequence[Event], slice_s: float) -> str:
    """Key figures of a conversation, as one line.

    Args:
        events: all events of a session.
        slice_s: duration of a slice in seconds.
    """
    responses = emitted_responses(events)
    num_complete = sum(response.complete for response in responses)
    compute_ms = [event.compute_ms for event in events] or [0.0]
    audio_s = len(events) * slice_s
    real_time_factor = sum(compute_ms) / 1000 / max(audio_s, slice_s)
    return (
        f"{audio_s:.1f} s of audio, responses: {len(responses)}, complete: {num_complete}; "
        f"a slice takes {statistics.median(compute_ms):.1f} ms "
        f"(median; largest {max(compute_ms):.1f}), {real_time_factor:.3f} of real time"
    )
