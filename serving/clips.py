"""What can be said to the page without a microphone: prepared clips, and any sentence by the synthesiser."""

import functools
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import soundfile as sf

from datamodules.dialogue.phrases import faded, heard, scaled
from datamodules.synthetic.augment import resample
from datamodules.synthetic.espeak import speak

LEVEL_DB = -20.0
"""Root mean square of speech, relative to full scale."""
ASKER, OTHER = "gmw/en-US+f4", "gmw/en+Andy"
"""Voices that no training hears."""
RATE_WPM = 160


class Part(NamedTuple):
    """Something said."""

    text: str
    after_s: float = 0.0
    """Silence before it."""
    voice: str = ASKER
    within_s: float = 0.0
    """Silence before its word `broken`: a sentence that pauses in the middle, spoken in one breath."""
    broken: str = ""

    @property
    def told(self) -> str:
        """Its text; "…" is a pause."""
        return (
            self.text.replace(f" {self.broken}", f" … {self.broken}") if self.broken else self.text
        )


class Clip(NamedTuple):
    """A prepared piece of a conversation."""

    name: str
    title: str
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """All that is said; "…" is a pause."""
        return " … ".join(part.told for part in self.parts)


CLIPS = [
    Clip("question", "A question", (Part("what is the capital of france"),)),
    Clip(
        "unfinished",
        "An unfinished one",
        (Part("tell me the opposite of hot", within_s=1.2, broken="hot"),),
    ),
    Clip(
        "interruption",
        "An interruption",
        (Part("count from one to twelve"), Part("what is seven plus five", 3.5)),
    ),
    Clip(
        "talking_to_other",
        "An aside",
        (Part("name the days from monday"), Part("peter did you see the red box", 2.5, OTHER)),
    ),
]


def clip_audio(clip: Clip, rate_hz: int) -> bytes:
    """A WAV file. Raises ImportError: espeakng-loader is missing."""
    return wav(
        np.concatenate([said for part in clip.parts for said in _sounds(part, rate_hz)]), rate_hz
    )


def sentence_audio(text: str, rate_hz: int) -> bytes:
    """A WAV file. Raises ImportError: espeakng-loader is missing; RuntimeError: nothing in it can be spoken."""
    return wav(np.concatenate(list(_sounds(Part(text), rate_hz))), rate_hz)


def wav(samples: np.ndarray, rate_hz: int) -> bytes:
    """(n,) samples in [-1, 1] as a file."""
    file = io.BytesIO()
    sf.write(file, samples, rate_hz, format="WAV", subtype="PCM_16")
    return file.getvalue()


def _sounds(part: Part, rate_hz: int) -> Sequence[np.ndarray]:
    speech = speak(part.text, part.voice, RATE_WPM)
    if not speech.samples.any():
        raise RuntimeError(f"nothing in {part.text!r} can be spoken")
    start, stop = heard(speech.samples, speech.sample_rate_hz)
    samples = resample(speech.samples[start:stop], speech.sample_rate_hz, rate_hz)
    samples = scaled(samples) * np.float32(10 ** (LEVEL_DB / 20))
    silence = functools.partial(_silence, rate_hz=rate_hz)
    if not part.broken:
        return silence(part.after_s), faded(samples, rate_hz)
    at_s = next(
        word.start_s for word in speech.words if part.text[word.position :].startswith(part.broken)
    )
    at = round((at_s - start / speech.sample_rate_hz) * rate_hz)
    return (
        silence(part.after_s),
        faded(samples[:at], rate_hz),
        silence(part.within_s),
        faded(samples[at:], rate_hz),
    )


def _silence(seconds: float, rate_hz: int) -> np.ndarray:
    return np.zeros(round(seconds * rate_hz), np.float32)
