"""festival, whose program text2wave is called once per text: a family for scores alone."""

import random
import shutil
import subprocess
import tempfile
from pathlib import Path

from datamodules.synthetic.espeak import Speech
from datamodules.synthetic.grammar import Split
from datamodules.synthetic.synthesiser import Synthesiser, Voice, speech_of_file

VOICES = ("cmu_us_slt_arctic_hts", "kal_diphone")
"""A statistical voice and one of joined diphones, drawn equally often."""
LETTER_S = 0.0666
"""Mean duration of a letter or space, over both voices."""


def draw_festival_voice(rng: random.Random, split: Split, argument: str) -> Voice:
    """Draw a voice, or take the one that the argument names; the same ones in all splits."""
    name = argument or rng.choice(VOICES)
    return Voice("festival", name, {}, LETTER_S)


def speak_with_festival(text: str, voice: Voice) -> Speech:
    """Synthesise a text with festival.

    Raises:
        RuntimeError: festival failed; the message names voice and text.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "speech.wav"
        command = ["text2wave", "-eval", f"(voice_{voice.name})", "-o", str(file)]
        ended = subprocess.run(command, input=text, capture_output=True, text=True)
        # text2wave ends with 0 also where it does not know the voice.
        if ended.returncode or not file.exists():
            raise RuntimeError(
                f"festival could not speak {text!r} with voice {voice.name}: {ended.stderr.strip()}"
            )
        return speech_of_file(text, file.read_bytes())


def _problem(argument: str) -> str | None:
    if shutil.which("text2wave") is None:
        return "the program text2wave is not installed"
    listing = subprocess.run(
        ["festival", "-b", "(print (voice.list))"], capture_output=True, text=True
    )
    installed = listing.stdout.strip().strip("()").split()
    for voice in (argument,) if argument else VOICES:
        if voice not in installed:
            return f"the voice {voice} is not installed (there are: {', '.join(installed)})"
    return None


FESTIVAL = Synthesiser(
    name="festival",
    speak=speak_with_festival,
    draw_voice=draw_festival_voice,
    problem=_problem,
    install="sudo apt-get install festival festvox-us-slt-hts festvox-kallpc16k",
    licence="BSD-style",
    is_held_out=lambda argument: True,
    is_cached=True,
)
