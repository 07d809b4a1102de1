"""The voices of espeak-ng."""

import importlib.util
import random

from datamodules.synthetic import espeak
from datamodules.synthetic.espeak import Speech
from datamodules.synthetic.grammar import Split
from datamodules.synthetic.synthesiser import Synthesiser, Voice

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
LETTER_S = 0.0533
"""Mean duration of a letter or space at `LETTER_RATE_WPM`, over the training voices."""
LETTER_RATE_WPM = 175


def draw_espeak_voice(rng: random.Random, split: Split, argument: str = "") -> Voice:
    """Draw a voice of a split with its rate and pitch; the argument is not used."""
    accent = rng.choice(ACCENTS)
    # First the register, then the voice, since espeak-ng has many more low voices.
    low_or_high = rng.choice(VARIANTS[split])
    variant = rng.choice(low_or_high)
    rate_wpm = rng.randint(*RATE_WPM)
    return Voice(
        synthesiser="espeak",
        name=f"{accent}+{variant}",
        settings={
            "rate_wpm": rate_wpm,
            "pitch": rng.randint(*PITCH),
            "pitch_range": rng.randint(*PITCH_RANGE),
        },
        letter_s=LETTER_S * LETTER_RATE_WPM / rate_wpm,
    )


def speak_with_espeak(text: str, voice: Voice) -> Speech:
    """Synthesise a text with espeak-ng. Raises as `espeak.speak` does."""
    # The settings are those of the function, by name; their type of all engines is float.
    settings = {name: int(value) for name, value in voice.settings.items()}
    return espeak.speak(text, voice.name, **settings)


def _problem(argument: str) -> str | None:
    if importlib.util.find_spec("espeakng_loader") is None:
        return "espeakng-loader is not installed"
    return None


ESPEAK = Synthesiser(
    name="espeak",
    speak=speak_with_espeak,
    draw_voice=draw_espeak_voice,
    problem=_problem,
    install="pip install -e '.[tts]'",
    licence="GPL-3.0-or-later",
)
