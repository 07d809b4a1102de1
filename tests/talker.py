"""A stand-in for a model, for tests of the page: it goes by how loud and how high a sound is.

A low tone of 0.8 s in all, with pauses or without, is a question; what is shorter is not finished; a high tone is for
somebody else.
"""

import dataclasses

import numpy as np
import torch

from duplexmamba.duplex.session import Event

RATE_HZ, SLICE_S = 16_000, 0.2
LOW_HZ, HIGH_HZ = 300, 2500
ANSWERS = [
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen",
    "paris",
    "the opposite of hot is cold",
]  # fmt: skip


def tones(*parts: tuple[float, float]) -> np.ndarray:
    """(n,) int16 of (Hz, seconds) one after the other; 0 Hz is silence."""
    waves = [np.sin(2 * np.pi * hz * np.arange(round(s * RATE_HZ)) / RATE_HZ) for hz, s in parts]
    return (8000 * np.concatenate(waves)).astype("<i2")


@dataclasses.dataclass(frozen=True)
class Now:
    """Its conversation at one moment."""

    slices: int = 0
    asked_s: float = 0.0
    """Low sound that waits for an answer."""
    quiet: int = 0
    """Slices since then."""
    answers: int = 0
    left: tuple[str, ...] = ()
    """Words of the answer under way."""


class Talker:
    """As `Session` is to its users."""

    model, device, rate_hz, slice_s = None, "cpu", RATE_HZ, SLICE_S
    slice_samples = round(RATE_HZ * SLICE_S)

    def __init__(self) -> None:
        self.now = Now()

    def restore(self, now: Now) -> None:
        self.now = now

    def hear(self, samples: torch.Tensor):
        """Wishes for nothing of a model."""
        state = self._state(samples)
        now = dataclasses.replace(self.now, slices=self.now.slices + 1)
        if state == "incomplete":
            now = dataclasses.replace(
                now, asked_s=now.asked_s + SLICE_S if now.quiet < 9 else SLICE_S, quiet=0
            )
        else:
            now = dataclasses.replace(now, quiet=now.quiet + 1)
        action, left = "drop" if state == "ignore" and not now.asked_s else "listen", now.left
        if now.asked_s > 0.7 and now.quiet == 2:
            state, action, left = "response", "respond", tuple(ANSWERS[now.answers % 3].split())
            now = dataclasses.replace(now, asked_s=0.0, answers=now.answers + 1)
        text = left[0] if action == "respond" else f" {left[0]}" if left and now.slices % 2 else ""
        now = dataclasses.replace(now, left=left[1:] if text else left)
        shares = {"response": 0.04, "incomplete": 0.04, "ignore": 0.04, state: 0.92}
        going = bool(now.left)
        return Event(
            now.slices - 1, now.slices * SLICE_S, shares, state, action, [], text, going, 1.0
        ), now
        yield

    def _state(self, samples: torch.Tensor) -> str:
        if float(samples.square().mean()) < 1e-4:
            return "ignore"
        crossings = int((samples[1:] * samples[:-1] < 0).sum())
        return "incomplete" if crossings < 2 * 1600 * SLICE_S else "ignore"
