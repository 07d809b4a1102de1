"""What the model has heard: stretches of speech in a conversation, and their transcripts.

A transcript is for the user's eyes only: the conversation itself does not depend on it. It is made
after the decision about a stretch of speech, in short steps, between which slices are processed.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from duplexmamba.duplex.events import Event
from duplexmamba.duplex.session import Session
from duplexmamba.models.speech_lm import SpeechState
from duplexmamba.streaming.padded import Padded, join
from duplexmamba.text.decoding import decode_step
from duplexmamba.text.tokenizer import TRANSCRIBE_INSTRUCTIONS

MIN_UNANSWERED_S = 0.6
"""A stretch without an answer is reported if the model took so much of it for speech to itself."""
UNMARKED_S = 3.0
"""Length of a stretch whose start is unknown, since no slice was marked as speech."""
CHUNK_S = 1.0
"""Speech that is encoded in one step."""
MAX_TOKENS = 32
"""Longest transcript; a sentence of the default corpus has up to 12 words."""

Transcribe = Callable[[Session, Tensor], Iterator[str]]
"""Session and samples (n,) -> the transcript so far, after each step of making it."""


class Stretch(NamedTuple):
    """A stretch of speech to the model, from its first slice to the decision about it."""

    start_slice: int
    end_slice: int
    """The slice of the decision."""
    answered: bool
    """Whether the decision was to respond."""


class StretchFinder:
    """Finds the stretches of speech in the events of one conversation.

    Args:
        slice_s: duration of a slice in seconds.
    """

    def __init__(self, slice_s: float):
        self._slice_s = slice_s
        self._start_slice: int | None = None
        self._num_speech_slices = 0

    def push(self, event: Event) -> Stretch | None:
        """Take the next event; returns the stretch that it ends, if any."""
        if event.state != "ignore":
            self._num_speech_slices += 1
            if self._start_slice is None and event.state == "incomplete":
                # Speech may begin late in a slice that was still classified as silence.
                self._start_slice = max(0, event.slice - 1)
        if event.action == "listen":
            return None
        stretch = self._finished(event)
        self._start_slice = None
        self._num_speech_slices = 0
        return stretch

    def _finished(self, event: Event) -> Stretch | None:
        answered = event.action == "respond"
        speech_s = self._num_speech_slices * self._slice_s
        # Rounding must not decide about a stretch of exactly the shortest length.
        if not answered and speech_s < MIN_UNANSWERED_S - self._slice_s / 2:
            return None
        start_slice = self._start_slice
        if start_slice is None:
            start_slice = max(0, event.slice - round(UNMARKED_S / self._slice_s))
        return Stretch(start_slice, event.slice, answered)


@torch.inference_mode()
def transcribe(session: Session, samples: Tensor) -> Iterator[str]:
    """Transcribe speech with the model of a session, whose state is neither used nor changed.

    Args:
        session: gives model, tokenizer and length of a slice.
        samples: (n,) in [-1, 1].

    Yields:
        The transcript so far, after each chunk of audio and each token.
    """
    model = session.model
    tokenizer = session.tokenizer
    speech: list[Padded] = []
    speech_state: SpeechState | None = None
    # Whole slices, as in the session: some encoders take no other chunks.
    chunk_samples = session.slice_samples * max(1, round(CHUNK_S / session.slice_s))
    chunks = samples.to(session.device).split(chunk_samples)
    for index, chunk in enumerate(chunks):
        is_last = index == len(chunks) - 1
        embedded = model.embed_speech(Padded(chunk[None]), speech_state, final=is_last)
        speech.append(embedded.embeddings)
        speech_state = embedded.state
        yield ""
    before = _ids(session, tokenizer.prompt_before_speech(TRANSCRIBE_INSTRUCTIONS[0]))
    after = _ids(session, tokenizer.prompt_after_speech("response"))
    logits, lm_state = model.prefill(before, join(speech), after)
    ids: list[int] = []
    while len(ids) < MAX_TOKENS:
        token = logits.argmax(-1)  # (1,)
        if int(token) == tokenizer.eos_id:
            break
        ids.append(int(token))
        yield tokenizer.decode(ids)
        logits, lm_state = decode_step(model.lm, token, lm_state)


def _ids(session: Session, ids: list[int]) -> Padded:
    """One row of token ids, (1, L)."""
    return Padded(torch.tensor([ids], device=session.device))


class Transcription:
    """A transcript in the making.

    Args:
        stretch: the stretch of speech.
        steps: yields the transcript so far.
    """

    def __init__(self, stretch: Stretch, steps: Iterator[str]):
        self.stretch = stretch
        self.text = ""
        self._steps = steps

    def advance(self) -> bool:
        """Do one step; returns whether the transcript is complete."""
        for text in self._steps:
            self.text = text
            return False
        return True
