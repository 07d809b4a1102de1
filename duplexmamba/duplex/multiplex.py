"""Baseline session without a fork: time-division multiplexing of one sequence.

After the speech embeddings of every slice and the end-of-speech marker, the model writes one of:
the idle token, if there is nothing to say; the response marker, which starts a response; or the
next tokens of the response, as many as are due. If no token is due, only the two markers are
possible. The end-of-text token follows the last token of a response at once. Then the next slice is
processed.
Source: Beyond the Turn-Based Game, arXiv 2406.15718, which uses slices of seconds.
Glossary: n samples, V vocabulary.
"""

import dataclasses
import math
import time

import torch
from torch import Tensor

from duplexmamba.config import DuplexConfig
from duplexmamba.duplex.batching import Computation, EncodeRequest, encode
from duplexmamba.duplex.events import Event
from duplexmamba.duplex.policy import tokens_due
from duplexmamba.duplex.session import Session, SessionState
from duplexmamba.models.language_models import LMState
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.text.tokenizer import ANSWER_INSTRUCTIONS, Tokenizer, TurnState

IDLE: TurnState = "ignore"
"""Turn state whose marker is the idle token. Every tokenizer has this marker, and the prerequisite
stages have trained it to mean that a slice needs no response."""


@dataclasses.dataclass(frozen=True)
class Response:
    """A response in progress."""

    start_slice: int
    """Slice of the decision to respond."""
    emitted: tuple[int, ...] = ()
    finished: bool = False
    """Whether the end-of-text token has been reached."""

    def is_token_due(self, slice_index: int, config: DuplexConfig) -> bool:
        """Whether another token is emitted in a slice."""
        num_due = tokens_due(slice_index - self.start_slice + 1, config)
        return not self.finished and len(self.emitted) < num_due


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiplexState(SessionState):
    """Complete state of a `MultiplexSession`, as an immutable value."""

    lm_state: LMState
    """After all of the sequence except `unread_ids`."""
    unread_ids: tuple[int, ...] = ()
    """Ids written last, which the model processes together with the next slice."""
    response: Response | None = None
    num_wait_slices: int = 0
    """Slices of silence in which the latest speech may still get a response."""

    @property
    def lm_states(self) -> tuple[LMState, ...]:
        """The state of the only branch."""
        return (self.lm_state,)


@dataclasses.dataclass(frozen=True)
class _Written:
    """Result of the writing part of a slice."""

    response: Response | None
    lm_state: LMState
    unread_ids: tuple[int, ...]


