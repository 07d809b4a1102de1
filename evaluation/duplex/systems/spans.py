"""Spans of speech in a whole recording, by Silero VAD where it is installed, else by the level."""

from collections.abc import Callable

import numpy as np

from evaluation.duplex.systems import BASELINES, energy

Span = tuple[float, float]
"""Begin and end in seconds."""
FindSpans = Callable[[np.ndarray], list[Span]]
"""(n,) samples -> spans of speech."""
MIN_SILENCE_S = 0.1
PAD_S = 0.03
"""Settings of Silero VAD: shorter silences do not divide speech; speech is padded at both ends."""


def open_spans(rate_hz: int) -> tuple[FindSpans, str]:
    """A function that finds speech in audio of a sample rate, and the name of what finds it."""
    if BASELINES["silero"].missing():
        return lambda samples: _energy_spans(samples, rate_hz), "level"
    # Only now: it needs onnxruntime.
    from evaluation.duplex.systems import silero

    vad = silero.SileroVAD()

    def find(samples: np.ndarray) -> list[Span]:
        probabilities = vad.probabilities(samples, rate_hz)
        speaks = silero.with_hysteresis(
            probabilities, silero.SPEECH_THRESHOLD, silero.SILENCE_THRESHOLD
        )
        return spans_of_frames(speaks, silero.FRAME_S, silero.MIN_SPEECH_S)

    return find, "silero"


def _energy_spans(samples: np.ndarray, rate_hz: int) -> list[Span]:
    speaks = energy.speech_frames(samples, rate_hz)
    return spans_of_frames(speaks, energy.FRAME_S, energy.MIN_SPEECH_S)


def spans_of_frames(speaks: np.ndarray, frame_s: float, min_speech_s: float) -> list[Span]:
    """Spans of speech of (T,) frames, joined over short silences, without short sounds."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], speaks.astype(int), [0]])))
    joined: list[tuple[int, int]] = []
    for first, stop in edges.reshape(-1, 2).tolist():
        if joined and (first - joined[-1][1]) * frame_s < MIN_SILENCE_S - 1e-6:
            joined[-1] = (joined[-1][0], stop)
        else:
            joined.append((first, stop))
    spans = []
    for first, stop in joined:
        if (stop - first) * frame_s >= min_speech_s - 1e-6:
            end_s = min(len(speaks) * frame_s, stop * frame_s + PAD_S)
            spans.append((max(0.0, first * frame_s - PAD_S), end_s))
    return spans
