"""Scores of dialogues: hand-made records with known scores, and the entry point with an untrained model."""

import dataclasses
import json
import math
import random
from pathlib import Path

import pytest
import torch

import evaluate
from configs.loading import load_config, override
from configs.schema import Config
from datamodules.synthetic import grammar
from duplexmamba.duplex.events import EmittedResponse
from duplexmamba.duplex.fork import ForkSession
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.text.tokenizer import Tokenizer
from evaluation.duplex import live_dialogues
from evaluation.duplex.dialogues import (
    PlayedDialogue,
    Turn,
    cases_of,
    confusion,
    curve,
    invented,
    scores,
)
from evaluation.duplex.unaddressed import SILENCE_S, answers_to_unaddressed, play_unaddressed
from evaluation.record import ScoreValue
from lightning_modules.stages import STAGE_REGISTRY
from lightning_modules.trainer.checkpoint import FILE, StageCheckpoint
from tests.conftest import ALL_TURNS, SMALL_SIZES, TINY
from tests.corpora import sound, write

STREAMING = [TINY[0], "configs/stage/streaming.yaml", *SMALL_SIZES, "trainer.accelerator=cpu"]


def dialogue(turns=(), responses=(), count=30, **fields) -> PlayedDialogue:
    """A dialogue of 200 ms slices, all labelled and predicted as `ignore`."""
    values = {
        "labels": ["ignore"] * count,
        "predicted": ["ignore"] * count,
        "response": [0.0] * count,
        "paused": [False] * count,
        **fields,
    }
    return PlayedDialogue(
        "one", 0.2, turns, **values, responses=responses, compute_ms=[10.0] * count
    )


def response(start_slice: int, stop_slice: int, text: str) -> EmittedResponse:
    return EmittedResponse(start_slice, stop_slice, text, complete=True)


def question(start_s=1.0, end_s=2.0, window=range(5, 30), **fields) -> Turn:
    return Turn("question", start_s, end_s, answer="four", window=window, **fields)


def value(played: PlayedDialogue, name: str) -> list[float] | None:
    return cases_of(played).get(name)


# ---- states


def test_state_scores_count_slices():
    labels = ["response", "response", "incomplete", "ignore"]
    predicted = ["response", "ignore", "incomplete", "ignore"]
    values = scores([dialogue(labels=labels, predicted=predicted, response=[0.9, 0.2, 0.3, 0.1])])
    assert values["state/accuracy"] == ScoreValue(0.75, 4)
    assert values["state/f1_response"] == ScoreValue(pytest.approx(2 / 3), 2)
    assert values["state/f1_incomplete"] == ScoreValue(1.0, 1)
    assert values["state/macro_f1"].value == pytest.approx((2 / 3 + 1 + 2 / 3) / 3)
    matrix = confusion([dialogue(labels=labels, predicted=predicted)])
    assert (
        matrix["response", "ignore"] == 1
        and matrix["ignore", "response"] == 0
        and sum(matrix.values()) == 4
    )


def test_an_equal_probability_reaches_the_threshold():
    labels = ["response", "response", "ignore", "incomplete", "ignore"]
    points = {
        p.threshold: p for p in curve([dialogue(labels=labels, response=[0.9, 0.5, 0.5, 0.3, 0.0])])
    }
    assert points[0.0][1:] == (1.0, 1.0)
    assert points[0.5][1:] == (1.0, pytest.approx(1 / 3))
    assert points[0.51][1:] == (0.5, 0.0)
    assert points[1.0][1:] == (0.0, 0.0)
    with pytest.raises(ValueError, match="test_dialogues"):
        curve([dialogue()])


# ---- taking over


