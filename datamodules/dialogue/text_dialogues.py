"""Dialogues of words with times, without sound: turn-taking and answers for the language model alone.

They are those of `dialogues` in every respect but their audio, which is silence: the same events,
sentences, times, labels and answers, from estimated durations of words. Making one takes a few
milliseconds, where audio and the features of a pretrained encoder take seconds, so that none has to
be repeated.
"""

import random
import re
from typing import NamedTuple

import numpy as np

from configs.schema import Config
from datamodules.dialogue.dialogues import Dialogue, Dialogues, Schedule, open_dialogues
from datamodules.dialogue.phrases import Phrase
from datamodules.dialogue.turns import Event, Kind, Turn
from datamodules.synthetic.espeak import Speech, Word
from datamodules.synthetic.grammar import Split
from datamodules.synthetic.synthesiser import Voice
from datamodules.synthetic.voices import Voices

LETTER_S = (0.035, 0.075)
"""Fastest and slowest speech in seconds a letter, as of the synthesisers."""
UNHEARD: tuple[Kind, ...] = ("noise", "silence", "background_speech")
"""Kinds of which no word is heard."""


class TimedWord(NamedTuple):
    """A word of the user."""

    text: str
    end_s: float
    """Time in the dialogue at which it has been spoken."""
    turn: int
    """Index of its turn."""


class SilentVoices(Voices):
    """Voices that speak with estimated durations and without a sound that means anything."""

    def __init__(self, rate_hz: int):
        super().__init__([])
        self.rate_hz = rate_hz

    def draw(self, rng: random.Random, split: Split) -> Voice:
        """Draw a rate of speaking."""
        return Voice("silent", "silent", {}, letter_s=rng.uniform(*LETTER_S))

    def speak(self, text: str, voice: Voice) -> Speech:
        """A constant of the estimated duration, with the starts of the words."""
        # not silence: what is silent is cut from the ends of a phrase
        samples = np.ones(round(voice.letter_s * len(text) * self.rate_hz), np.float32)
        words = []
        for match in re.finditer(r"\S+", text):
            begin, end = match.span()
            words.append(Word(voice.letter_s * begin, begin, end - begin))
        return Speech(samples, self.rate_hz, words)


class TextDialogues(Dialogues):
    """Unlimited dialogues without sound; arguments as `Dialogues`."""

    def _record(
        self, events: list[Event], phrases: list[Phrase], schedule: Schedule, rng: random.Random
    ) -> np.ndarray:
        return np.zeros(schedule.num_samples, np.float32)


def open_text_dialogues(config: Config, split: Split = "train") -> TextDialogues:
    """Open the dialogues of a configuration without sound; their questions are the grammar's."""
    voices = SilentVoices(config.features.sample_rate_hz)
    dialogues = open_dialogues(config, split, 1, voices=voices, dialogue_type=TextDialogues)
    assert isinstance(dialogues, TextDialogues)
    return dialogues


def timed_words(dialogue: Dialogue) -> list[TimedWord]:
    """The words that are heard in a dialogue, each with the end of its estimated time."""
    words = []
    for number, turn in enumerate(dialogue.turns):
        if turn.kind in UNHEARD:
            continue
        for match in re.finditer(r"\S+", turn.text):
            end_s = _time_s(turn, match.end() / len(turn.text))
            words.append(TimedWord(match.group(), end_s, number))
    return words


def _time_s(turn: Turn, share: float) -> float:
    """Time at which a share of a turn's letters has been spoken; a pause has none."""
    pause_start_s, pause_end_s = turn.pause_s or (turn.end_s, turn.end_s)
    pause_s = pause_end_s - pause_start_s
    spoken_s = turn.end_s - turn.start_s - pause_s
    time_s = turn.start_s + share * spoken_s
    if time_s > pause_start_s:
        time_s += pause_s
    return time_s
