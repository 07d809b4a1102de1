"""Batching of many sessions that share one model.

The work of a session on one slice is a generator, a `Computation`. It yields a batch of requests to
the model and receives one result per request. `run_single` drives one computation and is the
reference for `run_batched`, which drives many computations in lockstep and serves their requests
together.
Glossary: n samples, S speech embeddings, L steps, D width of the language model, V vocabulary.
"""

import dataclasses
import functools
from collections import defaultdict
from collections.abc import Callable, Generator, Hashable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from duplexmamba.models.language_models import LMState
from duplexmamba.models.speech_lm import SpeechLM, SpeechState
from duplexmamba.streaming.padded import Padded
from duplexmamba.streaming.state import join, rows
from duplexmamba.text.decoding import advance

Item = TypeVar("Item")
Output = TypeVar("Output")
Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class EncodeRequest:
    """Turn audio samples into speech embeddings."""

    samples: Tensor
    """(n,)"""
    speech_state: SpeechState | None
    """State of the speech encoder and the connector before the samples; None at the start."""


@dataclasses.dataclass(frozen=True)
class EncodeResult:
    """Result of an `EncodeRequest`."""

    embeddings: Tensor
    """(S, D)"""
    speech_state: SpeechState
    """State of the speech encoder and the connector after the samples."""


@dataclasses.dataclass(frozen=True)
class StepRequest:
    """Run the language model over input embeddings."""

    embeddings: Tensor
    """(L, D), L at least 1."""
    lm_state: LMState | None
    """State of the language model before them; None at the start."""


@dataclasses.dataclass(frozen=True)
class StepResult:
    """Result of a `StepRequest`."""

    logits: Tensor
    """(V,) after the last step."""
    lm_state: LMState
    """State of the language model after the last step."""


Request = EncodeRequest | StepRequest
Result = EncodeResult | StepResult

# The type that a computation receives is Any, because a union would lose which result belongs to
# which request; `encode` and `step` give the results their types.
Computation = Generator[Sequence[Request], Any, Value]
"""Yields batches of requests, receives a list with one result per request, returns a value."""


def encode(request: EncodeRequest) -> Computation[EncodeResult]:
    """Yield one encode request and return its result, for use with `yield from`."""
    results: list[EncodeResult] = yield [request]
    return results[0]


def step(requests: Sequence[StepRequest]) -> Computation[list[StepResult]]:
    """Yield step requests as one batch and return their results, for use with `yield from`."""
    results: list[StepResult] = yield requests
    return results


def run_single(model: SpeechLM, computation: Computation[Value]) -> Value:
    """Run one computation to its end and return its value."""
    results = None
    while True:
        try:
            requests = computation.send(results)
        except StopIteration as finished:
            return finished.value
        results = _run_requests(model, requests, _padded_step_key)


def run_batched(model: SpeechLM, computations: Sequence[Computation[Value]]) -> list[Value]:
    """Run computations in lockstep: the requests of one round share batches.

    Returns:
        The value of each computation, equal to that of `run_single` up to rounding.
    """
    values: dict[int, Value] = {}
    results: dict[int, list[Result] | None] = dict.fromkeys(range(len(computations)))
    while results:
        requests: dict[int, Sequence[Request]] = {}
        for index, received in results.items():
            try:
                requests[index] = computations[index].send(received)
            except StopIteration as finished:
                values[index] = finished.value
        results = _run_round(model, requests)
    return [values[index] for index in range(len(computations))]


def _run_round(
    model: SpeechLM, requests: dict[int, Sequence[Request]]
) -> dict[int, list[Result] | None]:
    """Serve the requests of all running computations, and sort the results by computation."""
    all_requests = [request for batch in requests.values() for request in batch]
    all_results = iter(_run_requests(model, all_requests, _step_key))
    results: dict[int, list[Result] | None] = {}
    for index, batch in requests.items():
        results[index] = [next(all_results) for _ in batch]
    return results


def _run_requests(
    model: SpeechLM,
    requests: Sequence[Request],
    step_key: Callable[[StepRequest], Hashable],
) -> list[Result]:
    """Serve requests in few batches: step requests of equal key share one."""
    encode_requests = [r for r in requests if isinstance(r, EncodeRequest)]
    step_requests = [r for r in requests if isinstance(r, StepRequest)]
    encoded = iter(
        run_in_groups(encode_requests, _encode_key, functools.partial(_encode_batch, model))
    )
    stepped = iter(run_in_groups(step_requests, step_key, functools.partial(_step_batch, model)))
    results: list[Result] = []
    for request in requests:
        if isinstance(request, EncodeRequest):
            results.append(next(encoded))
        else:
            results.append(next(stepped))
    return results


def _encode_key(request: EncodeRequest) -> Hashable:
    return len(request.samples), request.speech_state is None


def _step_key(request: StepRequest) -> Hashable:
    # Only requests of equal length share a batch: padding would cost what batching saves.
    return len(request.embeddings), request.lm_state is None


def _padded_step_key(request: StepRequest) -> Hashable:
    # A single session steps at most two branches at once, so that padding wastes little.
    return request.lm_state is None


def run_in_groups(
    items: Sequence[Item],
    key: Callable[[Item], Hashable],
    run: Callable[[list[Item]], Sequence[Output]],
) -> list[Output]:
    """Run a function once for all items of the same key.

    Args:
        items: any number of items.
        key: items of equal key form a group.
        run: maps the items of a group, in their order, to one output each.

    Returns:
        One output per item, in the order of the items.
    """
    groups: dict[Hashable, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        groups[key(item)].append(index)
    outputs: dict[int, Output] = {}
    for indices in groups.values():
        group = [items[index] for index in indices]
        for index, output in zip(indices, run(group), strict=True):
            outputs[index] = output
    return [outputs[index] for index in range(len(items))]


def _encode_batch(model: SpeechLM, requests: list[EncodeRequest]) -> list[EncodeResult]:
    """Encode requests with equally many samples, either all with a state or all without."""
    samples = torch.stack([request.samples for request in requests])  # (B, n)
    state_before = None
    if requests[0].speech_state is not None:
        state_before = join([request.speech_state for request in requests])
    speech, state_after = model.embed_speech(Padded(samples), state_before)
    lengths = speech.row_lengths().tolist()
    results = []
    for embeddings, length, state in zip(speech.values, lengths, rows(state_after), strict=True):
        # (S_max, D) -> (S, D): connectors of variable rate give rows of unequal length.
        results.append(EncodeResult(embeddings[:length], state))
    return results


def _step_batch(model: SpeechLM, requests: list[StepRequest]) -> list[StepResult]:
    """Step requests as rows of one batch, padded where their lengths differ."""
    branches = [(request.embeddings, request.lm_state) for request in requests]
    return [StepResult(logits, lm_state) for logits, lm_state in advance(model.lm, branches)]
