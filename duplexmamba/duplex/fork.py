"""A live conversation: samples in, decisions and answers out, slice by slice.

One model, two branches: one answers, the other listens. The listening branch is forked from the answering one, or from
where the conversation rests, whenever there is none; what it is asked after each slice leaves no trace in it.
Glossary: n samples, L steps, D width of the language model, V vocabulary.
"""

import dataclasses
import math
import time

import torch
from torch import Tensor

from duplexmamba.config import DuplexConfig
from duplexmamba.duplex.batching import Branch, Computation, EncodeRequest, run_single
from duplexmamba.duplex.policy import Action, BranchCounters, classify_state, decide, tokens_due
from duplexmamba.duplex.session import Event, Session, SessionState
from duplexmamba.models.lm import LMState
from duplexmamba.models.speech_lm import SpeechLM, SpeechState
from duplexmamba.text.tokenizer import ANSWER, TURN_STATES, Tokenizer, TurnState

SILENT_DB = -100.0
"""Level of a slice without any sound."""


@dataclasses.dataclass(frozen=True)
class Response:
    """An answer under way."""

    lm_state: LMState
    """After all that was said."""
    next_token: int | None
    """The token to be said next; None: the answer is over."""
    start_slice: int
    """Slice of the decision."""
    emitted: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class ListeningBranch:
    """A listening branch."""

    lm_state: LMState
    counters: BranchCounters = BranchCounters()
    loudest_db: float = SILENT_DB
    """Of the slices that it has heard."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForkState(SessionState):
    """A whole conversation at one moment, as a value: keep it, copy it, go back to it."""

    idle_state: LMState
    """Where a listening branch is forked while nothing is being answered: behind its prompt."""
    listening: ListeningBranch | None = None
    response: Response | None = None

    @property
    def lm_states(self) -> tuple[LMState, ...]:
        branches = [
            branch.lm_state for branch in (self.listening, self.response) if branch is not None
        ]
        return self.idle_state, *branches


class ForkSession(Session[ForkState]):
    """Listens while it answers. Arguments and errors are those of `Session`."""

    def __init__(
        self, model: SpeechLM, tokens: Tokenizer, duplex: DuplexConfig, instruction: str = ANSWER[0]
    ):
        super().__init__(model, tokens, duplex, instruction)
        self._response_prompt = self._embed(tokens.after_speech("response"))
        self._states = torch.tensor(
            [tokens.turn_states[state] for state in TURN_STATES], device=self.device
        )
        pending_samples = torch.zeros(0, device=self.device)
        self._state = ForkState(
            pending_samples=pending_samples,
            idle_state=run_single(model, self._after(self._prompt, None))[1],
        )

    @property
    def answering(self) -> bool:
        return self._state.response is not None

    @property
    def awaiting_response(self) -> bool:
        """Whether the listening branch has heard anything but what is to be ignored."""
        listening = self._state.listening
        return listening is not None and listening.counters.ignored < listening.counters.heard

    @torch.inference_mode()
    def finish(self) -> str:
        response = self._state.response
        if response is None:
            return ""
        while response.next_token is not None:
            response = self._emit(
                response, *run_single(self.model, self._after(*self._next(response)))
            )
        self._state = run_single(self.model, self._finish(self._state, response))
        return self._text(response)

    def process_slice(self, samples: Tensor) -> Computation[tuple[Event, ForkState]]:
        """One slice: hear it, ask what it is, decide, say what is due."""
        began_s, before = time.perf_counter(), self._state
        speech, speech_state = yield EncodeRequest(samples, before.speech_state)
        listening = before.listening or (yield from self._fork())
        _, lm_state, response = yield from self._step_both(
            speech, listening.lm_state, before.response
        )
        logits, _, response = yield from self._step_both(self._end_of_speech, lm_state, response)
        probabilities = dict(
            zip(TURN_STATES, logits[self._states].float().softmax(-1).tolist(), strict=True)
        )
        state = classify_state(probabilities, self.duplex)
        action, listening = self._decide(
            state, samples, dataclasses.replace(listening, lm_state=lm_state)
        )
        if action == "respond":
            response = yield from self._begin_response(lm_state)
        if response is not None:
            response = yield from self._emit_due(response)
        now = yield from self._next_state(
            speech_state, listening if action == "listen" else None, response
        )
        heard_of = None if action == "respond" else before.response
        event = Event(
            slice=before.slices,
            time_s=now.slices * self.slice_samples / self.rate_hz,
            probabilities=probabilities,
            state=state,
            action=action,
            tokens=list(response.emitted[len(heard_of.emitted if heard_of else ()) :])
            if response
            else [],
            text=self._text(response)[len(self._text(heard_of)) :],
            answering=now.response is not None,
            compute_ms=1000 * (time.perf_counter() - began_s),
        )
        return event, now

    def _fork(self) -> Computation[ListeningBranch]:
        """A new listening branch."""
        response = self._state.response
        if response is None:
            return ListeningBranch(self._state.idle_state)
        _, lm_state = yield from self._after(self._prompt, response.lm_state)
        return ListeningBranch(lm_state)

    def _step_both(
        self, steps: Tensor, lm_state: LMState, response: Response | None
    ) -> Computation[tuple[Tensor, LMState, Response | None]]:
        """The listening branch by (L, D) steps, and in the same batch the answer by a token, if one is due.

        Returns:
            Logits (V,) and memory of the listening branch, and the answer.
        """
        if response is None or not self._due(response):
            return *(yield from self._after(steps, lm_state)), response
        (logits, lm_state), after = yield [(steps, lm_state), self._next(response)]
        return logits, lm_state, self._emit(response, *after)

    def _decide(
        self, state: TurnState, samples: Tensor, listening: ListeningBranch
    ) -> tuple[Action, ListeningBranch]:
        """What to do after a slice, and what is known of the branch that has heard it."""
        level_db = _level_db(samples)
        loudest_db = max(listening.loudest_db, level_db)
        quiet = level_db < loudest_db + self.duplex.silence_db
        action, counters = decide(state, quiet, listening.counters, self.duplex)
        return action, ListeningBranch(listening.lm_state, counters, loudest_db)

    def _next_state(
        self,
        speech_state: SpeechState,
        listening: ListeningBranch | None,
        response: Response | None,
    ) -> Computation[ForkState]:
        """The conversation behind a slice."""
        now = dataclasses.replace(
            self._state,
            slices=self._state.slices + 1,
            speech_state=speech_state,
            listening=listening,
            response=response,
        )
        return (
            now
            if response is None or response.next_token is not None
            else (yield from self._finish(now, response))
        )

    def _finish(self, now: ForkState, response: Response) -> Computation[ForkState]:
        """The conversation at rest, behind the whole of an answer."""
        _, idle_state = yield from self._after(self._prompt, response.lm_state)
        return dataclasses.replace(now, response=None, idle_state=idle_state)

    def _begin_response(self, lm_state: LMState) -> Computation[Response]:
        """The answer to what the listening branch has heard."""
        logits, lm_state = yield from self._after(self._response_prompt, lm_state)
        return Response(lm_state, int(logits.argmax()), self._state.slices)

    def _emit_due(self, response: Response) -> Computation[Response]:
        """The answer after all that is due in this slice."""
        while self._due(response):
            response = self._emit(response, *(yield from self._after(*self._next(response))))
        return response

    def _due(self, response: Response) -> bool:
        """Whether a token is: that of the end comes at once."""
        within_pace = len(response.emitted) < tokens_due(
            self._state.slices - response.start_slice + 1, self.duplex
        )
        return response.next_token is not None and (
            within_pace or response.next_token == self.tokens.end
        )

    def _next(self, response: Response) -> Branch:
        """The step of the token to be said next, and the memory before it."""
        assert response.next_token is not None
        return self._embed([response.next_token]), response.lm_state

    def _emit(self, response: Response, logits: Tensor, lm_state: LMState) -> Response:
        """The answer one token on."""
        if response.next_token is None or response.next_token == self.tokens.end:
            return dataclasses.replace(response, lm_state=lm_state, next_token=None)
        emitted = (*response.emitted, response.next_token)
        next_token = (
            int(logits.argmax()) if len(emitted) < self.duplex.max_tokens else self.tokens.end
        )
        return Response(lm_state, next_token, response.start_slice, emitted)

    def _text(self, response: Response | None) -> str:
        """What can be read of an answer."""
        return (
            ""
            if response is None
            else self._readable(response.emitted, finished=response.next_token is None)
        )


def _level_db(samples: Tensor) -> float:
    """Root mean square of (n,) samples, relative to full scale."""
    return max(SILENT_DB, 10 * math.log10(float(samples.square().mean()) + 1e-12))
