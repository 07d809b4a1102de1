"""What every kind of live session has in common: samples in, slice by slice, and events out.

Glossary: n samples, L steps, D width of the language model, V vocabulary.
"""

import abc
import dataclasses
import math
from collections.abc import Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from duplexmamba.config import DuplexConfig
from duplexmamba.duplex.batching import Computation, run_batched, run_single
from duplexmamba.duplex.policy import Action
from duplexmamba.models.lm import LMState
from duplexmamba.models.speech_lm import SpeechLM, SpeechState
from duplexmamba.models.timing import check_slices
from duplexmamba.text.tokenizer import ANSWER, Tokenizer, TurnState

UNFINISHED = "\ufffd"
"""What a character decodes to of which some bytes are still to come."""


@dataclasses.dataclass(frozen=True)
class Event:
    """What happened in one slice."""

    slice: int
    time_s: float
    """Where the slice ends in the stream."""
    probabilities: dict[TurnState, float]
    """Of the states that the session tells apart, asked after this slice."""
    state: TurnState
    action: Action
    tokens: list[int]
    """Those of the answer that came out."""
    text: str
    """The same as text; " " begins a new word."""
    answering: bool
    """The answer goes on after this slice."""
    compute_ms: float


@dataclasses.dataclass(frozen=True)
class EmittedResponse:
    """An answer as it was heard."""

    start_slice: int
    """Slice of the decision."""
    stop_slice: int
    """Slice of its last token, or of the decision that cut it off."""
    text: str
    complete: bool
    """It was neither cut off nor is it still going on."""


def emitted_responses(events: Sequence[Event]) -> list[EmittedResponse]:
    """The answers of a session, by time."""
    found: list[EmittedResponse] = []
    for event in events:
        if event.action == "respond":
            if found and not found[-1].complete:
                found[-1] = dataclasses.replace(found[-1], stop_slice=event.slice)
            found.append(EmittedResponse(event.slice, event.slice, event.text, not event.answering))
        elif found and not found[-1].complete:
            text = found[-1].text + event.text
            found[-1] = EmittedResponse(
                found[-1].start_slice, event.slice, text, not event.answering
            )
    return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class SessionState(abc.ABC):
    """A whole conversation at one moment, as a value."""

    pending_samples: Tensor
    """(n,) samples of a slice that is not full yet."""
    slices: int = 0
    speech_state: SpeechState | None = None

    @property
    @abc.abstractmethod
    def lm_states(self) -> tuple[LMState, ...]:
        """The language model's, one of each branch."""


Now = TypeVar("Now", bound=SessionState)


