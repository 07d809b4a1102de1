"""What a synthesiser is: a function that speaks a text in a voice, and a record that describes it."""

import dataclasses
import io
import random
from collections.abc import Callable, Mapping

import numpy as np
import soundfile

from datamodules.synthetic.espeak import Speech
from datamodules.synthetic.grammar import Split
from datamodules.synthetic.word_times import estimate_words

INT16_SCALE = 32_768


@dataclasses.dataclass(frozen=True)
class Voice:
    """A speaker, with everything that its synthesiser needs to know apart from the text."""

    synthesiser: str
    """Name of the synthesiser in `SYNTHESISERS`."""
    name: str
    """Name of the speaker within the synthesiser; a voice file, or a command, where it takes one."""
    settings: Mapping[str, float]
    """Rate, pitch and the like, by the names that the synthesiser gives them."""
    letter_s: float
    """Mean duration of a letter or space, from which durations are estimated without synthesis."""


@dataclasses.dataclass(frozen=True)
class Synthesiser:
    """A text-to-speech engine.

    Some take an argument, such as a voice file: what follows the colon in the name of an entry of
    `data.voices`. For the others it is the empty string.
    """

    name: str
    """Its name in `data.voices`, which is the name of its family of voices in scores."""
    speak: Callable[[str, Voice], Speech]
    """Speech of a text in a voice: identical for identical arguments, in any process and order."""
    draw_voice: Callable[[random.Random, Split, str], Voice]
    """A random voice of a split; the last argument is that of the entry. Where there are several
    voices, none of valid or test occurs in train."""
    problem: Callable[[str], str | None]
    """Why an entry with this argument cannot be used here; None: it can."""
    install: str
    """Command that installs it."""
    licence: str
    is_held_out: Callable[[str], bool] = lambda argument: False
    """Whether an entry with this argument may be used for scores alone, never for training."""
    is_cached: bool = False
    """Whether its speech is kept on disk: for engines that need more than about 20 ms of a core for
    an utterance."""
    version: Callable[[str], str] = lambda argument: argument
    """What identifies an argument in the cache, such as a digest of the file that it names."""


def speech_of_pcm(text: str, pcm: bytes, rate_hz: int) -> Speech:
    """Speech from int16 samples, with estimated word times."""
    samples = np.frombuffer(pcm, np.int16).astype(np.float32) / INT16_SCALE
    return Speech(samples, rate_hz, estimate_words(text, samples, rate_hz))


def speech_of_file(text: str, content: bytes) -> Speech:
    """Speech from the first channel of a sound file, with estimated word times.

    Args:
        text: the sentence.
        content: bytes of the file.

    Raises:
        soundfile.LibsndfileError: the content is no sound file, or is damaged.
    """
    # (n, channels)
    pcm, rate_hz = soundfile.read(io.BytesIO(content), dtype="int16", always_2d=True)
    return speech_of_pcm(text, pcm[:, 0].tobytes(), rate_hz)