@pytest.mark.parametrize(
    ("start_slice", "latency_s", "premature"),
    [(9, 0.0, 0), (10, 0.2, 0), (14, 1.0, 0), (7, 0.0, 1)],
)
def test_latency_is_measured_from_the_end_of_speech_to_the_end_of_the_slice(
    start_slice, latency_s, premature
):
    played = dialogue([question()], [response(start_slice, start_slice, "four")])
    assert value(played, "turn/takeover_rate") == [1]
    assert value(played, "turn/latency_s") == [pytest.approx(latency_s)]
    assert value(played, "turn/premature_rate") == [premature]


def test_a_response_outside_the_window_is_no_takeover():
    played = dialogue([question(window=range(5, 20))], [response(20, 21, "four")])
    assert value(played, "turn/takeover_rate") == [0] and value(played, "turn/latency_s") is None


@pytest.mark.parametrize(("start_slice", "false"), [(4, 0), (5, 1), (14, 1), (15, 0)])
def test_a_false_takeover_in_a_pause_is_decided_before_speech_continues(start_slice, false):
    """Speech starts at 1 s and pauses from 2 s to 3 s. A decision at 3 s is false, at 3.2 s or at 1 s it is not."""
    turn = Turn("paused_question", 1.0, 4.0, (2.0, 3.0), "four", range(5, 30))
    assert value(
        dialogue([turn], [response(start_slice, start_slice, "x")]), "pause/false_takeover_rate"
    ) == [false]


@pytest.mark.parametrize(("start_slice", "false"), [(4, 0), (5, 1), (14, 1), (15, 0)])
@pytest.mark.parametrize("kind", ["talking_to_other", "background_speech", "noise", "backchannel"])
def test_responses_up_to_a_second_after_an_ignored_sound_are_attributed_to_it(
    kind, start_slice, false
):
    played = dialogue([Turn(kind, 1.0, 2.0)], [response(start_slice, start_slice, "x")])
    assert value(played, f"ignore/false_takeover_rate/{kind}") == [false]


def test_a_response_to_the_next_question_is_not_attributed_to_an_ignored_sound():
    turns = [Turn("noise", 1.0, 2.0), question(2.4, 2.5, range(12, 30))]
    assert value(dialogue(turns, [response(12, 12, "x")]), "ignore/false_takeover_rate/noise") == [
        0
    ]


def test_silence_excludes_sounds_and_the_second_after_them():
    """There are 30 slices; those from 1 s to 3 s are not silent."""
    turns = [Turn("noise", 1.0, 2.0), Turn("silence", 4.0, 5.0)]
    values = scores([dialogue(turns, [response(14, 14, "x"), response(15, 15, "x")])])
    assert values["silence/false_takeover_per_hour"] == ScoreValue(
        pytest.approx(3600 / (20 * 0.2)), 20
    )


def test_a_late_answer_is_not_a_false_takeover():
    responses = [response(20, 20, "four"), response(25, 25, "x")]
    values = scores([dialogue([question()], responses)])
    assert values["silence/false_takeover_per_hour"].value == pytest.approx(3600 / (20 * 0.2))
    assert values["turn/latency_s"].value == pytest.approx(2.2)


# ---- interruptions and answers


def test_an_interruption_stops_the_response_in_progress():
    turns = [
        question(window=range(5, 15), disturbed_by="interruption"),
        Turn("interruption", 3.0, 4.0, None, "six", range(15, 30)),
    ]
    played = dialogue(turns, [response(10, 20, "a long"), response(20, 22, "six")])
    assert value(played, "interruption/stop_s") == [pytest.approx(1.2)]
    assert value(played, "interruption/latency_s") == [pytest.approx(0.2)]
    assert (
        value(played, "answer/exact_match")
        == value(played, "answer/exact_match_after_interruption")
        == [1]
    )
    stopped_before = dialogue(turns, [response(10, 14, "a long"), response(20, 22, "six")])
    assert value(stopped_before, "interruption/stop_s") is None