class Session(abc.ABC, Generic[Now]):
    """A live conversation.

    Args:
        model: in eval mode, on any device.
        duplex: when to answer.
        instruction: what the model is told to do with what it hears.

    Raises:
        ValueError: the encoder cannot give whole embeddings slice by slice, or the model is in training mode.
    """

    _state: Now

    def __init__(
        self, model: SpeechLM, tokens: Tokenizer, duplex: DuplexConfig, instruction: str = ANSWER[0]
    ):
        check_slices(model.config, duplex)
        if model.training:
            raise ValueError("the model is in training mode: call eval() before a session")
        self.model, self.tokens, self.duplex = model, tokens, duplex
        self.device = model.lm.embeddings.weight.device
        self.rate_hz = model.config.features.sample_rate_hz
        self.slice_s = self.duplex.slice_ms / 1000
        self.slice_samples = round(self.duplex.slice_ms * self.rate_hz / 1000)
        self._prompt = self._embed(tokens.before_speech(instruction))
        self._end_of_speech = self._embed(tokens.end_of_speech())

    def snapshot(self) -> Now:
        """Everything, at the cost of a reference."""
        return self._state

    def restore(self, snapshot: Now) -> None:
        """Go on from there."""
        self._state = snapshot

    @property
    @abc.abstractmethod
    def answering(self) -> bool:
        """Whether an answer is under way."""

    @property
    @abc.abstractmethod
    def awaiting_response(self) -> bool:
        """Whether what was heard may still be answered."""

    @torch.inference_mode()
    def push(self, samples: Tensor) -> list[Event]:
        """Hear (n,) samples in [-1, 1], any number of them; one event for every slice that they fill."""
        pending_samples = torch.cat(
            [self._state.pending_samples, samples.to(self.device, torch.float32)]
        )
        size, full = (
            self.slice_samples,
            len(pending_samples) - len(pending_samples) % self.slice_samples,
        )
        events = []
        for begin in range(0, full, size):
            event, self._state = run_single(
                self.model, self.process_slice(pending_samples[begin : begin + size])
            )
            events.append(event)
        self._state = dataclasses.replace(
            self._state, pending_samples=pending_samples[full:].clone()
        )  # a view would keep all of it
        return events

    def close(self) -> list[Event]:
        """Hear silence until what is being said and what waits for an answer is over."""
        spare_s = self.duplex.max_wait_s + self.duplex.max_tokens / self.duplex.tokens_per_s
        events = self.push(torch.zeros(-len(self._state.pending_samples) % self.slice_samples))
        for _ in range(math.ceil(spare_s * self.rate_hz / self.slice_samples)):
            if not self.answering and not self.awaiting_response:
                break
            events += self.push(torch.zeros(self.slice_samples))
        return events

    @abc.abstractmethod
    def finish(self) -> str:
        """Say the answer under way to its end, at once; returns the whole of it, or nothing where there is none."""

    @abc.abstractmethod
    def process_slice(self, samples: Tensor) -> Computation[tuple[Event, Now]]:
        """One slice: what happens, and the conversation behind it. The session stays where it is."""

    def _readable(self, emitted: Sequence[int], finished: bool) -> str:
        """What can be read of an answer."""
        text = self.tokens.decode(list(emitted))
        return text if finished else text.rstrip(UNFINISHED + " ")

    def _after(
        self, steps: Tensor, lm_state: LMState | None
    ) -> Computation[tuple[Tensor, LMState]]:
        """Logits and state behind (L, D) steps of one branch."""
        [behind] = yield [(steps, lm_state)]
        return behind

    def _embed(self, ids: Sequence[int]) -> Tensor:
        """(L,) ids -> (L, D)."""
        return self.model.lm.embed(
            torch.tensor(ids, dtype=torch.int64, device=self.device)
        ).detach()


@torch.inference_mode()
def push_batched(sessions: Sequence[Session], slices: Sequence[Tensor]) -> list[Event]:
    """Let sessions of one model hear a slice each, in common batches: the same as `push` of each with its own.

    Args:
        slices: (slice_samples,) of each session, all of whose samples so far were whole slices.

    If it raises, all sessions are where they were.
    """
    heard = [
        samples.to(session.device, torch.float32)
        for session, samples in zip(sessions, slices, strict=True)
    ]
    assert all(
        len(samples) == session.slice_samples
        for session, samples in zip(sessions, heard, strict=True)
    )
    computations = [
        session.process_slice(samples) for session, samples in zip(sessions, heard, strict=True)
    ]
    happened = run_batched(sessions[0].model, computations) if sessions else []
    for session, (_, after) in zip(sessions, happened, strict=True):
        session.restore(after)
    return [event for event, _ in happened]


def run_sessions(sessions: Sequence[Session], signals: Sequence[Tensor]) -> list[list[Event]]:
    """Let new sessions of one model hear a (n,) signal each, in common batches: the same as `push` of each, but that
    what fills no slice is dropped."""
    events: list[list[Event]] = [[] for _ in sessions]
    size = sessions[0].slice_samples
    for end in range(size, max(map(len, signals)) + 1, size):
        hearing = [i for i, signal in enumerate(signals) if len(signal) >= end]
        happened = push_batched(
            [sessions[i] for i in hearing], [signals[i][end - size : end] for i in hearing]
        )
        for i, event in zip(hearing, happened, strict=True):
            events[i].append(event)
    return events
