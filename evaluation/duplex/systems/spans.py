"""Spans of speech in a whole recording, by Silero VAD where it is installed, else by the level."""

from collections.abc import Callable

import numpy as np

from evaluation.duplex.systems import BASELINES, energy

Span = tuple[float, float]
"""Begin and end in seconds."""
FindSpans = Callable[[np.ndarray], list[Span]]
"""(n,) samples -> spans of speech."""
ROUNDING_S = 1e-6
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
    joined: list[Span] = []
    for index in np.flatnonzero(speaks).tolist():
        start_s = index * frame_s
        end_s = start_s + frame_s
        # Sums of frames miss the shortest silence by rounding.
        goes_on = bool(joined) and start_s - joined[-1][1] < MIN_SILENCE_S - ROUNDING_S
        if goes_on:
            joined[-1] = (joined[-1][0], end_s)
        else:
            joined.append((start_s, end_s))
    duration_s = len(speaks) * frame_s
    spans = []
    for start_s, end_s in joined:
        if end_s - start_s >= min_speech_s - ROUNDING_S:
            padded_start_s = max(0.0, start_s - PAD_S)
            padded_end_s = min(duration_s, end_s + PAD_S)
            spans.append((padded_start_s, padded_end_s))
    return spans
