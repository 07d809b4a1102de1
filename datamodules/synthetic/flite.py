"""flite, a small statistical and diphone synthesiser in C; its program is called once per text."""

import random
import shutil
import subprocess
import tempfile
from pathlib import Path

from datamodules.synthetic.espeak import Speech
from datamodules.synthetic.grammar import Split
from datamodules.synthetic.synthesiser import Synthesiser, Voice, speech_of_file

VOICES: dict[Split, list[str]] = {
    "train": ["rms", "awb"],
    "valid": ["slt", "kal16"],
    "test": ["slt", "kal16"],
}
"""Held out are the two speakers that festival's voices were made from too, since festival is a
family for scores alone."""
STRETCH = (0.8, 1.2)
"""Shortest and longest duration of its sounds, as a factor."""
PITCH = (0.85, 1.2)
"""Lowest and highest factor of the pitch. Voice rms ignores it."""
LETTER_S = 0.0652
"""Mean duration of a letter or space without stretching, over all voices."""


def draw_flite_voice(rng: random.Random, split: Split, argument: str) -> Voice:
    """Draw a voice of a split with its rate and pitch; the argument is not used."""
    name = rng.choice(VOICES[split])
    # Two digits: an utterance is found again in the cache by its exact values.
    stretch = round(rng.uniform(*STRETCH), 2)
    pitch = round(rng.uniform(*PITCH), 2)
    settings = {"duration_stretch": stretch, "f0_shift": pitch}
    return Voice("flite", name, settings, LETTER_S * stretch)


def speak_with_flite(text: str, voice: Voice) -> Speech:
    """Synthesise a text with flite.

    Raises:
        RuntimeError: flite failed; the message names voice and text.
    """
    command = ["flite", "-voice", voice.name]
    for name, value in voice.settings.items():
        command += ["--setf", f"{name}={value}"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "speech.wav"
        # flite plays a sound aloud if it is given no file.
        ended = subprocess.run([*command, "-t", text, "-o", file], capture_output=True, text=True)
        if ended.returncode or not file.exists():
            raise RuntimeError(
                f"flite could not speak {text!r} with voice {voice.name}: {ended.stderr.strip()}"
            )
        return speech_of_file(text, file.read_bytes())


def _problem(argument: str) -> str | None:
    if shutil.which("flite") is None:
        return "the program flite is not installed"
    return None


FLITE = Synthesiser(
    name="flite",
    speak=speak_with_flite,
    draw_voice=draw_flite_voice,
    problem=_problem,
    install="sudo apt-get install flite",
    licence="BSD-style",
    is_cached=True,
)
