"""Echo: the model's own spoken answers in the user's microphone.

A page speaks the answers aloud, and not every echo canceller removes them. A model that is to be
used with loudspeakers can learn that this voice is its own: labels do not change.
"""

import dataclasses
import random
from collections.abc import Sequence

import numpy as np

from datamodules.dialogue.phrases import Phrase, audible_span, faded, scaled
from datamodules.dialogue.turns import Answer, Slices
from datamodules.synthetic.augment import resample
from datamodules.synthetic.espeak_voices import draw_espeak_voice, speak_with_espeak
from datamodules.synthetic.grammar import Split
from datamodules.synthetic.synthesiser import Voice

DELAY_S = (0.2, 1.0)
"""Range of the time from the first written word to the first spoken one: a voice waits for some
words, and synthesis takes time."""
RATE_WPM = (80, 450)
"""Lowest and highest rate of espeak-ng."""


def echo(
    answers: Sequence[Answer],
    phrases: Sequence[Phrase],
    num_samples: int,
    slices: Slices,
    words_per_s: float,
    split: Split,
    rng: random.Random,
) -> np.ndarray:
    """Speak the answers of a dialogue when the model gives them, in one voice.

    Args:
        answers: the answers with their times.
        phrases: what is said in each turn, with the text of its answer.
        num_samples: length of the dialogue.
        slices: division of time.
        words_per_s: pace of the answers.
        split: selects the voice.
        rng: source of the voice and of the delay of each answer.

    Returns:
        (num_samples,) float32: speech with a root mean square of 1, and silence around it. The
        speech of an answer that is interrupted ends with it.

    Raises:
        ImportError: espeakng-loader is missing.
    """
    low_wpm, high_wpm = RATE_WPM
    rate_wpm = min(max(round(60 * words_per_s), low_wpm), high_wpm)
    drawn = draw_espeak_voice(rng, split)
    voice = dataclasses.replace(drawn, settings={**drawn.settings, "rate_wpm": rate_wpm})
    samples = np.zeros(num_samples, np.float32)
    for answer in answers:
        # The first word is written when the slice of the decision is over.
        response_start = (answer.begin + 1) * slices.length
        start = response_start + round(rng.uniform(*DELAY_S) * slices.rate_hz)
        stop = num_samples
        if answer.end is not None:
            stop = (answer.end + 1) * slices.length
        # An answer may be interrupted before its first spoken word.
        if start >= stop:
            continue
        speech = _speak(phrases[answer.turn].answer, voice, slices.rate_hz)
        heard = faded(speech[: stop - start], slices.rate_hz)
        samples[start : start + len(heard)] += heard
    return samples


def _speak(text: str, voice: Voice, rate_hz: int) -> np.ndarray:
    """(n,) float32 without silence around it, with a root mean square of 1."""
    speech = speak_with_espeak(text, voice)
    start, stop = audible_span(speech.samples, speech.sample_rate_hz)
    return scaled(resample(speech.samples[start:stop], speech.sample_rate_hz, rate_hz))
