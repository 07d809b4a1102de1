"""Any program that speaks a text into a sound file, named in the configuration."""

import random
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from datamodules.synthetic.espeak import Speech
from datamodules.synthetic.grammar import Split
from datamodules.synthetic.synthesiser import Synthesiser, Voice, speech_of_file

PLACES = ("{text}", "{out}")
"""What a command must contain: where the text goes, and the path of the sound file."""
HELD_OUT_PROGRAMS = ("festival", "text2wave", "en_US-joe")
"""Commands with one of these speak in a family that is for scores alone."""
LETTER_S = 0.065
"""Assumed mean duration of a letter or space."""


def draw_command_voice(rng: random.Random, split: Split, argument: str) -> Voice:
    """The one voice of a command, in all splits."""
    return Voice("command", argument, {}, LETTER_S)


def speak_with_command(text: str, voice: Voice) -> Speech:
    """Synthesise a text with the command that is the voice's name.

    Raises:
        RuntimeError: it failed or wrote no file; the message holds the command and what it printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "speech.wav"
        command = voice.name.replace("{out}", shlex.quote(str(file)))
        command = command.replace("{text}", shlex.quote(text))
        ended = subprocess.run(command, shell=True, capture_output=True, text=True)
        if ended.returncode or not file.exists():
            raise RuntimeError(
                f"data.voices: the command {command} ended with {ended.returncode} and "
                f"wrote {'a' if file.exists() else 'no'} sound file: {ended.stderr.strip()}"
            )
        return speech_of_file(text, file.read_bytes())


def _problem(argument: str) -> str | None:
    for place in PLACES:
        if place not in argument:
            return f"the command has no {place}"
    program = shlex.split(argument)[0]
    if shutil.which(program) is None:
        return f"there is no program {program}"
    return None


COMMAND = Synthesiser(
    name="command",
    speak=speak_with_command,
    draw_voice=draw_command_voice,
    problem=_problem,
    install="'command:PROGRAM {text} {out}', with a program that is installed",
    licence="that of the program",
    is_held_out=lambda argument: any(name in argument for name in HELD_OUT_PROGRAMS),
    is_cached=True,
)
