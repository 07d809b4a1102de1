"""A live conversation: samples in, decisions and answers out, slice by slice.

One model, two branches: one answers, the other listens. The listening branch is forked from the answering one, or from
where the conversation rests, whenever there is none; what it is asked after each slice leaves no trace in it.
Glossary: n samples, L steps, D width of the language model, V vocabulary.
"""

import dataclasses
import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from duplexmamba.config import check_slices
from duplexmamba.decoding import advance
from duplexmamba.lm import LMState
from duplexmamba.model import ListenState, SpeechLM
from duplexmamba.padded import Padded
from duplexmamba.policy import Action, Attention, decide, read, tokens_due
from duplexmamba.schema import Config
from duplexmamba.tokens import ANSWER, TURN_STATES, Tokens, TurnState

SILENT_DB = -100.0
"""Level of a slice without any sound."""
UNFINISHED = "\ufffd"
"""What a character decodes to of which some bytes are still to come."""


@dataclasses.dataclass(frozen=True)
class Event:
    """What happened in one slice."""

    slice: int
    time_s: float
    """Where the slice ends in the stream."""
    probabilities: dict[TurnState, float]
    """Of the three states, the listening branch asked after this slice."""
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
class Said:
    """An answer as it was heard."""

    begun: int
    """Slice of the decision."""
    stopped: int
    """Slice of its last token, or of the decision that cut it off."""
    text: str
    complete: bool
    """It was neither cut off nor is it still going on."""


def replies(events: Sequence[Event]) -> list[Said]:
    """The answers of a session, by time."""
    found: list[Said] = []
    for event in events:
        if event.action == "respond":
            if found and not found[-1].complete:
                found[-1] = dataclasses.replace(found[-1], stopped=event.slice)
            found.append(Said(event.slice, event.slice, event.text, not event.answering))
        elif found and not found[-1].complete:
            text = found[-1].text + event.text
            found[-1] = Said(found[-1].begun, event.slice, text, not event.answering)
    return found