def test_the_last_response_to_a_question_counts():
    assert value(
        dialogue([question()], [response(8, 9, "two"), response(11, 12, "four")]),
        "answer/exact_match",
    ) == [1]
    assert value(
        dialogue([question()], [response(8, 9, "four"), response(11, 12, "two")]),
        "answer/exact_match",
    ) == [0]
    assert value(dialogue([question()]), "answer/exact_match") == [0]


def test_paused_questions_also_have_a_score_of_their_own():
    paused = Turn("paused_question", 1.0, 4.0, (2.0, 3.0), "four", range(5, 30))
    played = dialogue(
        [paused, question(6.0, 7.0, range(30, 50))],
        [response(20, 21, "five"), response(35, 36, "four")],
    )
    assert value(played, "answer/exact_match_after_pause") == [0]
    assert value(played, "answer/exact_match") == [0, 1]


@pytest.mark.parametrize(
    ("answer", "resumed"), [(response(10, 20, "four"), 1), (response(10, 15, "fo"), 0)]
)
def test_an_answer_resumes_as_without_the_ignored_sound(answer, resumed):
    turns = [question(disturbed_by="talking_to_other"), Turn("talking_to_other", 2.6, 3.0)]
    played = dataclasses.replace(dialogue(turns, [answer]), undisturbed={1: "four"})
    assert (
        value(played, "answer/resumed_after_ignore")
        == value(played, "answer/exact_match_after_ignore")
        == [resumed]
    )
    assert value(played, "answer/exact_match") is None


def test_a_later_question_may_interrupt_a_resumed_answer():
    turns = [
        question(window=range(5, 20)),
        Turn("noise", 2.6, 3.0),
        question(4.0, 5.0, range(20, 30)),
    ]
    for text, resumed in (("fo", 1), ("tw", 0)):
        played = dataclasses.replace(
            dialogue(turns, [response(10, 25, text), response(25, 26, "x")]),
            undisturbed={1: "four"},
        )
        assert value(played, "answer/resumed_after_ignore") == [resumed]


@pytest.mark.parametrize(
    ("stop_slice", "complete", "obeyed"),
    [
        (12, False, [1]),  # interrupted 0.6 s after the command
        (13, False, [1]),
        (16, False, [0]),  # by something else
        (25, True, [0]),  # it goes on to its end
        (12, True, None),  # it ends by itself
    ],
)
def test_stop_is_obeyed_if_the_response_does_not_go_on(stop_slice, complete, obeyed):
    turns = [question(0.0, 1.0), Turn("stop", 1.4, 2.0, answer="okay")]
    old = EmittedResponse(5, stop_slice, "one two", complete)
    assert value(dialogue(turns, [old]), "stop/obeyed") == obeyed


def test_the_pause_at_an_onset_is_measured_to_the_end_of_its_first_slice():
    turns = [question(0.0, 1.0), Turn("talking_to_other", 2.1, 3.0)]
    paused = [slice_ in range(11, 17) for slice_ in range(30)]
    played = dialogue(turns, [response(5, 25, "one two")], paused=paused)
    assert value(played, "onset/pause_s") == [pytest.approx(0.3)]
    # A pause long after the sound is not due to it, and without a pause there is no time.
    late = [slice_ in range(20, 22) for slice_ in range(30)]
    for other in (late, [False] * 30):
        played = dialogue(turns, [response(5, 25, "one two")], paused=other)
        assert value(played, "onset/pause_s") is None


def test_an_interruption_also_ends_the_emission():
    turns = [question(0.0, 1.0), Turn("interruption", 2.1, 3.0, answer="six", window=range(10, 30))]
    old = EmittedResponse(5, 15, "one two", complete=False)
    played = dialogue(turns, [old, response(15, 16, "six")])
    assert value(played, "onset/pause_s") == [pytest.approx(1.1)]
    assert value(dialogue([Turn("noise", 2.1, 3.0)], [old]), "onset/pause_s") is None


