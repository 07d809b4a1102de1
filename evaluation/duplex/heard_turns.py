"""What the model and the baselines say of the questions in test dialogues."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from duplexmamba.duplex.session import SessionState
from evaluation.duplex.comparison import TIMEOUT_S, HeardTurn
from evaluation.duplex.dialogues import PlayedDialogue, Turn
from evaluation.duplex.play import ObserveState, OpenSession
from evaluation.duplex.systems.own import NAME, scores_of
from evaluation.duplex.turn_scores import System, TurnScores, between

QUESTIONS = ("question", "paused_question")
"""Kinds of turns that are compared: they begin in silence and should be answered."""


class Question(NamedTuple):
    """A turn that is compared."""

    turn: Turn
    until_s: float
    """End of what systems hear of it: `TIMEOUT_S` after its end, or the begin of the next turn."""


def questions_of(dialogue: PlayedDialogue) -> list[Question]:
    """The turns of a dialogue that are compared, in order."""
    questions = []
    for index, turn in enumerate(dialogue.turns):
        if turn.kind not in QUESTIONS:
            continue
        until_s = turn.end_s + TIMEOUT_S
        # What comes next has scores of its own.
        for following in dialogue.turns[index + 1 : index + 2]:
            until_s = min(until_s, following.start_s)
        questions.append(Question(turn, until_s))
    return questions


class HeardTurns:
    """Collects the scores of all systems for the questions of test dialogues.

    Args:
        open_listener: opens sessions that never answer, over the model under test.
        baselines: hear whole dialogues.
    """

    def __init__(self, open_listener: OpenSession, baselines: Sequence[System]):
        self._open_listener = open_listener
        self._baselines = baselines
        names = [NAME, *(system.name for system in baselines)]
        self.of_system: dict[str, list[HeardTurn]] = {name: [] for name in names}
        """System -> turns with its scores."""

    def observers(self, script: PlayedDialogue, samples: np.ndarray) -> Mapping[int, ObserveState]:
        """Let the baselines hear a dialogue, and prepare for the model to hear it.

        Args:
            script: the dialogue.
            samples: (n,) of it.

        Returns:
            Slice in which a question begins -> function that takes the state of the live session
            before that slice.
        """
        questions = questions_of(script)
        for system in self._baselines:
            # The whole dialogue at once: noise floors need what came before a turn.
            scores = system.listen(samples)
            self.of_system[system.name] += [_heard(question, scores) for question in questions]
        observers: dict[int, ObserveState] = {}
        for question in questions:
            observe = functools.partial(self._hear_with_model, question, samples)
            observers[script.first_slice(question.turn)] = observe
        return observers

    def _hear_with_model(
        self, question: Question, samples: np.ndarray, state: SessionState
    ) -> None:
        """Let a copy of the live session hear a turn without answering it.

        The live session has answered what came before the turn, as in use; the scores of the copy
        hold for every threshold.
        """
        session = self._open_listener()
        session.restore(state)
        begin_sample = state.num_slices * session.slice_samples
        end_sample = round(question.until_s * session.rate_hz)
        events = session.push(torch.from_numpy(samples[begin_sample:end_sample]))
        # None where the next turn begins in the same slice.
        if events:
            self.of_system[NAME].append(_heard(question, scores_of(events)))


def _heard(question: Question, scores: TurnScores) -> HeardTurn:
    turn = question.turn
    inside = between(scores, turn.start_s, question.until_s)
    return HeardTurn(turn.start_s, turn.end_s, turn.pause_s, inside)
