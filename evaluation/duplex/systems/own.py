"""A model of this project as a turn-taking system: the states of a session that never answers."""

import dataclasses

import numpy as np
import torch

from configs.schema import Config
from duplexmamba.duplex.events import Event
from evaluation.duplex.turn_scores import System, TurnScores
from evaluation.finished_run import Run
from lightning_modules.sessions import open_sessions

NAME = "model"
"""Name of the model among the systems."""
NEVER = 2.0
"""Threshold that no probability reaches."""


def open_model(run: Run) -> System:
    """The model of a run as a turn-taking system.

    Raises:
        ValueError: the run was not trained on dialogues.
    """
    open_session = open_sessions(run.checkpoint, never_answering(run.config), run.folder)

    def listen(samples: np.ndarray) -> TurnScores:
        return scores_of(open_session().push(torch.from_numpy(samples)))

    # That of the run as it is used, not of the session that never answers.
    threshold = run.config.duplex.response_threshold
    return System(NAME, listen, {f"{threshold:g}": threshold})


def never_answering(config: Config) -> Config:
    """The configuration of a session that hears everything and never answers.

    An answer changes what the next slices mean to the model, so that the scores of a session that
    answers hold for its own threshold only.
    """
    duplex = dataclasses.replace(
        config.duplex, response_threshold=NEVER, max_wait_s=float("inf"), on_onset="continue"
    )
    return dataclasses.replace(config, duplex=duplex)


def scores_of(events: list[Event]) -> TurnScores:
    """The scores of the slices of a session."""
    times_s = [event.time_s for event in events]
    ended = [event.probabilities["response"] for event in events]
    # multiplex knows no other state than ignore beside response.
    addressed = [1 - event.probabilities["ignore"] for event in events]
    return TurnScores(np.array(times_s), np.array(ended), np.array(addressed))
