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

from configs.schema import Config, DuplexConfig
from duplexmamba.duplex.batching import Hearing, Work, alone
from duplexmamba.duplex.policy import tokens_due
from duplexmamba.duplex.session import Event, Moment, Session
from duplexmamba.models.lm import LMState
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.text.tokenizer import ANSWER, Tokens, TurnState

IDLE: TurnState = "ignore"
"""The state whose marker is the idle token. Nothing is to come of this slice: the stages beneath have taught the marker
so, and every tokenizer has it."""


@dataclasses.dataclass(frozen=True)
class Reply:
    """An answer under way."""

    begun: int
    """Slice of the decision."""
    said: tuple[int, ...] = ()
    over: bool = False

    def due(self, slice_: int, config: DuplexConfig) -> bool:
        """Whether a token is, in this slice."""
        return not self.over and len(self.said) < tokens_due(slice_ - self.begun + 1, config)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snapshot(Moment):
    """A whole conversation at one moment, as a value: keep it, copy it, go back to it."""

    memory: LMState
    unread: tuple[int, ...] = ()
    """What was written last and is read together with the next slice."""
    reply: Reply | None = None
    patience: int = 0
    """Slices of silence for which what was heard may still be answered."""

    @property
    def memories(self) -> tuple[LMState, ...]:
        return (self.memory,)


class MultiplexSession(Session[Snapshot]):
    """Hears and speaks by turns. Arguments and errors are those of `Session`."""

    def __init__(self, model: SpeechLM, tokens: Tokens, config: Config, instruction: str = ANSWER[0]):
        super().__init__(model, tokens, config, instruction)
        self._begin = self._embed(tokens.after_speech("response")[len(tokens.end_of_speech()) :])
        self._response, self._idle = tokens.turn_states["response"], tokens.turn_states[IDLE]
        self._markers = torch.tensor([self._response, self._idle], device=self.device)
        waiting = torch.zeros(0, device=self.device)
        self._now = Snapshot(waiting=waiting, memory=alone(model, self._after(self._open, None))[1])

    @property
    def answering(self) -> bool:
        return self._now.reply is not None

    @property
    def expecting(self) -> bool:
        return self._now.patience > 0

    def finish(self) -> str:
        """Hear silence until the answer under way is over, or another begins; returns the whole of it, or nothing where
        there is none. An answer that falls silent for as long as the longest takes is over."""
        text, longest_s = self._text(self._now.reply), self.duplex.max_tokens / self.duplex.tokens_per_s
        for _ in range(math.ceil(longest_s / self.slice_s) if self.answering else 0):
            [event] = self.push(torch.zeros(self.slice_samples))
            if event.action == "respond":
                break
            text += event.text
            if not event.answering:
                break
        self._now = dataclasses.replace(self._now, reply=None)
        return text

    def hear(self, samples: Tensor) -> Work[tuple[Event, Snapshot]]:
        """One slice: hear it, and write what there is to say."""
        began_s, before = time.perf_counter(), self._now
        speech, ear = yield Hearing(samples, before.ear)
        steps = torch.cat([self._embed(before.unread), speech, self._ask])
        logits, memory = yield from self._after(steps, before.memory)
        due = before.reply is not None and before.reply.due(before.slices, self.duplex)
        chances = choices(logits, self._markers, due)
        probability = float(chances[self._response])
        responds = begins(probability, self.duplex)
        reply, memory, unread = yield from self._write(responds, chances, memory)
        under_way = None if reply is None or reply.over else reply
        now = Snapshot(
            waiting=before.waiting, slices=before.slices + 1, ear=ear, memory=memory, unread=unread, reply=under_way,
            patience=self._patience(samples),
        )  # fmt: skip
        heard_of = None if responds else before.reply
        event = Event(
            slice=before.slices,
            time_s=now.slices * self.slice_samples / self.rate_hz,
            probabilities={"response": probability, IDLE: 1 - probability},
            state="response" if responds else IDLE,
            action="respond" if responds else "listen",
            tokens=list(reply.said[len(heard_of.said if heard_of else ()) :]) if reply else [],
            text=self._text(reply)[len(self._text(heard_of)) :],
            answering=now.reply is not None,
            compute_ms=1000 * (time.perf_counter() - began_s),
        )
        return event, now

    def _write(
        self, responds: bool, chances: Tensor, memory: LMState
    ) -> Work[tuple[Reply | None, LMState, tuple[int, ...]]]:
        """Behind the end-of-speech marker: the answer, the memory, and what is still to be read."""
        if responds:
            return (yield from self._say(Reply(self._now.slices), *(yield from self._after(self._begin, memory))))
        chances[self._response] = 0
        reply = self._now.reply
        if reply is None or int(chances.argmax()) == self._idle:
            return reply, memory, (self._idle,)
        return (yield from self._say(reply, chances, memory))

    def _say(self, reply: Reply, logits: Tensor, memory: LMState) -> Work[tuple[Reply, LMState, tuple[int, ...]]]:
        """The same, after all that is due."""
        while True:
            full = len(reply.said) >= self.duplex.max_tokens
            following = self.tokens.end if full else int(logits.argmax())
            if following == self.tokens.end:
                return dataclasses.replace(reply, over=True), memory, (following,)
            if not reply.due(self._now.slices, self.duplex):
                return reply, memory, ()
            logits, memory = yield from self._after(self._embed([following]), memory)
            reply = dataclasses.replace(reply, said=(*reply.said, following))

    def _patience(self, samples: Tensor) -> int:
        """Slices of silence for which an answer is waited for from now on."""
        longest = math.ceil(self.duplex.max_wait_s / self.slice_s)
        return longest if bool(samples.any()) else max(0, self._now.patience - 1)

    def _text(self, reply: Reply | None) -> str:
        """What can be read of an answer."""
        return "" if reply is None else self._readable(reply.said, reply.over)


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
    return probability >= config.response_above
