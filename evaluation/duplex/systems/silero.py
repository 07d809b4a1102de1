"""Silence end-pointing by Silero VAD (MIT), whose ONNX weights lie in two packages."""

import importlib.util
from pathlib import Path

import numpy as np
import soxr

from evaluation.duplex.systems.silence import silence_scores
from evaluation.duplex.turn_scores import Listen, TurnScores

RATE_HZ = 16_000
FRAME_SAMPLES = 512
CONTEXT_SAMPLES = 64
"""Samples of the previous frame that the model hears again."""
FRAME_S = FRAME_SAMPLES / RATE_HZ
SPEECH_THRESHOLD = 0.5
SILENCE_THRESHOLD = 0.35
"""Speech begins at the first threshold and ends below the second one."""
MIN_SPEECH_S = 0.25
WEIGHTS = ("silero_vad/data/silero_vad.onnx", "pipecat/audio/vad/data/silero_vad.onnx")
"""The same file in the packages silero-vad and pipecat-ai."""


def open_silero(rate_hz: int) -> Listen:
    """Silence end-pointing for audio of a sample rate."""
    vad = SileroVAD()

    def listen(samples: np.ndarray) -> TurnScores:
        probabilities = vad.probabilities(samples, rate_hz)
        speaks = with_hysteresis(probabilities, SPEECH_THRESHOLD, SILENCE_THRESHOLD)
        return silence_scores(speaks, FRAME_S, MIN_SPEECH_S)

    return listen


class SileroVAD:
    """Silero VAD by onnxruntime, on one thread.

    Raises:
        ImportError: the weights are in none of the installed packages.
    """

    def __init__(self) -> None:
        found = [file for file in map(packaged_file, WEIGHTS) if file is not None]
        if not found:
            raise ImportError(
                f"none of {', '.join(WEIGHTS)} is installed: pip install silero-vad onnxruntime"
            )
        self._session = open_onnx(found[0])

    def probabilities(self, samples: np.ndarray, rate_hz: int) -> np.ndarray:
        """Probability of speech in every frame of `FRAME_S` of (n,) samples."""
        audio = soxr.resample(samples, rate_hz, RATE_HZ).astype(np.float32)
        state = np.zeros((2, 1, 128), np.float32)  # of the recurrent layers
        padded = np.concatenate([np.zeros(CONTEXT_SAMPLES, np.float32), audio])
        rate = np.array(RATE_HZ, np.int64)
        probabilities = []
        for start in range(0, len(audio) - FRAME_SAMPLES + 1, FRAME_SAMPLES):
            window = padded[start : start + CONTEXT_SAMPLES + FRAME_SAMPLES][None]  # (1, 576)
            inputs = {"input": window, "state": state, "sr": rate}
            output, state = self._session.run(None, inputs)
            probabilities.append(float(output[0, 0]))
        return np.array(probabilities)


def with_hysteresis(probabilities: np.ndarray, begins: float, ends: float) -> np.ndarray:
    """(T,) bool: from a value that reaches one threshold to a value below another, lower one."""
    speaks = np.zeros(len(probabilities), bool)
    speaking = False
    for index, probability in enumerate(probabilities):
        # The lower threshold holds during speech, so that soft syllables do not end it.
        speaking = probability >= (ends if speaking else begins)
        speaks[index] = speaking
    return speaks


def packaged_file(path: str) -> Path | None:
    """A file of an installed package, found without importing it; None: it is not there.

    Importing silero-vad sets torch to one thread, importing pipecat needs its other dependencies.
    """
    package, _, inside = path.partition("/")
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / inside
        if file.is_file():
            return file
    return None


def open_onnx(file: Path):  # type: ignore[no-untyped-def]  # onnxruntime has no types
    """An onnxruntime session on one CPU thread."""
    import onnxruntime

    # More threads cost more than they gain on windows this small.
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(
        str(file), sess_options=options, providers=["CPUExecutionProvider"]
    )
