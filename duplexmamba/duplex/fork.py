"""Session that listens while it responds, by forking the state of the language model.

One model runs two branches: the responding branch generates text, the listening branch processes
the user's audio. When no listening branch exists, it is forked from the responding branch, or from
the idle state if there is no response. After each slice the turn state is read from a fork of the
listening branch that is discarded, so that reading it leaves no trace.
Glossary: n samples, L steps, D width of the language model, V vocabulary.
"""

import dataclasses
import time

import torch
from torch import Tensor

from duplexmamba.config import DuplexConfig
from duplexmamba.duplex.batching import (
    Computation,
    EncodeRequest,
    StepRequest,
    StepResult,
    encode,
    run_single,
    step,
)
from duplexmamba.duplex.events import Event
from duplexmamba.duplex.policy import (
    Action,
    BranchCounters,
    classify_state,
    decide,
    holds_speech,
    is_paused,
    tokens_due,
)
from duplexmamba.duplex.samples import MIN_LEVEL_DB, NoiseFloor, is_silent, level_db
from duplexmamba.duplex.session import Session, SessionState
from duplexmamba.models.language_models import LMState
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.text.tokenizer import ANSWER_INSTRUCTIONS, TURN_STATE_MARKERS, Tokenizer, TurnState


@dataclasses.dataclass(frozen=True)
class Response:
    """The responding branch: a response in progress."""

    lm_state: LMState
    """After all emitted tokens."""
    next_token: int | None
    """The token to emit next; None after the end-of-text token."""
    start_slice: int
    """Slice of the decision to respond."""
    emitted: tuple[int, ...] = ()
    num_paused: int = 0
    """Slices in which it was paused."""

    @property
    def finished(self) -> bool:
        """Whether the end-of-text token has been reached."""
        return self.next_token is None


