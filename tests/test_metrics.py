"""Metrics against values worked out by hand."""

import pytest

from configs.loading import load_config
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.text.metrics import accuracy, exact_match, f1, macro_f1
from lightning_modules.dialogue import DialogueStage
from lightning_modules.results import AnswerResult, TurnStateResult
from tests.conftest import SMALL_SIZES, TINY

# expected and predicted, 5 slices
STATES = [
    ("ignore", "ignore"),
    ("ignore", "incomplete"),
    ("incomplete", "incomplete"),
    ("incomplete", "incomplete"),
    ("response", "ignore"),
]


def test_states_of_slices() -> None:
    assert accuracy(STATES) == pytest.approx(3 / 5)
    # of ignore 1 is right of 2 expected and 2 predicted, of incomplete 2 of 2 and 3
    assert f1(STATES, "ignore") == pytest.approx(2 * 1 / 4)
    assert f1(STATES, "incomplete") == pytest.approx(2 * 2 / 5)
    assert f1(STATES, "response") == 0
    assert macro_f1(STATES) == pytest.approx((0.5 + 0.8 + 0) / 3)


def test_exact_match_compares_words() -> None:
    assert exact_match([("a b", "a  b "), ("a", "b"), ("a", "")]) == pytest.approx(1 / 3)


def test_a_stage_scores_states_and_answers_apart() -> None:
    config = load_config([TINY[0], "configs/stage/state.yaml", *SMALL_SIZES])
    module = DialogueStage(config, SpeechLM(config.model), None)
    turn_states = [TurnStateResult(expected, predicted) for expected, predicted in STATES]
    answers = [AnswerResult("one two", "one two"), AnswerResult("three", "four")]
    assert module.scores([*turn_states, *answers]) == {
        "state_accuracy": pytest.approx(3 / 5),
        "state_macro_f1": pytest.approx((0.5 + 0.8 + 0) / 3),
        "exact_match": pytest.approx(1 / 2),
    }
