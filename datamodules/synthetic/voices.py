"""Synthesisers and their voices.

To add a synthesiser, write a module with a function that turns text and voice into `Speech`, and
register it in `SYNTHESISERS`.
"""

import dataclasses
import random
from collections.abc import Callable
from typing import NamedTuple

from datamodules.synthetic import espeak
from datamodules.synthetic.espeak import Speech
from datamodules.synthetic.grammar import Split


class Voice(NamedTuple):
    """A speaker: the parameters of `espeak.speak` after the text."""

    name: str
    """Accent and variant, as in `gmw/en-US+m1`."""
    rate_wpm: int
    pitch: int
    pitch_range: int


@dataclasses.dataclass(frozen=True)
class Synthesiser:
    """A text-to-speech engine."""

    speak: Callable[[str, Voice], Speech]
    """Samples and word times of a text in a voice, bit-identical for identical arguments."""
    draw_voice: Callable[[random.Random, Split], Voice]
    """A random voice of a split. No voice of valid or test may occur in train."""


ACCENTS = [
    "gmw/en",
    "gmw/en-029",
    "gmw/en-GB-scotland",
    "gmw/en-GB-x-gbclan",
    "gmw/en-GB-x-gbcwmd",
    "gmw/en-GB-x-rp",
    "gmw/en-US",
    "gmw/en-US-nyc",
]
"""English accents of espeak-ng."""
_TRAIN_LOW = (
    "Alex Denis Diogo Gene Gene2 Henrique Hugo Jacky Mario Michael Mike Nguyen Reed Storm adam "
    "benjamin boris ed edward edward2 grandpa iven3 iven4 john klatt2 klatt3 klatt4 klatt5 klatt6 "
    "m1 m2 m3 m4 m5 m6 m7 m8 max michel miguel pablo pedro quincy sandro"
)
_TRAIN_HIGH = "Annie anika f1 f2 f3 f5 grandma steph steph2 steph3"
VARIANTS: dict[Split, list[list[str]]] = {
    "train": [_TRAIN_LOW.split(), _TRAIN_HIGH.split()],
    "valid": [["rob", "robert"], ["belinda", "linda"]],
    "test": [["Andy", "mike2", "paul"], ["Andrea", "aunty", "f4"]],
}
"""Variants of espeak-ng for each split: low voices and high voices, drawn equally often.

Whole variants are held out, in every accent, and similar ones (rob and robert, aunty and f4) are
in the same split. Not used: robots, whispers, echoes, and voices whose words sound more like other
words of the common voices than like the same ones.
"""
RATE_WPM = (130, 210)
PITCH = (25, 75)
PITCH_RANGE = (30, 70)
"""Lowest and highest value, drawn uniformly for every voice."""


def draw_espeak_voice(rng: random.Random, split: Split) -> Voice:
    """Draw an espeak-ng voice of a split with its rate and pitch."""
    accent = rng.choice(ACCENTS)
    # First the register, then the voice, since espeak-ng has many more low voices.
    low_or_high = rng.choice(VARIANTS[split])
    variant = rng.choice(low_or_high)
    return Voice(
        name=f"{accent}+{variant}",
        rate_wpm=rng.randint(*RATE_WPM),
        pitch=rng.randint(*PITCH),
        pitch_range=rng.randint(*PITCH_RANGE),
    )


def speak_with_espeak(text: str, voice: Voice) -> Speech:
    """Synthesise a text with espeak-ng. Raises as `espeak.speak` does."""
    return espeak.speak(text, voice.name, voice.rate_wpm, voice.pitch, voice.pitch_range)


SYNTHESISERS: dict[str, Synthesiser] = {
    "espeak": Synthesiser(speak=speak_with_espeak, draw_voice=draw_espeak_voice),
}
DEFAULT_SYNTHESISER = SYNTHESISERS["espeak"]
