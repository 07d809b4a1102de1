"""A stand-in for a session, for tests of the page: its turn states follow from level and pitch.

A low tone of 0.8 s in total, with or without pauses, is a question; a shorter one is incomplete and
forgotten after a while; a high tone is speech to somebody else.
"""

import dataclasses

import numpy as np
import torch

from duplexmamba.duplex.events import Event

RATE_HZ, SLICE_S = 16_000, 0.2
LOW_HZ, HIGH_HZ = 300, 2500
ANSWERS = [
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen",
    "paris",
    "the opposite of hot is cold",
]


def tones(*parts: tuple[float, float]) -> np.ndarray:
    """(n,) int16 of (Hz, seconds) one after the other; 0 Hz is silence."""
    waves = [np.sin(2 * np.pi * hz * np.arange(round(s * RATE_HZ)) / RATE_HZ) for hz, s in parts]
    return (8000 * np.concatenate(waves)).astype("<i2")


@dataclasses.dataclass(frozen=True)
class TalkerState:
    """Complete state of a conversation."""

    slices: int = 0
    asked_s: float = 0.0
    """Duration of the low tones that wait for an answer."""
    quiet: int = 0
    """Slices since the last low tone."""
    answers: int = 0
    left: tuple[str, ...] = ()
    """Words of the answer in progress that have not been emitted."""


class Talker:
    """Has the interface of `Session`."""

    model, device, rate_hz, slice_s = None, "cpu", RATE_HZ, SLICE_S
    slice_samples = round(RATE_HZ * SLICE_S)

    question_s = 0.7
    """A question is longer."""

    def __init__(self) -> None:
        self.state = TalkerState()

    def restore(self, state: TalkerState) -> None:
        self.state = state

    def process_slice(self, samples: torch.Tensor):
        """A computation that makes no request to a model."""
        turn_state = self._turn_state(samples)
        state = dataclasses.replace(self.state, slices=self.state.slices + 1)
        if turn_state == "incomplete":
            asked_s = state.asked_s + SLICE_S if state.quiet < 9 else SLICE_S
            state = dataclasses.replace(state, asked_s=asked_s, quiet=0)
        else:
            state = dataclasses.replace(state, quiet=state.quiet + 1)
        action = "drop" if turn_state == "ignore" and not state.asked_s else "listen"
        if state.asked_s and state.quiet == 9:
            action = "drop"
            state = dataclasses.replace(state, asked_s=0.0)
        left = state.left
        if state.asked_s > self.question_s and state.quiet == 2:
            turn_state, action = "response", "respond"
            left = tuple(ANSWERS[state.answers % 3].split())
            state = dataclasses.replace(state, asked_s=0.0, answers=state.answers + 1)
        text = ""
        if action == "respond":
            text = left[0]
        elif left and state.slices % 2:
            text = f" {left[0]}"
        state = dataclasses.replace(state, left=left[1:] if text else left)
        shares = {"response": 0.04, "incomplete": 0.04, "ignore": 0.04, turn_state: 0.92}
        event = Event(
            slice=state.slices - 1,
            time_s=state.slices * SLICE_S,
            probabilities=shares,
            state=turn_state,
            action=action,
            tokens=[],
            text=text,
            answering=bool(state.left),
            compute_ms=1.0,
        )
        return event, state
        yield  # makes this function a generator

    def _turn_state(self, samples: torch.Tensor) -> str:
        if float(samples.square().mean()) < 1e-4:
            return "ignore"
        crossings = int((samples[1:] * samples[:-1] < 0).sum())
        return "incomplete" if crossings < 2 * 1600 * SLICE_S else "ignore"
