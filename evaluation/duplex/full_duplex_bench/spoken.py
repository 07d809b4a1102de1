"""Responses spoken by a synthesiser from their first emission on, cut where the session stops."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import soxr

from datamodules.synthetic.espeak import speak
from duplexmamba.duplex.events import EmittedResponse, Event, emitted_responses
from evaluation.duplex.full_duplex_bench.words import Word

VOICE = "gmw/en-US"
"""Voice of espeak-ng."""


class Spoken(NamedTuple):
    """Output audio of a session, and the words in it."""

    samples: np.ndarray
    """(n,) float32, as long as the input."""
    words: list[Word]


def speak_responses(events: Sequence[Event], num_samples: int, rate_hz: int) -> Spoken:
    """Speak the responses of a session.

    A listener does not wait for the last token: a sentence is spoken as a whole from the slice of
    its first one. A response that is interrupted falls silent at the end of the slice that
    interrupts it.

    Args:
        events: of all slices.
        num_samples: length of the input.
        rate_hz: sample rate of the input and of the result.
    """
    output = np.zeros(num_samples, np.float32)
    words: list[Word] = []
    responses = emitted_responses(events)
    for index, response in enumerate(responses):
        if not response.text.strip():
            continue
        from_s = _first_emission_s(events, response)
        until_s = num_samples / rate_hz
        # The next response takes the place of this one, whether it was complete or not.
        for following in responses[index + 1 : index + 2]:
            until_s = min(until_s, events[following.start_slice].time_s)
        words += _speak_into(output, response.text, from_s, until_s, rate_hz)
    return Spoken(output, words)


def _first_emission_s(events: Sequence[Event], response: EmittedResponse) -> float:
    """End of the slice that emits the first text of a response."""
    for event in events[response.start_slice : response.stop_slice + 1]:
        if event.text.strip():
            return event.time_s
    return events[response.start_slice].time_s


def _speak_into(
    output: np.ndarray, text: str, from_s: float, until_s: float, rate_hz: int
) -> list[Word]:
    """Write the speech of a text into (n,) samples; returns the words that are heard."""
    speech = speak(text, VOICE)
    samples = soxr.resample(speech.samples, speech.sample_rate_hz, rate_hz)
    begin = round(from_s * rate_hz)
    end = round(until_s * rate_hz)
    # Cut in the middle of a word, as a session that stops does.
    heard = samples[: max(0, end - begin)]
    output[begin : begin + len(heard)] = heard
    end_s = from_s + len(heard) / rate_hz
    starts_s = [from_s + word.start_s for word in speech.words]
    ends_s = [*starts_s[1:], from_s + len(samples) / rate_hz]
    words = []
    for word, start_s, word_end_s in zip(speech.words, starts_s, ends_s, strict=True):
        if start_s >= end_s:
            break  # not heard any more
        spelling = text[word.position : word.position + word.length]
        heard_end_s = min(word_end_s, end_s)
        words.append(Word(spelling, round(start_s, 6), round(heard_end_s, 6)))
    return words
