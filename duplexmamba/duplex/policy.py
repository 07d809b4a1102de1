"""Turn-taking policy: pure functions from the turn state of each slice to an action.

A forked session has up to two branches: one generates the response, the other, the listening
branch, processes the user's audio. After every slice the model estimates the turn state of the
listening branch (`response`, `incomplete` or `ignore`), and `decide` chooses what happens to the
branch. The labels of dialogues, training and live sessions all use these functions.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from duplexmamba.config import DuplexConfig
from duplexmamba.text.tokenizer import TurnState

Action = Literal["respond", "listen", "drop"]
"""respond: the listening branch replaces the responding one and starts a response. listen: the
listening branch continues. drop: the listening branch is discarded."""


ON_ONSET = ("continue", "pause")
"""Values of `duplex.on_onset`."""


@dataclasses.dataclass(frozen=True)
class BranchCounters:
    """State of the policy for a listening branch; all values count slices since the fork."""

    num_slices: int = 0
    """All slices that the branch has processed."""
    num_ignored: int = 0
    """Length of the current run of slices with turn state `ignore`."""
    num_silent: int = 0
    """Length of the current run of silent slices."""


def classify_state(probabilities: Mapping[TurnState, float], config: DuplexConfig) -> TurnState:
    """Choose the turn state of a slice.

    Args:
        probabilities: probability of each of the three turn states.
        config: `response_threshold` decides for `response`; below it the likelier of the other
            two states is chosen.
    """
    if probabilities["response"] >= config.response_threshold:
        return "response"
    if probabilities["incomplete"] >= probabilities["ignore"]:
        return "incomplete"
    return "ignore"


def decide(
    state: TurnState, silent: bool, counters: BranchCounters, config: DuplexConfig
) -> tuple[Action, BranchCounters]:
    """Decide what happens to the listening branch after a slice.

    Args:
        state: turn state of the branch after the slice.
        silent: whether the slice was silent.
        counters: the counters before the slice; `BranchCounters()` for the first slice of a branch.
        config: thresholds of the policy.

    Returns:
        The action, and the counters after the slice.
    """
    updated = BranchCounters(
        num_slices=counters.num_slices + 1,
        num_ignored=counters.num_ignored + 1 if state == "ignore" else 0,
        num_silent=counters.num_silent + 1 if silent else 0,
    )
    silence_s = updated.num_silent * config.slice_ms / 1000
    # A question that still seems incomplete after a long silence is answered anyway.
    timed_out = state == "incomplete" and silence_s >= config.max_wait_s
    wants_response = state == "response" or timed_out
    if wants_response and updated.num_slices >= config.min_slices:
        return "respond", updated
    if updated.num_ignored >= config.ignored_slices:
        return "drop", updated
    return "listen", updated


def holds_speech(counters: BranchCounters) -> bool:
    """Whether a listening branch contains a slice that is not to be ignored."""
    return counters.num_ignored < counters.num_slices


def is_paused(action: Action, counters: BranchCounters, config: DuplexConfig) -> bool:
    """Whether a response in progress emits no token in a slice.

    With `on_onset: pause` it pauses in the first slice that is not to be ignored, and goes on in
    the slice in which the listening branch is dropped. A pause within a question keeps it paused:
    the branch is neither dropped nor answered.

    Args:
        action: the decision after the slice.
        counters: those of the listening branch after the slice.
        config: says whether responses pause.
    """
    return config.on_onset == "pause" and action == "listen" and holds_speech(counters)


def tokens_due(num_slices: int, config: DuplexConfig) -> int:
    """Number of response tokens that are emitted within a number of slices.

    Args:
        num_slices: slices since the start of the response in which it was not paused, the slice of
            the decision included.
        config: `tokens_per_s` sets the pace.
    """
    return math.ceil(num_slices * config.slice_ms * config.tokens_per_s / 1000)


@dataclasses.dataclass(frozen=True)
class Branch:
    """The slices that a listening branch has processed."""

    first: int
    """Index of its first slice, at which it was forked."""
    last: int
    """Index of its last slice: that of its response or drop, or the last of the dialogue."""
    answered: bool
    """Whether it ended in a response."""
    num_paused: int = 0
    """Slices of the branch in which it pauses a response in progress."""
    num_paused_before: int = 0
    """Such slices in all branches before it."""


def branches(labels: Sequence[TurnState], config: DuplexConfig) -> list[Branch]:
    """Listening branches of a session whose model classifies every slice as labelled.

    Args:
        labels: turn state of every slice of a dialogue.
        config: thresholds of the policy.

    Returns:
        The branches in order; together they cover all slices.
    """
    found: list[Branch] = []
    first = 0
    num_paused = 0
    num_paused_before = 0
    counters = BranchCounters()
    for index, label in enumerate(labels):
        # Labels do not depend on the level: no slice counts as silent.
        action, counters = decide(label, False, counters, config)
        if is_paused(action, counters, config):
            num_paused += 1
        is_last_slice = index == len(labels) - 1
        if action != "listen" or is_last_slice:
            is_answered = action == "respond"
            found.append(Branch(first, index, is_answered, num_paused, num_paused_before))
            first = index + 1
            num_paused_before += num_paused
            num_paused = 0
            counters = BranchCounters()  # the next slice belongs to a new branch
    return found
