"""Echo of the model's own answers in the user's microphone."""

import dataclasses
import random

import numpy as np
import pytest

from configs.checks import check
from configs.fingerprint import fingerprint
from configs.loading import load_config, override
from datamodules.dialogue.dialogues import open_dialogues
from datamodules.dialogue.echo import DELAY_S, echo
from datamodules.dialogue.phrases import Phrase
from datamodules.dialogue.turns import Answer, Slices
from tests.conftest import TINY

pytest.importorskip("espeakng_loader")

CONFIG = load_config(TINY)
SLICES = Slices.of(CONFIG)
ANSWER = "timer set for twenty five minutes"


def spoken(*answers: Answer, words_per_s: float = 2.0) -> np.ndarray:
    phrase = Phrase("question", ANSWER, "", np.zeros(0, np.float32))
    rng = random.Random(0)
    size = 60 * SLICES.length
    return echo(answers, [phrase] * 3, size, SLICES, words_per_s, "train", rng)


def span_s(samples: np.ndarray) -> tuple[float, float]:
    """First and last time at which something can be heard."""
    audible = np.flatnonzero(np.abs(samples) > 0.01)
    return audible[0] / SLICES.rate_hz, audible[-1] / SLICES.rate_hz


def test_an_answer_is_heard_when_and_as_fast_as_it_is_given() -> None:
    start_s, end_s = span_s(spoken(Answer(0, 9, None)))
    assert 2.0 + DELAY_S[0] <= start_s <= 2.05 + DELAY_S[1]
    # Six words, two a second.
    assert 2.0 < end_s - start_s < 4.0
    slow_start_s, slow_end_s = span_s(spoken(Answer(0, 9, None), words_per_s=1.4))
    assert slow_end_s - slow_start_s > 1.2 * (end_s - start_s)


def test_an_interrupted_answer_is_heard_no_longer() -> None:
    _, end_s = span_s(spoken(Answer(0, 9, 17)))
    assert end_s <= 18 * SLICES.seconds
    # Interrupted before its first word.
    assert not spoken(Answer(0, 9, 9)).any()


def test_a_dialogue_with_echo_differs_only_by_it() -> None:
    echoing_config = override(CONFIG, ["dialogue.echo_db=[-20,-20]"])
    plain = open_dialogues(CONFIG, "train", 10)[3]
    echoing = open_dialogues(echoing_config, "train", 10)[3]
    assert dataclasses.replace(echoing, samples=plain.samples) == plain
    # Where the model is silent nothing has changed.
    difference = echoing.samples - plain.samples
    first_answer = (plain.answers[0].begin + 1) * SLICES.length
    assert np.abs(difference[:first_answer]).max() == 0 < np.abs(difference).max()
    again = open_dialogues(echoing_config, "train", 10)[3]
    assert np.array_equal(again.samples, echoing.samples)
    streaming = [*TINY, "configs/stage/streaming.yaml"]
    runs = [load_config([*streaming, f"dialogue.echo_db={db}"]) for db in ("null", "[-30,-10]")]
    assert fingerprint(runs[0]) != fingerprint(runs[1])
    with pytest.raises(ValueError, match="echo_db"):
        check(override(CONFIG, ["dialogue.echo_db=[-10,-30]"]))