def test_only_another_answer_outside_the_grammar_is_invented():
    turn = Turn("out_of_grammar", 1.0, 2.0, answer="sorry", window=range(5, 30))
    spoken = [[], ["sorry"], ["the radio is on"], ["sorry", "two"]]
    played = [dialogue([turn], [response(11, 12, text) for text in texts]) for texts in spoken]
    assert invented(played) == {"answer/invented_rate": ScoreValue(0.5, 4)}
    assert invented([]) == {}


def test_any_response_to_talk_of_others_is_an_answer():
    played = [dialogue([], [response(2, 4, "one"), response(9, 10, "")]), dialogue([], [])]
    score = answers_to_unaddressed(played)["unaddressed/answers_per_hour"]
    # two in 60 slices of 0.2 s
    assert score.value == pytest.approx(600) and score.num_cases == 2
    assert answers_to_unaddressed([]) == {}


def test_recordings_are_heard_whole_with_silence_after_them(tmp_path: Path, capsys):
    checkpoint = untrained("streaming", "duplex.response_threshold=0.999999")
    sound(tmp_path / "radio" / "0.wav", 1.1)
    write(tmp_path / "1.flac", "no sound")
    played = play_unaddressed(str(tmp_path), lambda: session_of(checkpoint.config, checkpoint))
    assert [one.id for one in played] == ["radio/0.wav"] and not played[0].responses
    num_slices = math.ceil((1.1 + SILENCE_S) / played[0].slice_s)
    assert len(played[0].predicted) == len(played[0].labels) == num_slices
    assert "left out: " in capsys.readouterr().out
    with pytest.raises(ValueError, match="data.test_unaddressed=.*nowhere"):
        play_unaddressed(
            str(tmp_path / "nowhere"), lambda: session_of(checkpoint.config, checkpoint)
        )


def test_cost():
    played = dataclasses.replace(
        dialogue(), compute_ms=[10.0] * 98 + [50.0, 90.0], lm_bytes=3, all_bytes=7
    )
    values = scores([played])
    assert values["slice/median_ms"].value == 10 and values["slice/p99_ms"].value == 50
    assert values["slice/real_time_factor"].value == pytest.approx(1.12 / 20)
    assert values["memory/lm_bytes"].value == 3 and values["memory/all_bytes"].value == 7


# ---- live


def untrained(stage: str = "streaming", *overrides: str) -> StageCheckpoint:
    """Checkpoint of a very small model with random weights."""
    config = load_config([TINY[0], f"configs/stage/{stage}.yaml", *STREAMING[2:], *overrides])
    torch.manual_seed(0)
    rng = random.Random(0)
    tokenizer = Tokenizer.train(f" {grammar.draw(rng, 'train').text}" for _ in range(300))
    model = STAGE_REGISTRY[stage].model(config.model)
    return StageCheckpoint(config, tokenizer, model.state_dict())


def session_of(config: Config, checkpoint: StageCheckpoint) -> ForkSession:
    model = SpeechLM(config.model)
    model.load_state_dict(checkpoint.weights)
    assert checkpoint.tokenizer is not None
    return ForkSession(model.eval(), checkpoint.tokenizer, config.duplex)


def test_finish_returns_the_rest_of_the_response_in_progress():
    checkpoint = untrained("streaming", "duplex.response_threshold=1e-9", "duplex.max_tokens=6")
    session = session_of(checkpoint.config, checkpoint)
    session.push(torch.randn(2 * session.slice_samples) * 0.1)
    state = session.snapshot()
    assert state.response is not None
    unresponsive = session_of(
        override(checkpoint.config, ["duplex.response_threshold=0.999999"]), checkpoint
    )
    unresponsive.restore(state)
    events = unresponsive.push(torch.zeros(40 * session.slice_samples))
    text_so_far = session.tokenizer.decode(list(state.response.emitted))
    assert text_so_far + "".join(event.text for event in events) == session.finish() != text_so_far
    assert not session.answering and session.finish() == ""


