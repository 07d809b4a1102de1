"""Live sessions, heard out and written down."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from duplexmamba.duplex.events import emitted_responses
from duplexmamba.duplex.session import Session, SessionState
from duplexmamba.streaming.state import num_bytes
from evaluation.duplex.dialogues import IGNORED, Heard, Reply

OpenSession = Callable[[], Session]
"""A new session over the same model."""
Read = Callable[[Path, int | None], np.ndarray]
"""A file's samples (n,) float32 as the model hears them, of one channel or of the mean of all."""


def hear(open_session: OpenSession, samples: np.ndarray, script: Heard) -> Heard:
    """One dialogue in a new session.

    Args:
        samples: (n,) float32, a whole slice for each label.
        script: what is known beforehand.
    """
    session, audio = open_session(), torch.from_numpy(samples)
    begins = {
        script.first_slice(turn): i for i, turn in enumerate(script.turns) if turn.kind in IGNORED
    }
    events, unheard, moments = [], {}, []
    for first, stop in itertools.pairwise(sorted({0, *begins, len(script.labels)})):
        if first in begins and session.answering:
            unheard[begins[first]] = _said_alone(open_session, session.snapshot())
        events += session.push(audio[first * session.slice_samples : stop * session.slice_samples])
        moments.append(session.snapshot())
    given = [
        Reply(said.start_slice, said.stop_slice, said.text) for said in emitted_responses(events)
    ]
    if session.answering:
        given[-1] = given[-1]._replace(text=session.finish())
    return dataclasses.replace(
        script, states=tuple(events[0].probabilities), named=[e.state for e in events],
        response=[e.probabilities["response"] for e in events], replies=given, unheard=unheard,
        compute_ms=[e.compute_ms for e in events], lm_bytes=max(map(lm_bytes, moments)),
        all_bytes=max(map(all_bytes, moments)),
    )  # fmt: skip


def _said_alone(open_session: OpenSession, moment: SessionState) -> str:
    """The answer under way, as it ends if nothing more is heard."""
    alone = open_session()
    alone.restore(moment)
    return alone.finish()


def lm_bytes(moment: SessionState) -> int:
    """The language model's memory of one branch."""
    return num_bytes(moment.lm_states[0])


def all_bytes(moment: SessionState) -> int:
    """Everything that a session remembers; what two branches share is counted once."""
    kept = {id(memory): memory for memory in moment.lm_states}
    return num_bytes((moment.pending_samples, moment.speech_state, *kept.values()))
