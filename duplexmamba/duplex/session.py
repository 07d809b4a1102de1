"""Base class of live sessions: audio samples in, one event per slice out.

Glossary: n samples, L steps, D width of the language model, V vocabulary.
"""

import abc
import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from duplexmamba.config import DuplexConfig
from duplexmamba.duplex.batching import (
    Computation,
    StepRequest,
    StepResult,
    run_batched,
    run_single,
    step,
)
from duplexmamba.duplex.events import EmittedResponse as EmittedResponse
from duplexmamba.duplex.events import Event
from duplexmamba.duplex.events import emitted_responses as emitted_responses
from duplexmamba.duplex.samples import check_samples, replace_invalid
from duplexmamba.models.language_models import LMState
from duplexmamba.models.speech_lm import SpeechLM, SpeechState
from duplexmamba.models.timing import check_slices
from duplexmamba.streaming.state import num_bytes
from duplexmamba.text.tokenizer import ANSWER_INSTRUCTIONS, Tokenizer

REPLACEMENT_CHARACTER = "\ufffd"
"""Decoded in place of a character of which some bytes are in tokens not yet emitted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SessionState(abc.ABC):
    """Complete state of a session, as an immutable value."""

    pending_samples: Tensor
    """(n,) samples that do not fill a slice yet."""
    num_slices: int = 0
    """Slices processed so far."""
    speech_state: SpeechState | None = None
    """State of the speech encoder and the connector; None before the first slice."""
    num_invalid_samples: int = 0
    """NaN and infinite samples so far, which were replaced by zeros."""

    @property
    @abc.abstractmethod
    def lm_states(self) -> tuple[LMState, ...]:
        """State of the language model in each branch."""

    def num_bytes(self) -> int:
        """Bytes of all tensors; a state that two branches share counts once."""
        # By identity, since a fork shares its tensors with the branch that it comes from.
        distinct = {id(state): state for state in self.lm_states}
        return num_bytes((self.pending_samples, self.speech_state, *distinct.values()))


class ResponseInProgress(Protocol):
    """The part of a response in progress that all kinds of sessions share."""

    @property
    def emitted(self) -> tuple[int, ...]:
        """Ids emitted so far."""

    @property
    def finished(self) -> bool:
        """Whether the end-of-text token has been reached."""


StateT = TypeVar("StateT", bound=SessionState)


class Session(abc.ABC, Generic[StateT]):
    """A live conversation over one model.

    Sessions are cheap: many can share one model, and `copy.copy` of a session is independent of it.

    Args:
        model: in eval mode, on any device.
        tokenizer: the tokenizer of the model.
        duplex: slice length, pace and turn-taking thresholds.
        instruction: the instruction in the prompt.

    Raises:
        ValueError: the encoder cannot produce whole embeddings slice by slice, or the model is in
            training mode.
    """

    _state: StateT

    def __init__(
        self,
        model: SpeechLM,
        tokenizer: Tokenizer,
        duplex: DuplexConfig,
        instruction: str = ANSWER_INSTRUCTIONS[0],
    ):
        check_slices(model.config, duplex)
        if model.training:
            raise ValueError("the model is in training mode: call eval() before a session")
        self.model = model
        self.tokenizer = tokenizer
        self.duplex = duplex
        self.device = model.lm.embeddings.weight.device
        self.rate_hz = model.config.features.sample_rate_hz
        self.slice_s = self.duplex.slice_ms / 1000
        self.slice_samples = round(self.duplex.slice_ms * self.rate_hz / 1000)
        # (L, D) each: the same for every slice, so they are embedded once.
        self._prompt_embeddings = self._embed(tokenizer.prompt_before_speech(instruction))
        self._next_prompt_embeddings = self._embed(tokenizer.prompt_before_next_speech(instruction))
        self._end_of_speech_embeddings = self._embed(tokenizer.encode_end_of_speech())

    def snapshot(self) -> StateT:
        """Return the complete state; it costs a reference, since states are immutable."""
        return self._state

    def restore(self, snapshot: StateT) -> None:
        """Continue from a state that `snapshot` returned."""
        self._state = snapshot

    @property
    def num_invalid_samples(self) -> int:
        """NaN and infinite samples so far, which were replaced by zeros."""
        return self._state.num_invalid_samples

    @property
    @abc.abstractmethod
    def answering(self) -> bool:
        """Whether a response is in progress."""

    @property
    @abc.abstractmethod
    def awaiting_response(self) -> bool:
        """Whether the latest speech may still get a response."""

    @torch.inference_mode()
    def push(self, samples: Tensor) -> list[Event]:
        """Process audio samples.

        Args:
            samples: (n,) in [-1, 1], any number of them, of any floating-point dtype. NaN and
                infinite ones count as zeros (see `num_invalid_samples`).

        Returns:
            One event per slice that the samples complete.

        Raises:
            ValueError: the samples have another dtype or shape.
        """
        check_samples(samples)
        new_samples = samples.to(self.device, torch.float32)
        stream = torch.cat([self._state.pending_samples, new_samples])  # (n,)
        num_full_samples = len(stream) - len(stream) % self.slice_samples
        events = []
        for start in range(0, num_full_samples, self.slice_samples):
            slice_samples = stream[start : start + self.slice_samples]
            event, self._state = run_single(self.model, self.process_slice(slice_samples))
            events.append(event)
        # A clone, because a view would keep the memory of the whole stream alive.
        pending_samples = stream[num_full_samples:].clone()
        self._state = dataclasses.replace(self._state, pending_samples=pending_samples)
        return events

    def close(self) -> list[Event]:
        """Push silence until no response is in progress or expected; returns the events."""
        num_missing_samples = -len(self._state.pending_samples) % self.slice_samples
        events = self.push(torch.zeros(num_missing_samples))
        longest_response_s = self.duplex.max_tokens / self.duplex.tokens_per_s
        limit_s = self.duplex.max_wait_s + longest_response_s
        # The limit matters for models that never end a response.
        max_slices = math.ceil(limit_s * self.rate_hz / self.slice_samples)
        for _ in range(max_slices):
            if not self.answering and not self.awaiting_response:
                break
            events += self.push(torch.zeros(self.slice_samples))
        return events

    @abc.abstractmethod
    def finish(self) -> str:
        """Generate the rest of the response in progress without waiting for its pace.

        Returns:
            The whole text of the response; empty if no response is in progress.
        """

    def process_slice(self, samples: Tensor) -> Computation[tuple[Event, StateT]]:
        """Computation that processes (slice_samples,) samples.

        NaN and infinite samples are replaced by zeros, and the first ones cause a warning.

        Returns:
            The event of the slice and the state after it. The session itself does not change.

        Raises:
            ValueError: the samples have another dtype or shape.
        """
        check_samples(samples, self.slice_samples)
        valid_samples, num_invalid = replace_invalid(samples)
        if num_invalid and not self.num_invalid_samples:
            warnings.warn(
                "NaN or infinite samples were replaced by zeros; repair what records or decodes "
                "the audio (Session.num_invalid_samples counts them)",
                stacklevel=2,
            )
        return self._process_valid_slice(valid_samples, self.num_invalid_samples + num_invalid)

    def _process_valid_slice(
        self, samples: Tensor, num_invalid_samples: int
    ) -> Computation[tuple[Event, StateT]]:
        """Process a slice and put the number of invalid samples so far into the state after it."""
        event, state = yield from self._process(samples)
        return event, dataclasses.replace(state, num_invalid_samples=num_invalid_samples)

    @abc.abstractmethod
    def _process(self, samples: Tensor) -> Computation[tuple[Event, StateT]]:
        """Computation that processes (slice_samples,) valid samples; see `process_slice`."""

    def _initial_lm_state(self) -> LMState:
        """State of the language model after the prompt."""
        return run_single(self.model, self._step(self._prompt_embeddings, None)).lm_state

    def _step(self, embeddings: Tensor, lm_state: LMState | None) -> Computation[StepResult]:
        """Step one branch over (L, D) input embeddings."""
        [result] = yield from step([StepRequest(embeddings, lm_state)])
        return result

    def _embed(self, ids: Sequence[int]) -> Tensor:
        """(L,) ids -> (L, D)."""
        id_tensor = torch.tensor(ids, dtype=torch.int64, device=self.device)
        return self.model.lm.embed(id_tensor).detach()

    def _text(self, response: ResponseInProgress | None) -> str:
        """Readable text of a response, without a partly emitted character at its end."""
        if response is None:
            return ""
        text = self.tokenizer.decode(list(response.emitted))
        if response.finished:
            return text
        # The stripped end is decoded again with the next token, so no text is lost.
        return text.rstrip(REPLACEMENT_CHARACTER + " ")

    def _new_tokens(
        self, response: ResponseInProgress | None, previous: ResponseInProgress | None
    ) -> list[int]:
        """Ids of a response that an earlier state of it, or None, does not contain."""
        if response is None:
            return []
        num_previous = 0 if previous is None else len(previous.emitted)
        return list(response.emitted[num_previous:])

    def _new_text(
        self, response: ResponseInProgress | None, previous: ResponseInProgress | None
    ) -> str:
        """Text of a response that an earlier state of it, or None, does not contain."""
        num_previous = len(self._text(previous))
        return self._text(response)[num_previous:]


@torch.inference_mode()
def push_batched(sessions: Sequence[Session], slices: Sequence[Tensor]) -> list[Event]:
    """Process one slice of each session in shared batches.

    The result equals `push` on each session up to rounding. If an error is raised, no session has
    changed.

    Args:
        sessions: sessions over one model that hold no pending samples.
        slices: (slice_samples,) samples for each session; see `Session.push`.

    Returns:
        One event per session.

    Raises:
        ValueError: samples have another dtype or shape.
    """
    computations = []
    for session, samples in zip(sessions, slices, strict=True):
        check_samples(samples, session.slice_samples)
        slice_samples = samples.to(session.device, torch.float32)
        computations.append(session.process_slice(slice_samples))
    if not sessions:
        return []
    results = run_batched(sessions[0].model, computations)
    # Only now, so that an error in one session leaves all of them unchanged.
    for session, (_, state) in zip(sessions, results, strict=True):
        session.restore(state)
    return [event for event, _ in results]


def run_sessions(sessions: Sequence[Session], signals: Sequence[Tensor]) -> list[list[Event]]:
    """Run new sessions over whole signals in shared batches.

    Args:
        sessions: new sessions over one model.
        signals: (n,) samples for each session; samples after the last whole slice are dropped.

    Returns:
        The events of each session.
    """
    events: list[list[Event]] = [[] for _ in sessions]
    num_samples = sessions[0].slice_samples
    longest = max(len(signal) for signal in signals)
    for end in range(num_samples, longest + 1, num_samples):
        start = end - num_samples
        # Sessions whose signal has ended leave the batch.
        active = [index for index, signal in enumerate(signals) if len(signal) >= end]
        active_sessions = [sessions[index] for index in active]
        slices = [signals[index][start:end] for index in active]
        new_events = push_batched(active_sessions, slices)
        for index, event in zip(active, new_events, strict=True):
            events[index].append(event)
    return events
