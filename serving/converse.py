"""A session that hears a recording, told as it happens."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from duplexmamba.duplex.session import Event, Session, emitted_responses


def converse(session: Session, samples: np.ndarray, in_real_time: bool) -> Iterator[Event]:
    """What happens while a session hears (n,) samples, and until it has said what it has to say.

    Args:
        in_real_time: a slice is heard when its time is over, as from a microphone; else as soon as can be.
    """
    began_s, size = time.perf_counter(), session.slice_samples
    for end in range(size, len(samples) + 1, size):
        if in_real_time:
            time.sleep(max(0.0, began_s + end / session.rate_hz - time.perf_counter()))
        yield from session.push(torch.from_numpy(samples[end - size : end]))
    yield from session.push(torch.from_numpy(samples[len(samples) // size * size :]))
    yield from session.close()


def printable(text: str) -> str:
    """Text without what a model may say by mistake and a terminal may obey."""
    return "".join(letter if letter.isprintable() else "·" for letter in text)


class Teller:
    """Tells a conversation: a line for every change, and the words of an answer as they come. That something is to be
    ignored is no news while it answers.

    Args:
        write: takes text, line ends included.
    """

    def __init__(self, write: Callable[[str], object]):
        self.write = write
        self.state: str | None = None
        self.answering = self.saying = False

    def tell(self, event: Event) -> None:
        """What has changed with this slice."""
        if event.state != self.state and not (self.answering and event.state == "ignore"):
            self._line(
                event, f"hears   {event.state} {100 * event.probabilities[event.state]:.0f} %"
            )
            self.state = event.state
        if event.action == "respond" and self.answering:
            self._line(event, "stops   and begins a new answer")
        if event.text and not self.saying:
            self._line(event, f"says    {printable(event.text.strip())}", open_=True)
        elif event.text:
            self.write(printable(event.text))
        if (self.answering or event.action == "respond") and not event.answering:
            self._line(event, "ends    the answer")
        self.answering = event.answering

    def end(self) -> None:
        """The conversation is over."""
        if self.saying:
            self.write("\n")
        self.saying = False

    def _line(self, event: Event, text: str, open_: bool = False) -> None:
        """A line of its own; open: words may follow."""
        self.end()
        self.write(f"{event.time_s:7.1f} s  {text}" + ("" if open_ else "\n"))
        self.saying = open_


def summary(events: Sequence[Event], slice_s: float) -> str:
    """Numbers of a whole conversation."""
    given = emitted_responses(events)
    taken_ms = [event.compute_ms for event in events] or [0.0]
    whole = sum(reply.complete for reply in given)
    heard_s = len(events) * slice_s
    return (
        f"{heard_s:.1f} s heard, answers: {len(given)}, to the end: {whole}; a slice takes "
        f"{statistics.median(taken_ms):.1f} ms (median; largest {max(taken_ms):.1f}), "
        f"{sum(taken_ms) / 1000 / max(heard_s, slice_s):.3f} of real time"
    )