@dataclasses.dataclass(frozen=True)
class ListeningBranch:
    """The branch that processes the user's audio."""

    lm_state: LMState
    """After all speech embeddings of the branch."""
    counters: BranchCounters = BranchCounters()
    max_level_db: float = MIN_LEVEL_DB
    """Level of the loudest slice of the branch."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForkState(SessionState):
    """Complete state of a `ForkSession`, as an immutable value."""

    idle_state: LMState
    """After the prompt that follows the last complete response: a listening branch is forked from
    it while there is no response."""
    noise_floor: NoiseFloor
    """Of the whole session, since the noise does not change with the branch."""
    listening: ListeningBranch | None = None
    response: Response | None = None

    @property
    def lm_states(self) -> tuple[LMState, ...]:
        """The idle state, then the states of the branches that exist."""
        states = [self.idle_state]
        for branch in (self.listening, self.response):
            if branch is not None:
                states.append(branch.lm_state)
        return tuple(states)


class ForkSession(Session[ForkState]):
    """Session that listens while it responds. Arguments and errors are those of `Session`."""

    def __init__(
        self,
        model: SpeechLM,
        tokenizer: Tokenizer,
        duplex: DuplexConfig,
        instruction: str = ANSWER_INSTRUCTIONS[0],
    ):
        super().__init__(model, tokenizer, duplex, instruction)
        self._response_prompt_embeddings = self._embed(tokenizer.prompt_after_speech("response"))
        turn_state_ids = [tokenizer.turn_state_ids[state] for state in TURN_STATE_MARKERS]
        self._turn_state_ids = torch.tensor(turn_state_ids, device=self.device)  # (3,)
        self._state = ForkState(
            pending_samples=torch.zeros(0, device=self.device),
            idle_state=self._initial_lm_state(),
            noise_floor=NoiseFloor(self.slice_s),
        )

    @property
    def answering(self) -> bool:
        """Whether a response is in progress."""
        return self._state.response is not None

    @property
    def awaiting_response(self) -> bool:
        """Whether the listening branch contains a slice that is not to be ignored."""
        listening = self._state.listening
        if listening is None:
            return False
        return holds_speech(listening.counters)

    @torch.inference_mode()
    def finish(self) -> str:
        """Generate the rest of the response in progress; see `Session.finish`."""
        response = self._state.response
        if response is None:
            return ""
        while not response.finished:
            response = run_single(self.model, self._emit(response))
        self._state = run_single(self.model, self._return_to_idle(self._state, response))
        return self._text(response)

    def _process(self, samples: Tensor) -> Computation[tuple[Event, ForkState]]:
        """Computation that processes one slice; see `Session.process_slice`."""
        start_s = time.perf_counter()
        before = self._state
        encoded = yield from encode(EncodeRequest(samples, before.speech_state))
        listening = before.listening
        # There is none after it was dropped or became the response in the previous slice.
        if listening is None:
            listening = yield from self._fork()
        speech_result, response = yield from self._step_branches(
            encoded.embeddings, listening.lm_state, before.response
        )
        # Only the logits of this step are used: the branch continues from `speech_result`.
        probe_result, response = yield from self._step_branches(
            self._end_of_speech_embeddings, speech_result.lm_state, response
        )
        probabilities = self._turn_state_probabilities(probe_result.logits)
        state = classify_state(probabilities, self.duplex)
        listening = dataclasses.replace(listening, lm_state=speech_result.lm_state)
        slice_db = level_db(samples)
        noise_floor = before.noise_floor.updated(slice_db)
        action, listening = self._decide(state, slice_db, noise_floor, listening)
        paused = before.response is not None and is_paused(action, listening.counters, self.duplex)
        if paused:
            # A token that has been stepped in this slice is discarded: it is emitted later.
            response = _pause(before.response)
        elif action == "respond":
            # It replaces a response in progress, which has been interrupted.
            response = yield from self._start_response(speech_result.lm_state)
            response = yield from self._emit_due(response)
        elif response is not None:
            response = yield from self._emit_due(response)
        after = dataclasses.replace(
            before,
            num_slices=before.num_slices + 1,
            speech_state=encoded.speech_state,
            listening=listening if action == "listen" else None,
            response=response,
            noise_floor=noise_floor,
        )
        if response is not None and response.finished:
            after = yield from self._return_to_idle(after, response)
        # A new response shares no tokens with the interrupted one.
        previous = None if action == "respond" else before.response
        event = Event(
            slice=before.num_slices,
            time_s=after.num_slices * self.slice_samples / self.rate_hz,
            probabilities=probabilities,
            state=state,
            action=action,
            tokens=self._new_tokens(response, previous),
            text=self._new_text(response, previous),
            answering=after.response is not None,
            compute_ms=1000 * (time.perf_counter() - start_s),
            paused=paused,
        )
        return event, after

    def _fork(self) -> Computation[ListeningBranch]:
        """Create a listening branch."""
        response = self._state.response
        if response is None:
            return ListeningBranch(self._state.idle_state)
        prompted = yield from self._step(self._next_prompt_embeddings, response.lm_state)
        return ListeningBranch(prompted.lm_state)

    def _step_branches(
        self, embeddings: Tensor, lm_state: LMState, response: Response | None
    ) -> Computation[tuple[StepResult, Response | None]]:
        """Step the listening branch over (L, D) embeddings and the response over a token, if due.

        Both are rows of one batch.

        Returns:
            The result of the listening branch, and the response.
        """
        if response is None or not self._is_token_due(response):
            speech_result = yield from self._step(embeddings, lm_state)
            return speech_result, response
        requests = [StepRequest(embeddings, lm_state), self._token_request(response)]
        speech_result, token_result = yield from step(requests)
        return speech_result, self._after_token(response, token_result)

    def _turn_state_probabilities(self, logits: Tensor) -> dict[TurnState, float]:
        """(V,) logits after the end-of-speech marker -> probability of each turn state."""
        probabilities = logits[self._turn_state_ids].float().softmax(-1)  # (3,)
        return dict(zip(TURN_STATE_MARKERS, probabilities.tolist(), strict=True))

    def _decide(
        self,
        state: TurnState,
        slice_db: float,
        noise_floor: NoiseFloor,
        listening: ListeningBranch,
    ) -> tuple[Action, ListeningBranch]:
        """Apply the policy to a slice; returns the action and the branch with its new counters."""
        max_level_db = max(listening.max_level_db, slice_db)
        silent = is_silent(slice_db, max_level_db, noise_floor.level_db, self.duplex.silence_db)
        action, counters = decide(state, silent, listening.counters, self.duplex)
        return action, ListeningBranch(listening.lm_state, counters, max_level_db)

    def _return_to_idle(self, state: ForkState, response: Response) -> Computation[ForkState]:
        """Replace a finished response by an idle state that starts after it."""
        # The prompt is included, so that later forks from the idle state cost no step.
        prompted = yield from self._step(self._next_prompt_embeddings, response.lm_state)
        return dataclasses.replace(state, response=None, idle_state=prompted.lm_state)

    def _start_response(self, lm_state: LMState) -> Computation[Response]:
        """Turn the listening branch into a response."""
        result = yield from self._step(self._response_prompt_embeddings, lm_state)
        return Response(result.lm_state, int(result.logits.argmax()), self._state.num_slices)

    def _emit_due(self, response: Response) -> Computation[Response]:
        """Emit all tokens that are due in the current slice."""
        while self._is_token_due(response):
            response = yield from self._emit(response)
        return response

    def _emit(self, response: Response) -> Computation[Response]:
        """Emit the next token."""
        [result] = yield from step([self._token_request(response)])
        return self._after_token(response, result)

    def _is_token_due(self, response: Response) -> bool:
        """Whether the next token is emitted in the current slice; the end of text never waits."""
        if response.finished:
            return False
        num_slices = self._state.num_slices - response.start_slice + 1 - response.num_paused
        num_due = tokens_due(num_slices, self.duplex)
        return len(response.emitted) < num_due or response.next_token == self.tokenizer.eos_id

    def _token_request(self, response: Response) -> StepRequest:
        """The step over the next token."""
        assert response.next_token is not None
        return StepRequest(self._embed([response.next_token]), response.lm_state)

    def _after_token(self, response: Response, result: StepResult) -> Response:
        """The response after the step over its next token."""
        if response.next_token is None or response.next_token == self.tokenizer.eos_id:
            return dataclasses.replace(response, lm_state=result.lm_state, next_token=None)
        emitted = (*response.emitted, response.next_token)
        if len(emitted) < self.duplex.max_tokens:
            next_token = int(result.logits.argmax())
        else:
            # The model sees the end-of-text token also where the response is truncated.
            next_token = self.tokenizer.eos_id
        return dataclasses.replace(
            response, lm_state=result.lm_state, next_token=next_token, emitted=emitted
        )


def _pause(response: Response | None) -> Response | None:
    """The response after a slice in which nothing of it is emitted."""
    if response is None:
        return None
    return dataclasses.replace(response, num_paused=response.num_paused + 1)
