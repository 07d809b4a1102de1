"""Many conversations, one model: what several of them want of it at the same time is one batch.

A slice of a conversation is a generator: it yields what it wants of the model and is sent what that gives. `alone`
drives one of them and is the literal twin of `together`, which drives many side by side.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Generator, Hashable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from duplexmamba.models.lm import LMState
from duplexmamba.models.speech_lm import ListenState, SpeechLM
from duplexmamba.streaming.padded import Padded
from duplexmamba.streaming.state import join, rows
from duplexmamba.text.decoding import advance

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Hearing:
    """Samples to be heard."""

    samples: Tensor
    """(n,)"""
    ear: ListenState | None
    """Before them; None at the beginning of a conversation."""


Branch = tuple[Tensor, LMState | None]
"""(L, D) steps to be read, and the memory before them."""
Wish = Hearing | list[Branch]
"""Gives (S, E) embeddings and the ear behind them; or of each branch the logits (V,) and the memory behind it."""
Work = Generator[Wish, Any, Result]


def alone(model: SpeechLM, work: Work[Result]) -> Result:
    """What comes of it, wish by wish."""
    given = None
    while True:
        try:
            wish = work.send(given)
        except StopIteration as done:
            return done.value
        given = _hear(model, [wish])[0] if isinstance(wish, Hearing) else advance(model.lm, wish)


def together(model: SpeechLM, works: Sequence[Work[Result]]) -> list[Result]:
    """What comes of each: in every round all of them have a wish granted."""
    results: dict[int, Result] = {}
    given: dict[int, Any] = dict.fromkeys(range(len(works)))
    while given:
        wishes: dict[int, Wish] = {}
        for i, gift in given.items():
            try:
                wishes[i] = works[i].send(gift)
            except StopIteration as done:
                results[i] = done.value
        given = dict(zip(wishes, _grant(model, list(wishes.values())), strict=True))
    return [results[i] for i in range(len(works))]


def _grant(model: SpeechLM, wishes: list[Wish]) -> list[Any]:
    """What each wish gives, those of one shape in one batch: padding would cost what a batch saves."""
    hearings = [wish for wish in wishes if isinstance(wish, Hearing)]
    branches = [branch for wish in wishes if not isinstance(wish, Hearing) for branch in wish]
    heard = iter(in_groups(hearings, lambda h: (len(h.samples), h.ear is None), lambda group: _hear(model, group)))
    read = iter(in_groups(branches, lambda b: (len(b[0]), b[1] is None), lambda group: advance(model.lm, group)))
    return [next(heard) if isinstance(wish, Hearing) else [next(read) for _ in wish] for wish in wishes]


def in_groups(
    items: Sequence[Item], key: Callable[[Item], Hashable], run: Callable[[list[Item]], Sequence[Result]]
) -> list[Result]:
    """What `run` gives for all items of the same key at once, in the order of the items."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        groups[key(item)].append(place)
    found: dict[int, Result] = {}
    for places in groups.values():
        found |= zip(places, run([items[place] for place in places]), strict=True)
    return [found[place] for place in range(len(items))]


def _hear(model: SpeechLM, hearings: list[Hearing]) -> list[tuple[Tensor, ListenState]]:
    """Equally many samples each, all at their beginning or none."""
    samples = torch.stack([hearing.samples for hearing in hearings])
    before = None if hearings[0].ear is None else join([hearing.ear for hearing in hearings])
    speech, after = model.listen(Padded(samples), before)
    heard = [row[:length] for row, length in zip(speech.values, speech.row_lengths().tolist(), strict=True)]
    return list(zip(heard, rows(after), strict=True))
