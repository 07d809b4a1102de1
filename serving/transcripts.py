"""What the model has heard: stretches of speech in a conversation, and their transcripts.

A transcript is for the user's eyes only: the conversation itself does not depend on it. It is made
in short steps, between which slices are processed: after the decision about a stretch of speech,
and for clients that show live text also every `LIVE_S` of the speech.
"""

import functools
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from duplexmamba.duplex.events import Event
from duplexmamba.duplex.session import Session
from duplexmamba.models.language_models import LMState
from duplexmamba.models.speech_lm import SpeechState
from duplexmamba.streaming.padded import Padded, join
from duplexmamba.text.decoding import decode_step
from duplexmamba.text.tokenizer import TRANSCRIBE_INSTRUCTIONS

MIN_UNANSWERED_S = 0.6
"""A stretch without an answer is reported if the model took so much of it for speech to itself."""
UNMARKED_S = 3.0
"""Length of a stretch whose start is unknown, since no slice was marked as speech."""
CHUNK_S = 0.4
"""Speech that is encoded in one step, for which a slice may have to wait."""
LIVE_S = 0.6
"""New speech after which the live text is renewed."""
MAX_TOKENS = 32
"""Longest transcript; a sentence of the default corpus has up to 12 words."""
LIVE_TOKENS_PER_S = 6.0
"""Live text with more tokens for its duration is not shown: on part of a sentence, a model may repeat
words without end."""


class Steps(Protocol):
    """What `Transcription` needs of a `Transcriber`."""

    def steps(self, samples: Tensor, final: bool) -> Iterator[str]:
        """See `Transcriber.steps`."""
        ...


Transcribe = Callable[[Session, float], Steps]
"""Arguments of a `Transcriber` -> one for a stretch of speech."""


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

    @property
    def start_slice(self) -> int | None:
        """First slice of the stretch in progress; None while it may still be too short to report."""
        return self._start_slice if self._is_long else None

    def push(self, event: Event) -> Stretch | None:
        """Take the next event; returns the stretch that it ends, if any."""
        if event.state != "ignore":
            self._num_speech_slices += 1
            if self._start_slice is None and event.state == "incomplete":
                # Speech may begin late in a slice that was still classified as silence.
                self._start_slice = max(0, event.slice - 1)
        if event.action == "listen":
            return None
        stretch = self._finished_stretch(event)
        self._start_slice = None
        self._num_speech_slices = 0
        return stretch

    @property
    def _is_long(self) -> bool:
        speech_s = self._num_speech_slices * self._slice_s
        # Rounding must not decide about a stretch of exactly the shortest length.
        return speech_s >= MIN_UNANSWERED_S - self._slice_s / 2

    def _finished_stretch(self, event: Event) -> Stretch | None:
        answered = event.action == "respond"
        if not answered and not self._is_long:
            return None
        start_slice = self._start_slice
        if start_slice is None:
            start_slice = max(0, event.slice - round(UNMARKED_S / self._slice_s))
        return Stretch(start_slice, event.slice, answered)


