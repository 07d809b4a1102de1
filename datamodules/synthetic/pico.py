"""SVOX Pico through the package py-nanotts, in a process of its own.

Pico reads memory before it writes it, so that its samples depend on what that memory held. In the
process the C library fills what it allocates with zeros, which makes them depend on text and voice
alone. That is glibc's setting, so elsewhere they may differ in the last bits.
"""

import importlib.util
import random
from typing import Any

from datamodules.synthetic.engine_process import EngineProcess, Pcm, serve
from datamodules.synthetic.espeak import Speech
from datamodules.synthetic.grammar import Split
from datamodules.synthetic.synthesiser import Synthesiser, Voice, speech_of_pcm

RATE_HZ = 16_000
VOICES: dict[Split, str] = {"train": "en-US", "valid": "en-GB", "test": "en-GB"}
"""Pico has one English voice for each of two countries."""
SPEED = (0.8, 1.2)
PITCH = (0.8, 1.25)
"""Lowest and highest factor, drawn uniformly for every voice."""
LETTER_S = 0.0642
"""Mean duration of a letter or space at speed 1, over both voices."""

_process = EngineProcess("datamodules.synthetic.pico", environment={"MALLOC_PERTURB_": "255"})


def draw_pico_voice(rng: random.Random, split: Split, argument: str) -> Voice:
    """Draw rate and pitch for the voice of a split; the argument is not used."""
    speed = round(rng.uniform(*SPEED), 2)
    pitch = round(rng.uniform(*PITCH), 2)
    settings = {"speed": speed, "pitch": pitch}
    return Voice("pico", VOICES[split], settings, LETTER_S / speed)


def speak_with_pico(text: str, voice: Voice) -> Speech:
    """Synthesise a text with Pico. Raises as `EngineProcess.speak` does."""
    sound = _process.speak({"text": text, "voice": voice.name, **voice.settings})
    return speech_of_pcm(text, sound.content, sound.rate_hz)


def _problem(argument: str) -> str | None:
    if importlib.util.find_spec("py_nanotts") is None:
        return "py-nanotts is not installed"
    return None


PICO = Synthesiser(
    name="pico",
    speak=speak_with_pico,
    draw_voice=draw_pico_voice,
    problem=_problem,
    install="pip install py-nanotts",
    licence="Apache-2.0",
)


def main() -> None:
    """Speak as requests on stdin say."""
    from py_nanotts import NanoTTS

    engine = NanoTTS()

    def speak(request: dict[str, Any]) -> Pcm:
        return Pcm(RATE_HZ, engine.speak(**request))

    serve(speak)


if __name__ == "__main__":
    main()