@dataclasses.dataclass(frozen=True)
class Reply:
    """An answer under way."""

    memory: LMState
    """After all that was said."""
    following: int | None
    """The token to be said next; None: the answer is over."""
    begun: int
    """Slice of the decision."""
    said: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Listener:
    """A listening branch."""

    memory: LMState
    attention: Attention = Attention()
    loudest_db: float = SILENT_DB
    """Of the slices that it has heard."""


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A whole conversation at one moment, as a value: keep it, copy it, go back to it."""

    waiting: Tensor
    """(n,) samples of a slice that is not full yet."""
    rest: LMState
    """Where a listening branch is forked while nothing is being answered: behind its prompt."""
    slices: int = 0
    ear: ListenState | None = None
    listener: Listener | None = None
    reply: Reply | None = None


class DuplexSession:
    """Listens while it answers.

    Args:
        model: in eval mode, on any device.
        config: of the model; its section `duplex` says when to answer.
        instruction: what the model is told to do with what it hears.

    Raises:
        ValueError: the encoder cannot give whole embeddings slice by slice, or the model is in training mode.
    """

    def __init__(self, model: SpeechLM, tokens: Tokens, config: Config, instruction: str = ANSWER[0]):
        check_slices(config)
        if model.training:
            raise ValueError("the model is in training mode: call eval() before a session")
        self.model, self.tokens, self.duplex = model, tokens, config.duplex
        self.device = model.lm.embeddings.weight.device
        self.rate_hz = config.features.sample_rate_hz
        self.slice_s = self.duplex.slice_ms / 1000
        self.slice_samples = round(self.duplex.slice_ms * self.rate_hz / 1000)
        self._open = self._embed(tokens.before_speech(instruction))
        self._ask = self._embed(tokens.end_of_speech())
        self._accept = self._embed(tokens.after_speech("response"))
        self._states = torch.tensor([tokens.turn_states[state] for state in TURN_STATES], device=self.device)
        self._now = Snapshot(torch.zeros(0, device=self.device), rest=self._after(self._open, None)[1])

    def snapshot(self) -> Snapshot:
        """Everything, at the cost of a reference."""
        return self._now

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from there."""
        self._now = snapshot

    @property
    def answering(self) -> bool:
        """Whether an answer is under way."""
        return self._now.reply is not None

    @torch.inference_mode()
    def push(self, samples: Tensor) -> list[Event]:
        """Hear (n,) samples in [-1, 1], any number of them; one event for every slice that they fill."""
        waiting = torch.cat([self._now.waiting, samples.to(self.device, torch.float32)])
        size, full = self.slice_samples, len(waiting) - len(waiting) % self.slice_samples
        events = [self._hear(waiting[begin : begin + size]) for begin in range(0, full, size)]
        self._now = dataclasses.replace(self._now, waiting=waiting[full:].clone())  # a view would keep all of it
        return events

    def close(self) -> list[Event]:
        """Hear silence until what is being said and what waits for an answer is over."""
        spare_s = self.duplex.max_wait_s + self.duplex.max_tokens / self.duplex.tokens_per_s
        events = self.push(torch.zeros(-len(self._now.waiting) % self.slice_samples))
        for _ in range(math.ceil(spare_s * self.rate_hz / self.slice_samples)):
            if not self.answering and not self._expecting:
                break
            events += self.push(torch.zeros(self.slice_samples))
        return events

    @torch.inference_mode()
    def finish(self) -> str:
        """Say the answer under way to its end, at once; returns the whole of it, or nothing where there is none."""
        reply = self._now.reply
        if reply is None:
            return ""
        while reply.following is not None:
            reply = self._said(reply, *self._after(*self._next(reply)))
        self._now = self._over(self._now, reply)
        return self._text(reply)

    @property
    def _expecting(self) -> bool:
        """Whether the listening branch has heard anything but what is to be ignored."""
        listener = self._now.listener
        return listener is not None and listener.attention.ignored < listener.attention.heard

    def _hear(self, samples: Tensor) -> Event:
        """One slice: hear it, ask what it is, decide, say what is due."""
        began_s, before = time.perf_counter(), self._now
        speech, ear = self.model.listen(Padded(samples[None]), before.ear)
        listener = before.listener or self._fork()
        _, memory, reply = self._together(speech.values[0], listener.memory, before.reply)
        logits, _, reply = self._together(self._ask, memory, reply)
        probabilities = dict(zip(TURN_STATES, logits[self._states].float().softmax(-1).tolist(), strict=True))
        state = read(probabilities, self.duplex)
        action, listener = self._decide(state, samples, dataclasses.replace(listener, memory=memory))
        if action == "respond":
            reply = self._begin(memory)
        if reply is not None:
            reply = self._say(reply)
        self._now = self._turned(ear, listener if action == "listen" else None, reply)
        heard_of = None if action == "respond" else before.reply
        return Event(
            slice=before.slices,
            time_s=self._now.slices * self.slice_samples / self.rate_hz,
            probabilities=probabilities,
            state=state,
            action=action,
            tokens=list(reply.said[len(heard_of.said if heard_of else ()) :]) if reply else [],
            text=self._text(reply)[len(self._text(heard_of)) :],
            answering=self.answering,
            compute_ms=1000 * (time.perf_counter() - began_s),
        )

    def _fork(self) -> Listener:
        """A new listening branch."""
        reply = self._now.reply
        return Listener(self._now.rest if reply is None else self._after(self._open, reply.memory)[1])

    def _together(self, steps: Tensor, memory: LMState, reply: Reply | None) -> tuple[Tensor, LMState, Reply | None]:
        """The listening branch by (L, D) steps, and in the same batch the answer by a token, if one is due.

        Returns:
            Logits (V,) and memory of the listening branch, and the answer.
        """
        if reply is None or not self._due(reply):
            return *self._after(steps, memory), reply
        (logits, memory), after = advance(self.model.lm, [(steps, memory), self._next(reply)])
        return logits, memory, self._said(reply, *after)

    def _decide(self, state: TurnState, samples: Tensor, listener: Listener) -> tuple[Action, Listener]:
        """What to do after a slice, and what is known of the branch that has heard it."""
        level_db = _level_db(samples)
        loudest_db = max(listener.loudest_db, level_db)
        quiet = level_db < loudest_db + self.duplex.silence_db
        action, attention = decide(state, quiet, listener.attention, self.duplex)
        return action, Listener(listener.memory, attention, loudest_db)

    def _turned(self, ear: ListenState, listener: Listener | None, reply: Reply | None) -> Snapshot:
        """The conversation behind a slice."""
        now = dataclasses.replace(self._now, slices=self._now.slices + 1, ear=ear, listener=listener, reply=reply)
        return now if reply is None or reply.following is not None else self._over(now, reply)

    def _over(self, now: Snapshot, reply: Reply) -> Snapshot:
        """The conversation at rest, behind the whole of an answer."""
        return dataclasses.replace(now, reply=None, rest=self._after(self._open, reply.memory)[1])

    def _begin(self, memory: LMState) -> Reply:
        """The answer to what the listening branch has heard."""
        logits, memory = self._after(self._accept, memory)
        return Reply(memory, int(logits.argmax()), self._now.slices)

    def _say(self, reply: Reply) -> Reply:
        """The answer after all that is due in this slice."""
        while self._due(reply):
            reply = self._said(reply, *self._after(*self._next(reply)))
        return reply

    def _due(self, reply: Reply) -> bool:
        """Whether a token is: that of the end comes at once."""
        within_pace = len(reply.said) < tokens_due(self._now.slices - reply.begun + 1, self.duplex)
        return reply.following is not None and (within_pace or reply.following == self.tokens.end)

    def _next(self, reply: Reply) -> tuple[Tensor, LMState]:
        """The step of the token to be said next, and the memory before it."""
        assert reply.following is not None
        return self._embed([reply.following]), reply.memory

    def _said(self, reply: Reply, logits: Tensor, memory: LMState) -> Reply:
        """The answer one token on."""
        if reply.following is None or reply.following == self.tokens.end:
            return dataclasses.replace(reply, memory=memory, following=None)
        said = (*reply.said, reply.following)
        following = int(logits.argmax()) if len(said) < self.duplex.max_tokens else self.tokens.end
        return Reply(memory, following, reply.begun, said)

    def _text(self, reply: Reply | None) -> str:
        """What can be read of an answer."""
        if reply is None:
            return ""
        text = self.tokens.decode(list(reply.said))
        return text if reply.following is None else text.rstrip(UNFINISHED + " ")

    def _after(self, steps: Tensor, memory: LMState | None) -> tuple[Tensor, LMState]:
        """Logits and state behind (L, D) steps of one branch."""
        return advance(self.model.lm, [(steps, memory)])[0]

    def _embed(self, ids: list[int]) -> Tensor:
        """(L,) ids -> (L, D)."""
        return self.model.lm.embed(torch.tensor(ids, device=self.device)).detach()


def _level_db(samples: Tensor) -> float:
    """Root mean square of (n,) samples, relative to full scale."""
    return max(SILENT_DB, 10 * math.log10(float(samples.square().mean()) + 1e-12))
