"""Audio for the page: prepared clips, any sentence synthesised, and the voice of the model."""

import importlib.util
import io
from typing import NamedTuple

import numpy as np
import soundfile as sf

from datamodules.dialogue.phrases import audible_span, faded, scaled
from datamodules.synthetic.augment import resample
from datamodules.synthetic.espeak import speak

LEVEL_DB = -20.0
"""Root mean square of the speech, in dB relative to full scale."""
USER_VOICE = "gmw/en-US+f4"
OTHER_VOICE = "gmw/en+Andy"
"""Neither voice occurs in training data."""
MODEL_VOICE = "gmw/en-US"
"""Speaks the answers where the browser has no voice."""
RATE_WPM = 160
"""Speaking rate in words per minute."""


class Part(NamedTuple):
    """One utterance of a clip."""

    text: str
    silence_before_s: float = 0.0
    voice: str = USER_VOICE
    inner_pause_s: float = 0.0
    """Silence before the word `pause_before`. The sentence is synthesised as a whole, so that its
    intonation does not end at the pause."""
    pause_before: str = ""

    @property
    def displayed_text(self) -> str:
        """The text with an ellipsis at the inner pause."""
        if not self.pause_before:
            return self.text
        return self.text.replace(f" {self.pause_before}", f" … {self.pause_before}")


class Clip(NamedTuple):
    """A prepared recording of the user's side of a conversation."""

    name: str
    title: str
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The text of all parts, with an ellipsis at every pause."""
        return " … ".join(part.displayed_text for part in self.parts)


CLIPS = [
    Clip(
        name="question",
        title="A question",
        parts=(Part("what is the capital of france"),),
    ),
    Clip(
        name="unfinished",
        title="A pause in the middle",
        parts=(Part("tell me the opposite of hot", inner_pause_s=1.2, pause_before="hot"),),
    ),
    Clip(
        name="interruption",
        title="An interruption",
        parts=(
            Part("count from one to twelve"),
            Part("what is seven plus five", silence_before_s=3.5),
        ),
    ),
    Clip(
        name="talking_to_other",
        title="Talking to somebody else",
        parts=(
            Part("name the days from monday"),
            Part("peter did you see the red box", silence_before_s=2.5, voice=OTHER_VOICE),
        ),
    ),
    Clip(
        name="stop",
        title="Stopping it",
        parts=(Part("count from one to twelve"), Part("stop please", silence_before_s=3.0)),
    ),
    Clip(
        name="unknown",
        title="What it does not know",
        parts=(Part("what will the weather be in chicago on sunday"),),
    ),
]
"""Situations of a conversation."""

_EXAMPLE_TEXTS = (
    "what is the capital of france",
    "how many legs does a spider have",
    "set a timer for five minutes",
    "name the months from january",
    "what does a cow say",
    "which day comes after monday",
    "add bananas to my shopping list",
    "what colour is the sky",
)
EXAMPLES = [
    Clip(name=text.replace(" ", "_"), title=text, parts=(Part(text),)) for text in _EXAMPLE_TEXTS
]
"""Questions and orders of the grammar, for those who wonder what to ask."""


def has_synthesiser() -> bool:
    """Whether the optional synthesiser is installed; it is not loaded."""
    return importlib.util.find_spec("espeakng_loader") is not None


def clip_audio(clip: Clip, rate_hz: int) -> bytes:
    """Synthesise a clip.

    Returns:
        The content of a WAV file.

    Raises:
        ImportError: espeakng-loader is missing.
    """
    pieces: list[np.ndarray] = []
    for part in clip.parts:
        pieces += _synthesise(part, rate_hz)
    return wav_file(np.concatenate(pieces), rate_hz)


def sentence_audio(text: str, rate_hz: int, voice: str = USER_VOICE) -> bytes:
    """Synthesise a sentence.

    Args:
        text: the sentence.
        rate_hz: sample rate of the audio.
        voice: a voice of espeak-ng.

    Returns:
        The content of a WAV file.

    Raises:
        ImportError: espeakng-loader is missing.
        RuntimeError: the text contains nothing that can be pronounced.
    """
    part = Part(text, voice=voice)
    return wav_file(np.concatenate(_synthesise(part, rate_hz)), rate_hz)


def wav_file(samples: np.ndarray, rate_hz: int) -> bytes:
    """Encode (n,) samples in [-1, 1] as the content of a 16-bit WAV file."""
    file = io.BytesIO()
    sf.write(file, samples, rate_hz, format="WAV", subtype="PCM_16")
    return file.getvalue()


def _synthesise(part: Part, rate_hz: int) -> list[np.ndarray]:
    """Arrays of (n,) samples whose concatenation is the audio of a part."""
    speech = speak(part.text, part.voice, RATE_WPM)
    if not speech.samples.any():
        raise RuntimeError(f"nothing in {part.text!r} can be spoken")
    # The synthesiser pads with silence, which would add to the pauses of the clip.
    start, stop = audible_span(speech.samples, speech.sample_rate_hz)
    samples = resample(speech.samples[start:stop], speech.sample_rate_hz, rate_hz)
    # (n,) at rate_hz and unit level -> LEVEL_DB.
    samples = scaled(samples) * np.float32(10 ** (LEVEL_DB / 20))
    silence_before = _silence(part.silence_before_s, rate_hz)
    if not part.pause_before:
        return [silence_before, faded(samples, rate_hz)]
    word_start_s = next(
        word.start_s
        for word in speech.words
        if part.text[word.position :].startswith(part.pause_before)
    )
    # Word times count from the start of the untrimmed speech.
    pause_index = round((word_start_s - start / speech.sample_rate_hz) * rate_hz)
    return [
        silence_before,
        faded(samples[:pause_index], rate_hz),
        _silence(part.inner_pause_s, rate_hz),
        faded(samples[pause_index:], rate_hz),
    ]


def _silence(duration_s: float, rate_hz: int) -> np.ndarray:
    return np.zeros(round(duration_s * rate_hz), np.float32)