class MultiplexSession(Session[MultiplexState]):
    """Session that alternates listening and responding. Arguments and errors as in `Session`."""

    def __init__(
        self,
        model: SpeechLM,
        tokenizer: Tokenizer,
        duplex: DuplexConfig,
        instruction: str = ANSWER_INSTRUCTIONS[0],
    ):
        super().__init__(model, tokenizer, duplex, instruction)
        # The end-of-speech marker has been processed with the slice already.
        num_marker_ids = len(tokenizer.encode_end_of_speech())
        response_prompt = tokenizer.prompt_after_speech("response")[num_marker_ids:]
        self._response_prompt_embeddings = self._embed(response_prompt)
        self._response_id = tokenizer.turn_state_ids["response"]
        self._idle_id = tokenizer.turn_state_ids[IDLE]
        self._marker_ids = torch.tensor([self._response_id, self._idle_id], device=self.device)
        self._state = MultiplexState(
            pending_samples=torch.zeros(0, device=self.device),
            lm_state=self._initial_lm_state(),
        )

    @property
    def answering(self) -> bool:
        """Whether a response is in progress."""
        return self._state.response is not None

    @property
    def awaiting_response(self) -> bool:
        """Whether `max_wait_s` of silence have not passed since the last sound."""
        return self._state.num_wait_slices > 0

    def finish(self) -> str:
        """Push silence until the response in progress ends or another starts.

        A response that stays silent for the duration of the longest possible response is over.

        Returns:
            The whole text of the response; empty if no response is in progress.
        """
        if not self.answering:
            return ""
        text = self._text(self._state.response)
        longest_s = self.duplex.max_tokens / self.duplex.tokens_per_s
        for _ in range(math.ceil(longest_s / self.slice_s)):
            [event] = self.push(torch.zeros(self.slice_samples))
            if event.action == "respond":
                break
            text += event.text
            if not event.answering:
                break
        self._state = dataclasses.replace(self._state, response=None)
        return text

    def _process(self, samples: Tensor) -> Computation[tuple[Event, MultiplexState]]:
        """Computation that processes one slice; see `Session.process_slice`."""
        start_s = time.perf_counter()
        before = self._state
        encoded = yield from encode(EncodeRequest(samples, before.speech_state))
        unread = self._embed(before.unread_ids)
        inputs = torch.cat([unread, encoded.embeddings, self._end_of_speech_embeddings])  # (L, D)
        speech_result = yield from self._step(inputs, before.lm_state)
        token_due = before.response is not None and before.response.is_token_due(
            before.num_slices, self.duplex
        )
        probabilities = choice_probabilities(speech_result.logits, self._marker_ids, token_due)
        response_probability = float(probabilities[self._response_id])
        responds = starts_response(response_probability, self.duplex)
        if responds:
            written = yield from self._write_start(speech_result.lm_state)
        else:
            written = yield from self._write_next(probabilities, speech_result.lm_state)
        response = written.response
        in_progress = response is not None and not response.finished
        after = MultiplexState(
            pending_samples=before.pending_samples,
            num_slices=before.num_slices + 1,
            speech_state=encoded.speech_state,
            lm_state=written.lm_state,
            unread_ids=written.unread_ids,
            response=response if in_progress else None,
            num_wait_slices=self._num_wait_slices(samples),
        )
        # A new response shares no tokens with the interrupted one.
        previous = None if responds else before.response
        event = Event(
            slice=before.num_slices,
            time_s=after.num_slices * self.slice_samples / self.rate_hz,
            probabilities={"response": response_probability, IDLE: 1 - response_probability},
            state="response" if responds else IDLE,
            action="respond" if responds else "listen",
            tokens=self._new_tokens(response, previous),
            text=self._new_text(response, previous),
            answering=after.response is not None,
            compute_ms=1000 * (time.perf_counter() - start_s),
        )
        return event, after

    def _write_start(self, lm_state: LMState) -> Computation[_Written]:
        """Write the response marker and the first tokens of a new response."""
        prompted = yield from self._step(self._response_prompt_embeddings, lm_state)
        response = Response(self._state.num_slices)
        # The first token of a response is due in the slice of the decision.
        written = yield from self._write_due(response, prompted.logits, prompted.lm_state)
        return written

    def _write_next(self, probabilities: Tensor, lm_state: LMState) -> Computation[_Written]:
        """Write the idle token or the tokens of the response that are due."""
        response = self._state.response
        scores = probabilities.clone()
        scores[self._response_id] = 0  # below the threshold it is not chosen, even if likeliest
        if response is None or int(scores.argmax()) == self._idle_id:
            # An idle token during a response lets it fall silent; it may continue later.
            return _Written(response, lm_state, (self._idle_id,))
        written = yield from self._write_due(response, scores, lm_state)
        return written

    def _write_due(
        self, response: Response, scores: Tensor, lm_state: LMState
    ) -> Computation[_Written]:
        """Write the tokens of a response that are due; the first is the argmax of (V,) scores."""
        while True:
            if len(response.emitted) < self.duplex.max_tokens:
                next_token = int(scores.argmax())
            else:
                next_token = self.tokenizer.eos_id
            if next_token == self.tokenizer.eos_id:
                # The model processes this id with the next slice, as `unread_ids`.
                finished = dataclasses.replace(response, finished=True)
                return _Written(finished, lm_state, (next_token,))
            # The check follows the one for the end of text, which is never delayed.
            if not response.is_token_due(self._state.num_slices, self.duplex):
                return _Written(response, lm_state, ())
            result = yield from self._step(self._embed([next_token]), lm_state)
            scores = result.logits
            lm_state = result.lm_state
            response = dataclasses.replace(response, emitted=(*response.emitted, next_token))

    def _num_wait_slices(self, samples: Tensor) -> int:
        """Slices of silence in which a response may still start, after a slice of samples."""
        # Exact zeros are the silence that `close` and `finish` push.
        if bool(samples.any()):
            return math.ceil(self.duplex.max_wait_s / self.slice_s)
        return max(0, self._state.num_wait_slices - 1)


def choice_probabilities(logits: Tensor, marker_ids: Tensor, token_due: bool) -> Tensor:
    """Probabilities of what the model may write after the end-of-speech marker.

    Args:
        logits: (V,)
        marker_ids: (2,) ids of the response marker and of the idle token.
        token_due: whether a token of a response is due; if not, only the markers are possible.

    Returns:
        (V,) probabilities.
    """
    logits = logits.float()
    if token_due:
        return logits.softmax(-1)
    # All ids but the two markers get probability 0.
    masked = torch.full_like(logits, -math.inf)
    masked = masked.index_copy(0, marker_ids, logits[marker_ids])
    return masked.softmax(-1)


def starts_response(probability: float, config: DuplexConfig) -> bool:
    """Whether a response starts, from the probability of the response marker."""
    return probability >= config.response_threshold
