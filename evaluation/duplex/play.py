"""Plays dialogues to live sessions and records what the sessions do."""

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from duplexmamba.duplex.events import emitted_responses
from duplexmamba.duplex.session import Session, SessionState
from duplexmamba.streaming.state import num_bytes
from evaluation.duplex.dialogues import IGNORED, PlayedDialogue

OpenSession = Callable[[], Session]
"""Opens a new session over the same model."""
ObserveState = Callable[[SessionState], None]
"""Takes the state of a session, which it must not change."""
ReadAudio = Callable[[Path, int | None], np.ndarray]
"""Reads samples (n,) float32 at the model's sample rate, of one channel or of the mean of all."""


def play(
    open_session: OpenSession,
    samples: np.ndarray,
    script: PlayedDialogue,
    observers: Mapping[int, ObserveState] | None = None,
) -> PlayedDialogue:
    """Play one dialogue to a new session.

    Args:
        open_session: opens the session.
        samples: (n,) float32, one whole slice for each label.
        script: the dialogue without the fields that a session fills in.
        observers: slice -> called with the state of the session before that slice.

    Returns:
        The script with the behaviour of the session.
    """
    session = open_session()
    audio = torch.from_numpy(samples)
    ignored_at: dict[int, int] = {}
    for index, turn in enumerate(script.turns):
        if turn.kind in IGNORED:
            ignored_at[script.first_slice(turn)] = index

    events = []
    undisturbed = {}
    states = []
    # Pause before each ignored sound, to find out how the response would end without it.
    observers = observers or {}
    examined = {*ignored_at, len(script.labels)}
    for first, stop in itertools.pairwise(sorted({0, *examined, *observers})):
        if first in observers:
            observers[first](session.snapshot())
        if first in ignored_at and session.answering:
            # On a copy, so that the session itself goes on as if it had not been examined.
            undisturbed[ignored_at[first]] = _finish_copy(open_session, session.snapshot())
        begin_sample = first * session.slice_samples
        end_sample = stop * session.slice_samples
        events += session.push(audio[begin_sample:end_sample])
        # Not where it is only observed, so that the sizes do not depend on who looks.
        if stop in examined:
            states.append(session.snapshot())

    responses = emitted_responses(events)
    if session.answering:
        # The dialogue is over: let the last response end.
        responses[-1] = dataclasses.replace(responses[-1], text=session.finish())
    return dataclasses.replace(
        script,
        states=tuple(events[0].probabilities),
        predicted=[event.state for event in events],
        response=[event.probabilities["response"] for event in events],
        responses=responses,
        paused=[event.paused for event in events],
        undisturbed=undisturbed,
        compute_ms=[event.compute_ms for event in events],
        lm_bytes=max(num_bytes(state.lm_states[0]) for state in states),
        all_bytes=max(state.num_bytes() for state in states),
    )


def _finish_copy(open_session: OpenSession, state: SessionState) -> str:
    """Text of the response in progress as it ends without further input."""
    session = open_session()
    session.restore(state)
    return session.finish()
