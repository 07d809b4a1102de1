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
from duplexmamba.models.speech_lm import SpeechLM, SpeechState
from duplexmamba.streaming.padded import Padded
from duplexmamba.streaming.state import join, rows
from duplexmamba.text.decoding import advance

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class EncodeRequest:
    """Samples to be heard."""

    samples: Tensor
    """(n,)"""
    speech_state: SpeechState | None
    """Before them; None at the beginning of a conversation."""


Branch = tuple[Tensor, LMState | None]
"""(L, D) steps to be read, and the memory before them."""
Request = EncodeRequest | list[Branch]
"""Gives (S, E) embeddings and the ear behind them; or of each branch the logits (V,) and the memory behind it."""
Computation = Generator[Request, Any, Result]


def run_single(model: SpeechLM, work: Computation[Result]) -> Result:
    """What comes of it, wish by wish."""
    given = None
    while True:
        try:
            request = work.send(given)
        except StopIteration as done:
            return done.value
        given = (
            _encode(model, [request])[0]
            if isinstance(request, EncodeRequest)
            else advance(model.lm, request)
        )


def run_batched(model: SpeechLM, computations: Sequence[Computation[Result]]) -> list[Result]:
    """What comes of each: in every round all of them have a wish granted."""
    results: dict[int, Result] = {}
    given: dict[int, Any] = dict.fromkeys(range(len(computations)))
    while given:
        requests: dict[int, Request] = {}
        for i, result in given.items():
            try:
                requests[i] = computations[i].send(result)
            except StopIteration as done:
                results[i] = done.value
        given = dict(zip(requests, _answer_requests(model, list(requests.values())), strict=True))
    return [results[i] for i in range(len(computations))]


def _answer_requests(model: SpeechLM, requests: list[Request]) -> list[Any]:
    """What each wish gives, those of one shape in one batch: padding would cost what a batch saves."""
    hearings = [request for request in requests if isinstance(request, EncodeRequest)]
    branches = [
        branch
        for request in requests
        if not isinstance(request, EncodeRequest)
        for branch in request
    ]
    heard = iter(
        in_groups(
            hearings,
            lambda h: (len(h.samples), h.speech_state is None),
            lambda group: _encode(model, group),
        )
    )
    read = iter(
        in_groups(
            branches, lambda b: (len(b[0]), b[1] is None), lambda group: advance(model.lm, group)
        )
    )
    return [
        next(heard) if isinstance(request, EncodeRequest) else [next(read) for _ in request]
        for request in requests
    ]


def in_groups(
    items: Sequence[Item],
    key: Callable[[Item], Hashable],
    run: Callable[[list[Item]], Sequence[Result]],
) -> list[Result]:
    """What `run` gives for all items of the same key at once, in the order of the items."""
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for place, item in enumerate(items):
        groups[key(item)].append(place)
    found: dict[int, Result] = {}
    for places in groups.values():
        found |= zip(places, run([items[place] for place in places]), strict=True)
    return [found[place] for place in range(len(items))]


def _encode(model: SpeechLM, hearings: list[EncodeRequest]) -> list[tuple[Tensor, SpeechState]]:
    """Equally many samples each, all at their beginning or none."""
    samples = torch.stack([hearing.samples for hearing in hearings])
    before = (
        None
        if hearings[0].speech_state is None
        else join([hearing.speech_state for hearing in hearings])
    )
    speech, after = model.embed_speech(Padded(samples), before)
    heard = [
        row[:length]
        for row, length in zip(speech.values, speech.row_lengths().tolist(), strict=True)
    ]
    return list(zip(heard, rows(after), strict=True))
