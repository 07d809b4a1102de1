"""Results of validation and test: what was expected and what the model gave, one value per item."""

import dataclasses
from collections.abc import Iterable
from typing import Protocol

from duplexmamba.text.tokenizer import TURN_STATE_MARKERS, TurnState


class Result(Protocol):
    """A scored item. Both sides have a text, which is printed and written to files."""

    @property
    def reference(self) -> str:
        """The expected text."""

    @property
    def hypothesis(self) -> str:
        """The model's text."""


@dataclasses.dataclass(frozen=True)
class TranscriptResult:
    """A transcript."""

    reference: str
    hypothesis: str


@dataclasses.dataclass(frozen=True)
class AnswerResult:
    """An answer; its hypothesis is empty if the model did not respond."""

    reference: str
    hypothesis: str


@dataclasses.dataclass(frozen=True)
class TurnStateResult:
    """The turn state of one slice of a dialogue."""

    expected: TurnState
    predicted: TurnState

    @property
    def reference(self) -> str:
        """Marker of the expected turn state."""
        return TURN_STATE_MARKERS[self.expected]

    @property
    def hypothesis(self) -> str:
        """Marker of the predicted turn state."""
        return TURN_STATE_MARKERS[self.predicted]


def text_pairs(results: Iterable[Result]) -> list[tuple[str, str]]:
    """(reference, hypothesis) of each result, as the metrics of `duplexmamba.text` take them."""
    return [(result.reference, result.hypothesis) for result in results]
