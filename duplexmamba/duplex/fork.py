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

from configs.schema import Config
from duplexmamba.duplex.batching import Branch, Hearing, Work, alone
from duplexmamba.duplex.policy import Action, Attention, decide, read, tokens_due
from duplexmamba.duplex.session import Event, Moment, Session
from duplexmamba.models.lm import LMState
from duplexmamba.models.speech_lm import ListenState, SpeechLM
from duplexmamba.text.tokenizer import ANSWER, TURN_STATES, Tokens, TurnState

SILENT_DB = -100.0
"""Level of a slice without any sound."""


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snapshot(Moment):
    """A whole conversation at one moment, as a value: keep it, copy it, go back to it."""

    rest: LMState
    """Where a listening branch is forked while nothing is being answered: behind its prompt."""
    listener: Listener | None = None
    reply: Reply | None = None

    @property
    def memories(self) -> tuple[LMState, ...]:
        branches = [branch.memory for branch in (self.listener, self.reply) if branch is not None]
        return self.rest, *branches


class DuplexSession(Session[Snapshot]):
    """Listens while it answers. Arguments and errors are those of `Session`."""

    def __init__(self, model: SpeechLM, tokens: Tokens, config: Config, instruction: str = ANSWER[0]):
        super().__init__(model, tokens, config, instruction)
        self._accept = self._embed(tokens.after_speech("response"))
        self._states = torch.tensor([tokens.turn_states[state] for state in TURN_STATES], device=self.device)
        waiting = torch.zeros(0, device=self.device)
        self._now = Snapshot(waiting=waiting, rest=alone(model, self._after(self._open, None))[1])

    @property
    def answering(self) -> bool:
        return self._now.reply is not None

    @property
    def expecting(self) -> bool:
        """Whether the listening branch has heard anything but what is to be ignored."""
        listener = self._now.listener
        return listener is not None and listener.attention.ignored < listener.attention.heard

    @torch.inference_mode()
    def finish(self) -> str:
        reply = self._now.reply
        if reply is None:
            return ""
        while reply.following is not None:
            reply = self._said(reply, *alone(self.model, self._after(*self._next(reply))))
        self._now = alone(self.model, self._over(self._now, reply))
        return self._text(reply)

    def hear(self, samples: Tensor) -> Work[tuple[Event, Snapshot]]:
        """One slice: hear it, ask what it is, decide, say what is due."""
        began_s, before = time.perf_counter(), self._now
        speech, ear = yield Hearing(samples, before.ear)
        listener = before.listener or (yield from self._fork())
        _, memory, reply = yield from self._beside(speech, listener.memory, before.reply)
        logits, _, reply = yield from self._beside(self._ask, memory, reply)
        probabilities = dict(zip(TURN_STATES, logits[self._states].float().softmax(-1).tolist(), strict=True))
        state = read(probabilities, self.duplex)
        action, listener = self._decide(state, samples, dataclasses.replace(listener, memory=memory))
        if action == "respond":
            reply = yield from self._begin(memory)
        if reply is not None:
            reply = yield from self._say(reply)
        now = yield from self._turned(ear, listener if action == "listen" else None, reply)
        heard_of = None if action == "respond" else before.reply
        event = Event(
            slice=before.slices,
            time_s=now.slices * self.slice_samples / self.rate_hz,
            probabilities=probabilities,
            state=state,
            action=action,
            tokens=list(reply.said[len(heard_of.said if heard_of else ()) :]) if reply else [],
            text=self._text(reply)[len(self._text(heard_of)) :],
            answering=now.reply is not None,
            compute_ms=1000 * (time.perf_counter() - began_s),
        )
        return event, now

    def _fork(self) -> Work[Listener]:
        """A new listening branch."""
        reply = self._now.reply
        if reply is None:
            return Listener(self._now.rest)
        _, memory = yield from self._after(self._open, reply.memory)
        return Listener(memory)

    def _beside(
        self, steps: Tensor, memory: LMState, reply: Reply | None
    ) -> Work[tuple[Tensor, LMState, Reply | None]]:
        """The listening branch by (L, D) steps, and in the same batch the answer by a token, if one is due.

        Returns:
            Logits (V,) and memory of the listening branch, and the answer.
        """
        if reply is None or not self._due(reply):
            return *(yield from self._after(steps, memory)), reply
        (logits, memory), after = yield [(steps, memory), self._next(reply)]
        return logits, memory, self._said(reply, *after)

    def _decide(self, state: TurnState, samples: Tensor, listener: Listener) -> tuple[Action, Listener]:
        """What to do after a slice, and what is known of the branch that has heard it."""
        level_db = _level_db(samples)
        loudest_db = max(listener.loudest_db, level_db)
        quiet = level_db < loudest_db + self.duplex.silence_db
        action, attention = decide(state, quiet, listener.attention, self.duplex)
        return action, Listener(listener.memory, attention, loudest_db)

    def _turned(self, ear: ListenState, listener: Listener | None, reply: Reply | None) -> Work[Snapshot]:
        """The conversation behind a slice."""
        now = dataclasses.replace(self._now, slices=self._now.slices + 1, ear=ear, listener=listener, reply=reply)
        return now if reply is None or reply.following is not None else (yield from self._over(now, reply))

    def _over(self, now: Snapshot, reply: Reply) -> Work[Snapshot]:
        """The conversation at rest, behind the whole of an answer."""
        _, rest = yield from self._after(self._open, reply.memory)
        return dataclasses.replace(now, reply=None, rest=rest)

    def _begin(self, memory: LMState) -> Work[Reply]:
        """The answer to what the listening branch has heard."""
        logits, memory = yield from self._after(self._accept, memory)
        return Reply(memory, int(logits.argmax()), self._now.slices)

    def _say(self, reply: Reply) -> Work[Reply]:
        """The answer after all that is due in this slice."""
        while self._due(reply):
            reply = self._said(reply, *(yield from self._after(*self._next(reply))))
        return reply

    def _due(self, reply: Reply) -> bool:
        """Whether a token is: that of the end comes at once."""
        within_pace = len(reply.said) < tokens_due(self._now.slices - reply.begun + 1, self.duplex)
        return reply.following is not None and (within_pace or reply.following == self.tokens.end)

    def _next(self, reply: Reply) -> Branch:
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
        return "" if reply is None else self._readable(reply.said, over=reply.following is None)


def _level_db(samples: Tensor) -> float:
    """Root mean square of (n,) samples, relative to full scale."""
    return max(SILENT_DB, 10 * math.log10(float(samples.square().mean()) + 1e-12))
