"""Scores of dialogues: known ones from records made by hand, and the entry point on a model of random weights."""

import dataclasses
import json
import random
from pathlib import Path

import pytest
import torch

import evaluate
from configs.loading import load_config, override
from configs.schema import Config
from datamodules.synthetic import grammar
from duplexmamba.duplex.fork import ForkSession
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.text.tokenizer import Tokenizer
from evaluation.duplex.dialogues import (
    Heard,
    Reply,
    Score,
    Turn,
    confusion,
    curve,
    findings,
    scores,
)
from lightning_modules.trainer.checkpoint import FILE, StageCheckpoint
from tests.conftest import SMALL_SIZES, TINY

STREAMING = [TINY[0], "configs/stage/streaming.yaml", *SMALL_SIZES, "trainer.accelerator=cpu"]


def heard(turns=(), given=(), count=30, **fields) -> Heard:
    """Slices of 200 ms, all ignored and so named."""
    facts = {
        "labels": ["ignore"] * count,
        "named": ["ignore"] * count,
        "response": [0.0] * count,
        **fields,
    }
    return Heard("one", 0.2, turns, **facts, replies=given, compute_ms=[10.0] * count)


def question(start_s=1.0, end_s=2.0, window=range(5, 30), **fields) -> Turn:
    return Turn("question", start_s, end_s, answer="four", window=window, **fields)


def value(found: Heard, name: str) -> list[float] | None:
    return findings(found).get(name)


# ---- states


def test_states_are_counted_slice_by_slice():
    labels = ["response", "response", "incomplete", "ignore"]
    named = ["response", "ignore", "incomplete", "ignore"]
    found = scores([heard(labels=labels, named=named, response=[0.9, 0.2, 0.3, 0.1])])
    assert found["state/accuracy"] == Score(0.75, 4)
    assert found["state/f1_response"] == Score(pytest.approx(2 / 3), 2)
    assert found["state/f1_incomplete"] == Score(1.0, 1)
    assert found["state/macro_f1"].value == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)
    matrix = confusion([heard(labels=labels, named=named)])
    assert (
        matrix["response", "ignore"] == 1
        and matrix["ignore", "response"] == 0
        and sum(matrix.values()) == 4
    )


def test_a_threshold_is_reached_by_what_equals_it():
    labels = ["response", "response", "ignore", "incomplete", "ignore"]
    points = {
        p.threshold: p for p in curve([heard(labels=labels, response=[0.9, 0.5, 0.5, 0.3, 0.0])])
    }
    assert points[0.0][1:] == (1.0, 1.0)
    assert points[0.5][1:] == (1.0, pytest.approx(1 / 3))
    assert points[0.51][1:] == (0.5, 0.0)
    assert points[1.0][1:] == (0.0, 0.0)
    with pytest.raises(ValueError, match="test_dialogues"):
        curve([heard()])


# ---- taking over


@pytest.mark.parametrize(
    ("begun", "latency_s", "premature"), [(9, 0.0, 0), (10, 0.2, 0), (14, 1.0, 0), (7, 0.0, 1)]
)
def test_latency_is_from_the_end_of_speech_to_the_end_of_the_slice(begun, latency_s, premature):
    found = heard([question()], [Reply(begun, begun, "four")])
    assert value(found, "turn/takeover_rate") == [1]
    assert value(found, "turn/latency_s") == [pytest.approx(latency_s)]
    assert value(found, "turn/premature_rate") == [premature]


def test_a_reply_outside_the_window_takes_nothing_over():
    found = heard([question(window=range(5, 20))], [Reply(20, 21, "four")])
    assert value(found, "turn/takeover_rate") == [0] and value(found, "turn/latency_s") is None


@pytest.mark.parametrize(("begun", "false"), [(4, 0), (5, 1), (14, 1), (15, 0)])
def test_a_pause_lasts_until_the_sound_after_it(begun, false):
    """Speech from 1 s, silent from 2 s to 3 s: what is decided at 3 s is, at 3.2 s is not, and at 1 s not yet."""
    turn = Turn("paused_question", 1.0, 4.0, (2.0, 3.0), "four", range(5, 30))
    assert value(heard([turn], [Reply(begun, begun, "x")]), "pause/false_takeover_rate") == [false]


