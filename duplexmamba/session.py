"""A live conversation: samples in, decisions and answers out, slice by slice.

One model, two branches: one answers, the other listens. The listening branch is forked from the answering one, or from
where the conversation rests, whenever it has been dropped; what it is asked after each slice leaves no trace in it.
Glossary: n samples, q speech embeddings of a slice, D width of the language model, V vocabulary.
"""

import dataclasses
import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from duplexmamba.config import Config
from duplexmamba.decoding import advance
from duplexmamba.lm import LMState
from duplexmamba.model import ListenState, SpeechLM
from duplexmamba.padded import Padded
from duplexmamba.policy import Action, Attention, decide, read, tokens_due
from duplexmamba.tokens import ANSWER, TURN_STATES, Tokens, TurnState

SILENT_DB = -100.0
"""Level of a slice without any sound."""


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
    said: tuple[int, ...]
    begun: int
    """Slice of the decision."""


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A whole conversation at one moment, as a value: keep it, copy it, go back to it."""

    waiting: Tensor
    """(n,) samples of a slice that is not full yet."""
    slices: int = 0
    ear: ListenState | None = None
    rest: LMState | None = None
    """What the conversation has come to where nothing is being answered; None: it begins."""
    opened: LMState | None = None
    """`rest` with the prompt of a listening branch behind it."""
    listening: LMState | None = None
    attention: Attention = Attention()
    loudest_db: float = SILENT_DB
    """Of the slices that the listening branch has heard."""
    reply: Reply | None = None


class DuplexSession:
    """Listens while it answers.

    Args:
        model: in eval mode, on any device.
        config: of the model; its section `duplex` says when to answer.
        instruction: what the model is told to do with what it hears.

    Raises:
        ValueError: the encoder cannot give its embeddings slice by slice.
    """

    def __init__(self, model: SpeechLM, tokens: Tokens, config: Config, instruction: str = ANSWER[0]):
        encoder, duplex = config.encoder, config.duplex
        if encoder.context == "full":
            raise ValueError("encoder.context=full hears whole utterances only: a session needs carried, or slices")
        if encoder.context != "carried" and duplex.slice_ms % encoder.slice_ms:
            raise ValueError(
                f"duplex.slice_ms={duplex.slice_ms:g} is no multiple of encoder.slice_ms={encoder.slice_ms:g}: "
                f"set duplex.slice_ms={encoder.slice_ms:g}"
            )
        if model.training:
            raise ValueError("the model is in training mode: call eval() before a session")
        self.model, self.tokens, self.duplex = model, tokens, duplex
        self.device = model.lm.embeddings.weight.device
        self.rate_hz = config.features.sample_rate_hz
        self.slice_s = duplex.slice_ms / 1000
        self.slice_samples = round(duplex.slice_ms * self.rate_hz / 1000)
        self._open = self._embed(tokens.before_speech(instruction))
        self._ask = self._embed(tokens.end_of_speech())
        self._accept = self._embed(tokens.after_speech("response"))
        self._states = torch.tensor([tokens.turn_states[state] for state in TURN_STATES], device=self.device)
        self._now = Snapshot(torch.zeros(0, device=self.device))

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
        events = []
        while len(waiting) >= self.slice_samples:
            heard, waiting = waiting[: self.slice_samples], waiting[self.slice_samples :]
            events.append(self._hear(heard))
        self._now = dataclasses.replace(self._now, waiting=waiting)
        return events

    def close(self) -> list[Event]:
        """Hear silence until what is being said and what waits for an answer is over."""
        spare_s = self.duplex.max_wait_s + self.duplex.max_tokens / self.duplex.tokens_per_s
        events = self.push(torch.zeros(-len(self._now.waiting) % self.slice_samples))
        for _ in range(math.ceil(spare_s * self.rate_hz / self.slice_samples)):
            if not self.answering and self._now.attention.ignored == self._now.attention.heard:
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
        self._now = dataclasses.replace(self._now, reply=None, rest=reply.memory)
        return self.tokens.decode(list(reply.said))

    def _hear(self, samples: Tensor) -> Event:
        """One slice."""
        began_s = time.perf_counter()
        speech, ear = self.model.listen(Padded(samples[None]), self._now.ear)
        now = self._fork(dataclasses.replace(self._now, ear=ear))
        assert now.listening is not None
        heard_of = now.reply.said if now.reply else ()
        _, listening, reply = self._step(speech.values[0], now.listening, now.reply, now.slices)
        logits, _, reply = self._step(self._ask, listening, reply, now.slices)
        probabilities = dict(zip(TURN_STATES, logits[self._states].float().softmax(-1).tolist(), strict=True))
        state, level_db = read(probabilities, self.duplex), _level_db(samples)
        loudest_db = max(now.loudest_db, level_db)
        action, attention = decide(state, level_db < loudest_db + self.duplex.silence_db, now.attention, self.duplex)
        now = dataclasses.replace(
            now, listening=listening, attention=attention, loudest_db=loudest_db, reply=reply, slices=now.slices + 1
        )
        if action != "listen":
            now = dataclasses.replace(now, listening=None, attention=Attention(), loudest_db=SILENT_DB)
        if action == "respond":
            heard_of, now = (), dataclasses.replace(now, reply=self._begin(listening, now.slices - 1), opened=None)
        said: tuple[int, ...] = ()
        if now.reply:
            reply = self._finish_slice(now.reply, now.slices - 1)
            said = reply.said
            over = reply.following is None
            now = (
                dataclasses.replace(now, reply=None, rest=reply.memory)
                if over
                else dataclasses.replace(now, reply=reply)
            )
        self._now = now
        return Event(
            slice=now.slices - 1,
            time_s=now.slices * self.slice_samples / self.rate_hz,
            probabilities=probabilities,
            state=state,
            action=action,
            tokens=list(said[len(heard_of) :]),
            text=self.tokens.decode(list(said))[len(self.tokens.decode(list(heard_of))) :],
            answering=now.reply is not None,
            compute_ms=1000 * (time.perf_counter() - began_s),
        )

    def _fork(self, now: Snapshot) -> Snapshot:
        """With a listening branch, forked where there was none."""
        if now.listening is not None:
            return now
        if now.reply is not None:
            return dataclasses.replace(now, listening=self._after(self._open, now.reply.memory)[1], opened=None)
        opened = now.opened if now.opened is not None else self._after(self._open, now.rest)[1]
        return dataclasses.replace(now, listening=opened, opened=opened)

    def _begin(self, listening: LMState, slice_: int) -> Reply:
        """The answer to what the listening branch has heard."""
        logits, memory = self._after(self._accept, listening)
        return Reply(memory, int(logits.argmax()), (), slice_)

    def _step(
        self, steps: Tensor, listening: LMState, reply: Reply | None, slice_: int
    ) -> tuple[Tensor, LMState, Reply | None]:
        """The listening branch by (L, D) steps, and in the same batch the answer by a token, if one is due."""
        if reply is None or not self._due(reply, slice_):
            return *self._after(steps, listening), reply
        (logits, listening), after = advance(self.model.lm, [(steps, listening), self._next(reply)])
        return logits, listening, self._said(reply, *after)

    def _finish_slice(self, reply: Reply, slice_: int) -> Reply:
        """The answer after all that is due in this slice."""
        while self._due(reply, slice_):
            reply = self._said(reply, *self._after(*self._next(reply)))
        return reply

    def _next(self, reply: Reply) -> tuple[Tensor, LMState]:
        assert reply.following is not None
        return self._embed([reply.following]), reply.memory

    def _due(self, reply: Reply, slice_: int) -> bool:
        """Whether a token is: that of the end comes at once."""
        within_pace = len(reply.said) < tokens_due(slice_ - reply.begun + 1, self.duplex)
        return reply.following is not None and (within_pace or reply.following == self.tokens.end)

    def _said(self, reply: Reply, logits: Tensor, memory: LMState) -> Reply:
        """The answer one token on."""
        if reply.following is None or reply.following == self.tokens.end:
            return dataclasses.replace(reply, memory=memory, following=None)
        said = (*reply.said, reply.following)
        following = int(logits.argmax()) if len(said) < self.duplex.max_tokens else self.tokens.end
        return Reply(memory, following, said, reply.begun)

    def _after(self, steps: Tensor, memory: LMState | None) -> tuple[Tensor, LMState]:
        """Logits and state behind (L, D) steps of one branch."""
        return advance(self.model.lm, [(steps, memory)])[0]

    def _embed(self, ids: list[int]) -> Tensor:
        """(L,) ids -> (L, D)."""
        return self.model.lm.embed(torch.tensor(ids, device=self.device)).detach()


def _level_db(samples: Tensor) -> float:
    """Root mean square of (n,) samples, relative to full scale."""
    return max(SILENT_DB, 10 * math.log10(float(samples.square().mean()) + 1e-12))
