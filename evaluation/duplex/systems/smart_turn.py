"""smart-turn v3.2 (pipecat-ai, BSD-2) after Silero VAD, as pipecat runs it.

After 0.2 s of silence the model hears the turn so far and says whether it is complete. It is not
asked again until speech goes on; 3 s of silence end the turn in any case.
"""

from pathlib import Path

import numpy as np
import soxr
from transformers import WhisperFeatureExtractor

from evaluation.duplex.systems.silence import silence_after_speech_s
from evaluation.duplex.systems.silero import (
    FRAME_S,
    RATE_HZ,
    SILENCE_THRESHOLD,
    SileroVAD,
    open_onnx,
    packaged_file,
    with_hysteresis,
)
from evaluation.duplex.turn_scores import Listen, TurnScores

WEIGHTS = "pipecat/audio/turn/smart_turn/data/smart-turn-v3.2-cpu.onnx"
WINDOW_S = 8
"""The model hears the last seconds of a turn, after zeros where the turn is shorter."""
SPEECH_CONFIDENCE = 0.7
MIN_SPEECH_S = 0.2
ASKED_AFTER_S = 0.2
"""Settings of pipecat's VAD; its least volume is left out."""
TIMEOUT_S = 3.0
BEFORE_SPEECH_S = 0.5
"""Audio before the onset of the turn that the model hears too."""
COMPLETE = 0.5
"""Probability above which pipecat ends the turn, so that later audio is a new one."""


def open_smart_turn(rate_hz: int) -> Listen:
    """smart-turn after VAD for audio of a sample rate.

    Raises:
        ImportError: the weights are not in the installed package.
    """
    file = packaged_file(WEIGHTS)
    if file is None:
        raise ImportError(
            f"{WEIGHTS} is not installed: pip install --no-deps pipecat-ai==1.14.0 (other "
            "versions may have other weights)"
        )
    vad = SileroVAD()
    model = SmartTurn(file)

    def listen(samples: np.ndarray) -> TurnScores:
        confidences = vad.probabilities(samples, rate_hz)
        speaks = with_hysteresis(confidences, SPEECH_CONFIDENCE, SILENCE_THRESHOLD)
        audio = soxr.resample(samples, rate_hz, RATE_HZ).astype(np.float32)
        return _scores(audio, speaks, model)

    return listen


class SmartTurn:
    """The ONNX model, on one thread."""

    def __init__(self, file: Path):
        self._session = open_onnx(file)
        self._features = WhisperFeatureExtractor(chunk_length=WINDOW_S)

    def probability(self, turn: np.ndarray) -> float:
        """Probability that a turn is complete.

        Args:
            turn: (n,) samples at 16 kHz, from before its first speech to now. It must hold speech:
                silence alone is judged complete.
        """
        [[probability]] = self._session.run(None, {"input_features": self.features(turn)})[0]
        # A probability already: a sigmoid over it would be wrong.
        return float(probability)

    def features(self, turn: np.ndarray) -> np.ndarray:
        """(n,) samples -> (1, 80, 800) log-mel features of the last `WINDOW_S` seconds."""
        num_samples = WINDOW_S * RATE_HZ
        window = turn[-num_samples:]
        # On the left: the end of the turn is at the end of the window.
        padded = np.pad(window, (num_samples - len(window), 0))
        # Mean and variance are those of the padded wave.
        extracted = self._features(
            padded, sampling_rate=RATE_HZ, return_tensors="np", do_normalize=True
        )
        features: np.ndarray = extracted.input_features.astype(np.float32)
        return features


def _scores(audio: np.ndarray, speaks: np.ndarray, model: SmartTurn) -> TurnScores:
    """Scores of the frames of VAD.

    Args:
        audio: (n,) at 16 kHz.
        speaks: (T,) whether each frame holds speech.
        model: judges turns.
    """
    silences_s = silence_after_speech_s(speaks, FRAME_S, MIN_SPEECH_S)
    ended = np.zeros(len(speaks))
    turn_begin_s: float | None = None
    probability = 0.0
    asked = False
    for index, silence_s in enumerate(silences_s):
        now_s = (index + 1) * FRAME_S
        if silence_s == 0:
            # Speech that goes on after an incomplete turn belongs to that turn.
            if turn_begin_s is None:
                turn_begin_s = max(0.0, now_s - MIN_SPEECH_S - BEFORE_SPEECH_S)
            asked = False
            continue
        # NaN before the first speech, which compares as false.
        if not asked and silence_s >= ASKED_AFTER_S and turn_begin_s is not None:
            turn = audio[round(turn_begin_s * RATE_HZ) : round(now_s * RATE_HZ)]
            probability = model.probability(turn)
            asked = True
        if asked:
            # The answer holds until speech goes on: it is not asked again.
            timed_out = silence_s >= TIMEOUT_S
            ended[index] = 1.0 if timed_out else probability
            if timed_out or probability > COMPLETE:
                turn_begin_s = None
    times_s = FRAME_S * np.arange(1, len(speaks) + 1)
    return TurnScores(times_s, ended, (silences_s == 0).astype(np.float64))