@pytest.mark.parametrize(("begun", "false"), [(4, 0), (5, 1), (14, 1), (15, 0)])
@pytest.mark.parametrize("kind", ["talking_to_other", "background_speech", "noise", "backchannel"])
def test_an_ignored_sound_answers_for_the_second_after_it(kind, begun, false):
    found = heard([Turn(kind, 1.0, 2.0)], [Reply(begun, begun, "x")])
    assert value(found, f"ignore/false_takeover_rate/{kind}") == [false]


def test_an_ignored_sound_does_not_answer_for_the_next_question():
    turns = [Turn("noise", 1.0, 2.0), question(2.4, 2.5, range(12, 30))]
    assert value(heard(turns, [Reply(12, 12, "x")]), "ignore/false_takeover_rate/noise") == [0]


def test_silence_is_where_nothing_is_or_was_lately_heard():
    """30 slices, of which those from 1 s to 3 s are not silent."""
    turns = [Turn("noise", 1.0, 2.0), Turn("silence", 4.0, 5.0)]
    found = scores([heard(turns, [Reply(14, 14, "x"), Reply(15, 15, "x")])])
    assert found["silence/false_takeover_per_hour"] == Score(pytest.approx(3600 / (20 * 0.2)), 20)


def test_a_late_answer_is_no_false_one():
    given = [Reply(20, 20, "four"), Reply(25, 25, "x")]
    found = scores([heard([question()], given)])
    assert found["silence/false_takeover_per_hour"].value == pytest.approx(3600 / (20 * 0.2))
    assert found["turn/latency_s"].value == pytest.approx(2.2)


# ---- interruptions and answers


def test_an_interruption_stops_what_is_under_way():
    turns = [
        question(window=range(5, 15), disturbed_by="interruption"),
        Turn("interruption", 3.0, 4.0, None, "six", range(15, 30)),
    ]
    found = heard(turns, [Reply(10, 20, "a long"), Reply(20, 22, "six")])
    assert value(found, "interruption/stop_s") == [pytest.approx(1.2)]
    assert value(found, "interruption/latency_s") == [pytest.approx(0.2)]
    assert (
        value(found, "answer/exact_match")
        == value(found, "answer/exact_match_after_interruption")
        == [1]
    )
    over = heard(turns, [Reply(10, 14, "a long"), Reply(20, 22, "six")])
    assert value(over, "interruption/stop_s") is None


def test_the_last_reply_to_a_question_counts():
    assert value(
        heard([question()], [Reply(8, 9, "two"), Reply(11, 12, "four")]), "answer/exact_match"
    ) == [1]
    assert value(
        heard([question()], [Reply(8, 9, "four"), Reply(11, 12, "two")]), "answer/exact_match"
    ) == [0]
    assert value(heard([question()]), "answer/exact_match") == [0]


def test_questions_with_a_pause_are_scored_apart_too():
    paused = Turn("paused_question", 1.0, 4.0, (2.0, 3.0), "four", range(5, 30))
    found = heard(
        [paused, question(6.0, 7.0, range(30, 50))], [Reply(20, 21, "five"), Reply(35, 36, "four")]
    )
    assert value(found, "answer/exact_match_after_pause") == [0]
    assert value(found, "answer/exact_match") == [0, 1]


@pytest.mark.parametrize(("reply", "right"), [(Reply(10, 20, "four"), 1), (Reply(10, 15, "fo"), 0)])
def test_an_answer_goes_on_as_if_an_ignored_sound_were_none(reply, right):
    turns = [question(disturbed_by="talking_to_other"), Turn("talking_to_other", 2.6, 3.0)]
    found = dataclasses.replace(heard(turns, [reply]), unheard={1: "four"})
    assert (
        value(found, "answer/resumed_after_ignore")
        == value(found, "answer/exact_match_after_ignore")
        == [right]
    )
    assert value(found, "answer/exact_match") is None


def test_a_later_question_may_cut_an_answer_that_was_resumed():
    turns = [
        question(window=range(5, 20)),
        Turn("noise", 2.6, 3.0),
        question(4.0, 5.0, range(20, 30)),
    ]
    for text, right in (("fo", 1), ("tw", 0)):
        found = dataclasses.replace(
            heard(turns, [Reply(10, 25, text), Reply(25, 26, "x")]), unheard={1: "four"}
        )
        assert value(found, "answer/resumed_after_ignore") == [right]