@pytest.mark.parametrize("stage", ["state", "streaming"])
def test_evaluate_duplex(stage: str, tmp_path: Path, capsys):
    pytest.importorskip("espeakng_loader")
    run = tmp_path / "run"
    file = tmp_path / "mine.json"
    run.mkdir()
    untrained(stage, "duplex.max_tokens=4").save(run / FILE)
    overrides = [
        "data.test_dialogues=2",
        "duplex.response_threshold=0.2",
        "seed=1515",
        *ALL_TURNS,
        f"data.test_unaddressed={sound(tmp_path / 'radio' / '0.wav', 1.0).parent}",
    ]  # with this seed the dialogues have all kinds of turns
    values = evaluate.main(["duplex", str(run), *overrides, "--json", str(file)])
    assert json.loads(file.read_text()) == values
    lines = [
        json.loads(line) for line in (run / "scores" / "duplex.jsonl").read_text().splitlines()
    ]
    assert len(lines) == values["count/dialogues"] == 2
    outside = (run / "scores" / "out_of_grammar.jsonl").read_text().splitlines()
    assert len(outside) == 4
    for line in map(json.loads, outside):
        [turn] = line["turns"]
        assert turn["kind"] == "out_of_grammar" and turn["answer"] == "sorry i did not understand"
    assert max(len(line["turns"]) for line in lines) > 1
    names = {
        "state/accuracy", "state/macro_f1", "state/f1_response", "state/confusion/response/ignore",
        "answer/exact_match", "answer/exact_match_after_interruption", "answer/exact_match_after_ignore",
        "answer/resumed_after_ignore", "interruption/takeover_rate", "interruption/latency_s", "interruption/stop_s",
        "answer/invented_rate", "stop/obeyed", "onset/pause_s", "unaddressed/answers_per_hour",
        "pause/false_takeover_rate", "turn/takeover_rate", "turn/latency_s",
        "ignore/false_takeover_rate/talking_to_other",
        "ignore/false_takeover_rate/backchannel", "silence/false_takeover_per_hour", "slice/median_ms",
        "slice/p99_ms", "slice/real_time_factor", "memory/lm_bytes", "memory/all_bytes",
    }  # fmt: skip
    assert names <= values.keys()
    assert values["memory/lm_bytes"] * 2 < values["memory/all_bytes"]
    num_slices = sum(value for name, value in values.items() if name.startswith("state/confusion/"))
    assert num_slices == sum(len(line["label/named"]) for line in lines)
    points = json.loads((run / "scores" / "duplex_curve.json").read_text())
    assert points[0]["recall"] == points[0]["false_positive_rate"] == 1
    assert (run / "scores" / "duplex.png").stat().st_size > 10_000
    assert f"(stage {stage}): 2 test dialogues" in capsys.readouterr().out


def test_a_folder_without_recordings_is_refused_before_anything_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("espeakng_loader")
    untrained("streaming").save(tmp_path / FILE)

    def fail(*_: object) -> None:
        raise AssertionError("played")

    monkeypatch.setattr(live_dialogues, "play_all", fail)
    with pytest.raises(ValueError, match="data.test_unaddressed=.*nowhere"):
        evaluate.main(["duplex", str(tmp_path), f"data.test_unaddressed={tmp_path / 'nowhere'}"])


def test_a_run_without_responses_is_rejected(tmp_path: Path):
    checkpoint = untrained()
    stage = dataclasses.replace(checkpoint.config.stage, name="encoder", data="speech")
    StageCheckpoint(
        dataclasses.replace(checkpoint.config, stage=stage),
        checkpoint.tokenizer,
        checkpoint.weights,
    ).save(tmp_path / FILE)
    with pytest.raises(ValueError, match="stage encoder.*name a run of stage state or streaming"):
        evaluate.main(["duplex", str(tmp_path)])
