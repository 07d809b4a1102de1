"""Turn-taking as pure functions: what the model makes of each slice, to what is done.

Two branches share the conversation: the one that answers, and one that listens, forked from it. After every slice the
listening branch is read (`response`, `incomplete` or `ignore`), and `decide` says what becomes of it.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from duplexmamba.config import DuplexConfig
from duplexmamba.text.tokenizer import TurnState

Action = Literal["respond", "listen", "drop"]
"""respond: the listening branch takes the place of the other and answers. listen: it hears on. drop: it is
forgotten."""


@dataclasses.dataclass(frozen=True)
class BranchCounters:
    """What the policy knows of a listening branch: slices, counted from its fork."""

    heard: int = 0
    ignored: int = 0
    """The last ones in a row that were to be ignored."""
    quiet: int = 0
    """The last ones in a row that were silent."""


def classify_state(probabilities: Mapping[TurnState, float], config: DuplexConfig) -> TurnState:
    """The state that holds."""
    if probabilities["response"] >= config.response_threshold:
        return "response"
    return "incomplete" if probabilities["incomplete"] >= probabilities["ignore"] else "ignore"


def decide(
    state: TurnState, quiet: bool, before: BranchCounters, config: DuplexConfig
) -> tuple[Action, BranchCounters]:
    """What to do after a slice.

    Args:
        state: what the listening branch says of it.
        quiet: nothing was said in it.
        before: what was known before it; `BranchCounters()` for the first slice of a branch.
    """
    now = BranchCounters(
        heard=before.heard + 1,
        ignored=before.ignored + 1 if state == "ignore" else 0,
        quiet=before.quiet + 1 if quiet else 0,
    )
    waited_s = now.quiet * config.slice_ms / 1000
    tired = state == "incomplete" and waited_s >= config.max_wait_s
    if (state == "response" or tired) and now.heard >= config.min_slices:
        return "respond", now
    return ("drop" if now.ignored >= config.ignored_slices else "listen"), now


def tokens_due(slices: int, config: DuplexConfig) -> int:
    """Tokens of an answer that are out after so many slices, that of the decision included."""
    return math.ceil(slices * config.slice_ms * config.tokens_per_s / 1000)


@dataclasses.dataclass(frozen=True)
class Branch:
    """A listening branch of the past."""

    first: int
    """The slice it was forked at."""
    last: int
    """The slice that settled it, or with which the dialogue ends."""
    answered: bool


def branches(labels: Sequence[TurnState], config: DuplexConfig) -> list[Branch]:
    """The listening branches of a session whose model is right about every slice; together they cover all slices."""
    found, first, known = [], 0, BranchCounters()
    for i, label in enumerate(labels):
        action, known = decide(label, False, known, config)
        if action != "listen" or i == len(labels) - 1:
            found.append(Branch(first, i, action == "respond"))
            first, known = i + 1, BranchCounters()
    return found