def test_compute():
    one = dataclasses.replace(
        heard(), compute_ms=[10.0] * 98 + [50.0, 90.0], lm_bytes=3, all_bytes=7
    )
    found = scores([one])
    assert found["slice/median_ms"].value == 10 and found["slice/p99_ms"].value == 50
    assert found["slice/real_time_factor"].value == pytest.approx(1.12 / 20)
    assert found["memory/lm_bytes"].value == 3 and found["memory/all_bytes"].value == 7


# ---- live


def untrained(stage: str = "streaming", *words: str) -> StageCheckpoint:
    config = load_config([TINY[0], f"configs/stage/{stage}.yaml", *STREAMING[2:], *words])
    torch.manual_seed(0)
    rng = random.Random(0)
    tokens = Tokenizer.train(f" {grammar.draw(rng, 'train').text}" for _ in range(300))
    return StageCheckpoint(config, tokens, SpeechLM(config.model).state_dict())


def session_of(config: Config, given: StageCheckpoint) -> ForkSession:
    model = SpeechLM(config.model)
    model.load_state_dict(given.weights)
    assert given.tokenizer is not None
    return ForkSession(model.eval(), given.tokenizer, config.duplex)


def test_an_answer_finished_at_once_is_the_one_that_would_have_come():
    given = untrained("streaming", "duplex.response_threshold=1e-9", "duplex.max_tokens=6")
    session = session_of(given.config, given)
    session.push(torch.randn(2 * session.slice_samples) * 0.1)
    moment = session.snapshot()
    assert moment.response is not None
    deaf = session_of(override(given.config, ["duplex.response_threshold=0.999999"]), given)
    deaf.restore(moment)
    events = deaf.push(torch.zeros(40 * session.slice_samples))
    begun = session.tokenizer.decode(list(moment.response.emitted))
    assert begun + "".join(event.text for event in events) == session.finish() != begun
    assert not session.answering and session.finish() == ""


@pytest.mark.parametrize("stage", ["state", "streaming"])
def test_evaluate_duplex(stage: str, tmp_path: Path, capsys):
    pytest.importorskip("espeakng_loader")
    run, file = tmp_path / "run", tmp_path / "mine.json"
    run.mkdir()
    untrained(stage, "duplex.max_tokens=4").save(run / FILE)
    words = ["data.test_dialogues=2", "duplex.response_threshold=0.2", "seed=188"]  # all kinds
    found = evaluate.main(["duplex", str(run), *words, "--json", str(file)])
    assert json.loads(file.read_text()) == found
    lines = [
        json.loads(line) for line in (run / "scores" / "duplex.jsonl").read_text().splitlines()
    ]
    assert len(lines) == found["count/dialogues"] == 2
    assert max(len(line["turns"]) for line in lines) > 1
    names = {
        "state/accuracy", "state/macro_f1", "state/f1_response", "state/confusion/response/ignore",
        "answer/exact_match", "answer/exact_match_after_interruption", "answer/exact_match_after_ignore",
        "answer/resumed_after_ignore", "interruption/takeover_rate", "interruption/latency_s", "interruption/stop_s",
        "pause/false_takeover_rate", "turn/takeover_rate", "turn/latency_s",
        "ignore/false_takeover_rate/talking_to_other",
        "ignore/false_takeover_rate/backchannel", "silence/false_takeover_per_hour", "slice/median_ms",
        "slice/p99_ms", "slice/real_time_factor", "memory/lm_bytes", "memory/all_bytes",
    }  # fmt: skip
    assert names <= found.keys()
    assert found["memory/lm_bytes"] * 2 < found["memory/all_bytes"]
    slices = sum(value for name, value in found.items() if name.startswith("state/confusion/"))
    assert slices == sum(len(line["label/named"]) for line in lines)
    points = json.loads((run / "scores" / "duplex_curve.json").read_text())
    assert points[0]["recall"] == points[0]["false_positive_rate"] == 1
    assert (run / "scores" / "duplex.png").stat().st_size > 10_000
    assert f"(stage {stage}): 2 test dialogues" in capsys.readouterr().out


def test_a_run_that_cannot_answer_says_so(tmp_path: Path):
    given = untrained()
    stage = dataclasses.replace(given.config.stage, name="encoder")
    StageCheckpoint(
        dataclasses.replace(given.config, stage=stage), given.tokenizer, given.weights
    ).save(tmp_path / FILE)
    with pytest.raises(ValueError, match="stage encoder.*name a run of stage state or streaming"):
        evaluate.main(["duplex", str(tmp_path)])