class Transcriber:
    """Transcribes a stretch of speech, also while it goes on.

    It uses the model of a session, whose state is neither used nor changed.

    Args:
        session: gives model, tokenizer and length of a slice.
        max_speech_s: longest speech that is transcribed; of longer speech its end.
    """

    def __init__(self, session: Session, max_speech_s: float):
        self._session = session
        self._max_samples = round(max_speech_s * session.rate_hz)
        self._speech: deque[tuple[int, Padded]] = deque()
        """Number of samples and embeddings (1, S, E) of each chunk."""
        self._state: SpeechState | None = None

    def steps(self, samples: Tensor, final: bool) -> Iterator[str]:
        """Transcribe all speech so far; a step encodes a chunk of new audio or makes a token.

        Args:
            samples: (n,) in [-1, 1], which follow those of the previous call; whole slices, except
                at the end.
            final: the speech ends with them.

        Yields:
            After each step the empty string; at last the transcript, empty if there is none to show.
        """
        session = self._session
        # Whole slices, as in the session: some encoders take no other chunks.
        chunk_samples = session.slice_samples * max(1, round(CHUNK_S / session.slice_s))
        chunks = samples.to(session.device).split(chunk_samples)
        for index, chunk in enumerate(chunks):
            self._encode(chunk, final and index == len(chunks) - 1)
            yield ""
        tokenizer = session.tokenizer
        logits, lm_state = self._prefill()
        max_tokens = MAX_TOKENS if final else self._max_live_tokens()
        ids: list[int] = []
        while len(ids) < max_tokens:
            token = logits.argmax(-1)  # (1,)
            if int(token) == tokenizer.eos_id:
                break
            ids.append(int(token))
            yield ""
            logits, lm_state = _decode(session, token, lm_state)
        if final or len(ids) < max_tokens:
            yield tokenizer.decode(ids)

    def _max_live_tokens(self) -> int:
        num_samples = sum(num_samples for num_samples, _ in self._speech)
        speech_s = num_samples / self._session.rate_hz
        return min(MAX_TOKENS, 2 + round(LIVE_TOKENS_PER_S * speech_s))

    @torch.inference_mode()
    def _encode(self, chunk: Tensor, final: bool) -> None:
        embedded = self._session.model.embed_speech(Padded(chunk[None]), self._state, final)
        self._state = embedded.state
        self._speech.append((len(chunk), embedded.embeddings))
        while sum(num_samples for num_samples, _ in self._speech) > self._max_samples:
            self._speech.popleft()

    @torch.inference_mode()
    def _prefill(self) -> tuple[Tensor, LMState]:
        """(1, V) logits of the first token, and the state of the language model before it."""
        session = self._session
        tokenizer = session.tokenizer
        before = _ids(session, tokenizer.prompt_before_speech(TRANSCRIBE_INSTRUCTIONS[0]))
        after = _ids(session, tokenizer.prompt_after_speech("response"))
        speech = join([embeddings for _, embeddings in self._speech])
        return session.model.prefill(before, speech, after)


@torch.inference_mode()
def _decode(session: Session, token: Tensor, lm_state: LMState) -> tuple[Tensor, LMState]:
    return decode_step(session.model.lm, token, lm_state)


def _ids(session: Session, ids: list[int]) -> Padded:
    """One row of token ids, (1, L)."""
    return Padded(torch.tensor([ids], device=session.device))


class Transcription:
    """A transcript in the making, in rounds: each transcribes all speech so far.

    Args:
        transcriber: makes it.
        start_slice: first slice of the speech.
        round_slices: number of new slices that make another round worth while.
    """

    def __init__(self, transcriber: Steps, start_slice: int, round_slices: int):
        self.start_slice = start_slice
        self.text = ""
        """Transcript of the latest round."""
        self.stretch: Stretch | None = None
        """Set by the decision, after which there is one more round."""
        self.complete = False
        self._transcriber = transcriber
        self._round_slices = round_slices
        self._waiting: list[Tensor] = []
        self._steps: Iterator[str] | None = None
        self._is_last_round = False

    def push(self, samples: Tensor) -> None:
        """Append (slice_samples,) samples of the speech."""
        self._waiting.append(samples)

    @property
    def has_work(self) -> bool:
        """Whether a step can be done now."""
        if self._steps is not None or self.stretch is not None:
            return True
        return len(self._waiting) >= self._round_slices

    def next_step(self) -> Callable[[], bool]:
        """A function that does the next step and returns whether it ended a round.

        It may run in another thread, beside `push`.
        """
        if self._steps is None:
            self._is_last_round = self.stretch is not None
            samples = torch.cat(self._waiting)
            self._waiting = []
            self._steps = self._transcriber.steps(samples, self._is_last_round)
        return functools.partial(self._advance, self._steps)

    def give_up(self) -> bool:
        """End a round that has failed; returns whether that ends the transcript."""
        self._steps = None
        self.complete = self._is_last_round
        return self.complete

    def _advance(self, steps: Iterator[str]) -> bool:
        for text in steps:
            # Until the text of this round is complete, that of the round before is the best one.
            self.text = text or self.text
            return False
        self._steps = None
        self.complete = self._is_last_round
        return True
