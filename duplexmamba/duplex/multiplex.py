"""The baseline without a fork: time-division multiplexing, one sequence in which hearing and speaking take turns.

Behind every slice of speech and the end-of-speech marker the model writes what it has to say: the idle token, which is
nothing; or the response marker, with which an answer begins; or the next tokens of its answer, as many as are due.
Where none is due, it is one of the two markers. The end of an answer comes with its last token. Then it hears the next
slice.
Source: Beyond the Turn-Based Game, arXiv 2406.15718, whose slices are of seconds.
Glossary: n samples, V vocabulary.
"""

import dataclasses
import math
import time

import torch
from torch import Tensor

from duplexmamba.config import DuplexConfig
from duplexmamba.duplex.batching import Computation, EncodeRequest, run_single
from duplexmamba.duplex.policy import tokens_due
from duplexmamba.duplex.session import Event, Session, SessionState
from duplexmamba.models.lm import LMState
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.text.tokenizer import ANSWER, Tokenizer, TurnState

IDLE: TurnState = "ignore"
"""The state whose marker is the idle token. Nothing is to come of this slice: the stages upstream have taught the marker
so, and every tokenizer has it."""


@dataclasses.dataclass(frozen=True)
class Response:
    """An answer under way."""

    start_slice: int
    """Slice of the decision."""
    emitted: tuple[int, ...] = ()
    finished: bool = False

    def due(self, slice_: int, config: DuplexConfig) -> bool:
        """Whether a token is, in this slice."""
        return not self.finished and len(self.emitted) < tokens_due(
            slice_ - self.start_slice + 1, config
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiplexState(SessionState):
    """A whole conversation at one moment, as a value: keep it, copy it, go back to it."""

    lm_state: LMState
    unread_ids: tuple[int, ...] = ()
    """What was written last and is read together with the next slice."""
    response: Response | None = None
    slices_to_wait: int = 0
    """Slices of silence for which what was heard may still be answered."""

    @property
    def lm_states(self) -> tuple[LMState, ...]:
        return (self.lm_state,)


class MultiplexSession(Session[MultiplexState]):
    """Hears and speaks by turns. Arguments and errors are those of `Session`."""

    def __init__(
        self, model: SpeechLM, tokens: Tokenizer, duplex: DuplexConfig, instruction: str = ANSWER[0]
    ):
        super().__init__(model, tokens, duplex, instruction)
        self._begin_response = self._embed(
            tokens.after_speech("response")[len(tokens.end_of_speech()) :]
        )
        self._response, self._idle = tokens.turn_states["response"], tokens.turn_states[IDLE]
        self._markers = torch.tensor([self._response, self._idle], device=self.device)
        pending_samples = torch.zeros(0, device=self.device)
        self._state = MultiplexState(
            pending_samples=pending_samples,
            lm_state=run_single(model, self._after(self._prompt, None))[1],
        )

    @property
    def answering(self) -> bool:
        return self._state.response is not None

    @property
    def awaiting_response(self) -> bool:
        return self._state.slices_to_wait > 0

    def finish(self) -> str:
        """Hear silence until the answer under way is over, or another begins; returns the whole of it, or nothing where
        there is none. An answer that falls silent for as long as the longest takes is over."""
        text, longest_s = (
            self._text(self._state.response),
            self.duplex.max_tokens / self.duplex.tokens_per_s,
        )
        for _ in range(math.ceil(longest_s / self.slice_s) if self.answering else 0):
            [event] = self.push(torch.zeros(self.slice_samples))
            if event.action == "respond":
                break
            text += event.text
            if not event.answering:
                break
        self._state = dataclasses.replace(self._state, response=None)
        return text

    def process_slice(self, samples: Tensor) -> Computation[tuple[Event, MultiplexState]]:
        """One slice: hear it, and write what there is to say."""
        began_s, before = time.perf_counter(), self._state
        speech, speech_state = yield EncodeRequest(samples, before.speech_state)
        steps = torch.cat([self._embed(before.unread_ids), speech, self._end_of_speech])
        logits, lm_state = yield from self._after(steps, before.lm_state)
        due = before.response is not None and before.response.due(before.slices, self.duplex)
        chances = choices(logits, self._markers, due)
        probability = float(chances[self._response])
        responds = begins(probability, self.duplex)
        response, lm_state, unread_ids = yield from self._write(responds, chances, lm_state)
        under_way = None if response is None or response.finished else response
        now = MultiplexState(
            pending_samples=before.pending_samples, slices=before.slices + 1, speech_state=speech_state, lm_state=lm_state, unread_ids=unread_ids, response=under_way,
            slices_to_wait=self._patience(samples),
        )  # fmt: skip
        heard_of = None if responds else before.response
        event = Event(
            slice=before.slices,
            time_s=now.slices * self.slice_samples / self.rate_hz,
            probabilities={"response": probability, IDLE: 1 - probability},
            state="response" if responds else IDLE,
            action="respond" if responds else "listen",
            tokens=list(response.emitted[len(heard_of.emitted if heard_of else ()) :])
            if response
            else [],
            text=self._text(response)[len(self._text(heard_of)) :],
            answering=now.response is not None,
            compute_ms=1000 * (time.perf_counter() - began_s),
        )
        return event, now

    def _write(
        self, responds: bool, chances: Tensor, lm_state: LMState
    ) -> Computation[tuple[Response | None, LMState, tuple[int, ...]]]:
        """Behind the end-of-speech marker: the answer, the memory, and what is still to be read."""
        if responds:
            return (
                yield from self._emit_due(
                    Response(self._state.slices),
                    *(yield from self._after(self._begin_response, lm_state)),
                )
            )
        chances[self._response] = 0
        response = self._state.response
        if response is None or int(chances.argmax()) == self._idle:
            return response, lm_state, (self._idle,)
        return (yield from self._emit_due(response, chances, lm_state))

    def _emit_due(
        self, response: Response, logits: Tensor, lm_state: LMState
    ) -> Computation[tuple[Response, LMState, tuple[int, ...]]]:
        """The same, after all that is due."""
        while True:
            full = len(response.emitted) >= self.duplex.max_tokens
            next_token = self.tokens.end if full else int(logits.argmax())
            if next_token == self.tokens.end:
                return dataclasses.replace(response, finished=True), lm_state, (next_token,)
            if not response.due(self._state.slices, self.duplex):
                return response, lm_state, ()
            logits, lm_state = yield from self._after(self._embed([next_token]), lm_state)
            response = dataclasses.replace(response, emitted=(*response.emitted, next_token))

    def _patience(self, samples: Tensor) -> int:
        """Slices of silence for which an answer is waited for from now on."""
        longest = math.ceil(self.duplex.max_wait_s / self.slice_s)
        return longest if bool(samples.any()) else max(0, self._state.slices_to_wait - 1)

    def _text(self, response: Response | None) -> str:
        """What can be read of an answer."""
        return "" if response is None else self._readable(response.emitted, response.finished)


def choices(logits: Tensor, markers: Tensor, due: bool) -> Tensor:
    """Probabilities (V,) of what can come behind the end-of-speech marker, from logits (V,).

    Args:
        markers: (2,) ids of the response marker and of the idle token.
        due: a token of an answer is; if none is, only the markers can come.
    """
    logits = logits.float()
    if due:
        return logits.softmax(-1)
    return torch.full_like(logits, -math.inf).index_copy(0, markers, logits[markers]).softmax(-1)


def begins(probability: float, config: DuplexConfig) -> bool:
    """Whether an answer does, by the probability of the response marker."""
    return probability >= config.response_threshold
