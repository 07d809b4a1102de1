"""Turn-taking systems: baselines, their scores, and the comparison with the model."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import evaluate
from evaluation.duplex import comparison
from evaluation.duplex.comparison import HeardTurn, Point
from evaluation.duplex.dialogues import PlayedDialogue, Turn
from evaluation.duplex.heard_turns import HeardTurns, questions_of
from evaluation.duplex.play import play
from evaluation.duplex.systems import BASELINES, open_baselines, setting_name, silence_thresholds
from evaluation.duplex.systems.energy import FRAME_S, open_energy, speech_frames
from evaluation.duplex.systems.own import never_answering
from evaluation.duplex.systems.silence import silence_after_speech_s, silence_scores
from evaluation.duplex.systems.silero import with_hysteresis
from evaluation.duplex.systems.smart_turn import SmartTurn, _scores
from evaluation.duplex.turn_scores import at, between
from evaluation.finished_run import open_run
from lightning_modules.sessions import open_sessions
from tests.turn_benchmarks import RATE_HZ, approx, run_folder, scored


def speech(*spans: tuple[float, float], seconds: float = 4.0, noise: float = 1e-4) -> np.ndarray:
    """A tone in some spans, and noise."""
    time_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    samples = noise * np.random.default_rng(0).standard_normal(len(time_s))
    for start_s, end_s in spans:
        inside = (time_s >= start_s) & (time_s < end_s)
        samples += inside * 0.1 * np.sin(2 * np.pi * 300 * time_s)
    return samples.astype(np.float32)


# ---- scores


def test_values_are_those_known_at_a_time():
    scores = scored([0.1, 0.2, 0.3])
    assert at(scores, scores.ended, np.array([0.1, 0.2, 0.39, 0.6, 9.0])).tolist() == [
        0,
        0.1,
        0.1,
        0.3,
        0.3,
    ]
    assert between(scores, 0.2, 0.6).ended.tolist() == [0.2, 0.3]


# ---- baselines


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_that_is_not_installed_says_how_to_install_it(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    baseline = BASELINES[name]
    if not baseline.needs:
        assert baseline.open(RATE_HZ).name == name
        return
    with pytest.raises(ImportError, match=f"BASELINE={name} needs .*: pip install"):
        baseline.open(RATE_HZ)
    assert [system.name for system in open_baselines("all", RATE_HZ)] == ["energy"]


def test_baselines_are_named():
    assert open_baselines("", RATE_HZ) == []
    with pytest.raises(
        ValueError, match="unknown baseline 'smart_turn'.*Did you mean 'smart-turn'"
    ):
        open_baselines("energy,smart_turn", RATE_HZ)
    assert setting_name("energy", "0.2 s") == "energy_0.2s" and setting_name("model", "") == "model"


def test_silence_is_counted_from_the_end_of_speech():
    """Frames of 0.1 s; sound has to last 0.2 s to be speech, and so has a gap to divide it."""
    speaks = np.array([0, 1, 0, 1, 1, 0, 1, 0, 0, 0, 1, 0, 0], bool)
    silences_s = silence_after_speech_s(speaks, 0.1, 0.2)
    assert np.isnan(silences_s[:3]).all(), "a click is no speech"
    assert silences_s[3:].tolist() == approx([0, 0, 0.1, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])


def test_scores_of_silence_reach_their_thresholds_on_time():
    speaks = np.array([1] * 10 + [0] * 60, bool)
    scores = silence_scores(speaks, 0.1, 0.2)
    for setting, threshold in silence_thresholds().items():
        [first] = np.flatnonzero(scores.ended >= threshold - 1e-9)[:1]
        assert scores.times_s[first] - 1.0 == approx(float(setting.split()[0])), setting
    assert scores.ended[-1] == 1 and scores.addressed[:12].tolist() == [0, *[1] * 9, 0, 0]


@pytest.mark.parametrize("gain", [1.0, 0.05])
def test_energy_finds_speech_at_any_level(gain: float):
    samples = gain * speech((1.0, 2.0), (2.3, 3.0), noise=2e-3)
    found = np.flatnonzero(speech_frames(samples, RATE_HZ)) * FRAME_S
    assert found.min() == approx(1.0) and found.max() == approx(2.98)
    scores = open_energy(RATE_HZ)(samples)
    assert at(scores, scores.ended, np.array([0.9, 1.9, 2.2, 2.9, 3.4])).tolist() == approx(
        [0, 0, 0.05, 0, 0.1]
    )


def test_energy_uses_no_later_audio():
    samples = speech((0.5, 1.0), (2.0, 3.0))
    whole = speech_frames(samples, RATE_HZ)
    assert (speech_frames(samples[: 2 * RATE_HZ], RATE_HZ) == whole[:100]).all()


def test_speech_ends_below_a_lower_threshold():
    values = np.array([0.4, 0.5, 0.4, 0.35, 0.34, 0.4])
    assert with_hysteresis(values, 0.5, 0.35).tolist() == [False, True, True, True, False, False]


def test_smart_turn_hears_a_turn_on_the_right_of_its_window():
    """The end of a turn is at the end of the window; longer turns lose their beginning."""
    from transformers import WhisperFeatureExtractor

    model = SmartTurn.__new__(SmartTurn)
    model._features = WhisperFeatureExtractor(chunk_length=8)
    turn = speech((0.0, 2.0), seconds=2.0)
    features = model.features(turn)
    assert features.shape == (1, 80, 800) and features.dtype == np.float32
    levels = features[0].mean(0)
    assert levels[:590].max() < levels[610:].min()
    long = np.concatenate([speech(seconds=3.0), np.zeros(6 * RATE_HZ, np.float32), turn])
    assert np.array_equal(model.features(long), model.features(long[-8 * RATE_HZ :]))


class Judge:
    """Stands for smart-turn: keeps what it hears, and answers from a list."""

    def __init__(self, *answers: float):
        self.answers = list(answers)
        self.heard_s: list[float] = []

    def probability(self, turn: np.ndarray) -> float:
        self.heard_s.append(len(turn) / RATE_HZ)
        return self.answers.pop(0)


def test_smart_turn_is_asked_once_in_each_silence_after_speech():
    """Speech from 1.024 to 2.048 s and from 2.56 to 3.072 s, in frames of 32 ms."""
    speaks = np.zeros(250, bool)
    speaks[32:64] = True
    speaks[80:96] = True
    judge = Judge(0.3, 0.9)
    scores = _scores(np.zeros(8 * RATE_HZ, np.float32), speaks, judge)  # type: ignore[arg-type]
    assert at(scores, scores.ended, np.array([0.9, 2.2, 2.3, 2.9, 3.2, 3.4, 6.0, 6.2])).tolist() == [
        0, 0, 0.3, 0, 0, 0.9, 0.9, 1.0,
    ]  # fmt: skip
    # From 0.5 s before the first speech of the turn, which goes on after the first answer.
    assert judge.heard_s == [approx(2.272 - 0.524, abs=0.04), approx(3.296 - 0.524, abs=0.04)]
    silent = Judge()
    _scores(np.zeros(RATE_HZ, np.float32), np.zeros(31, bool), silent)  # type: ignore[arg-type]
    assert silent.heard_s == [], "silence alone would be judged complete"


def test_real_weights_where_they_are_installed():
    pytest.importorskip("onnxruntime")
    if BASELINES["smart-turn"].missing():
        pytest.skip("pipecat-ai is not installed")
    for system in open_baselines("silero,smart-turn", RATE_HZ):
        scores = system.listen(speech(seconds=2.0))
        assert scores.ended.max() == 0, f"{system.name}: nobody has spoken"


# ---- comparison


def turn(ended: list[float], pause_s: tuple[float, float] | None = (1.0, 1.8)) -> HeardTurn:
    """A turn from 0 to 3 s, with scores every 0.2 s."""
    return HeardTurn(0.0, 3.0, pause_s, scored(ended))


def steps(**values: float) -> list[float]:
    """Scores of 30 steps, all 0 but some: at_6=0.9 is the step that ends at 1.2 s."""
    scores = [0.0] * 30
    for name, value in values.items():
        scores[int(name.removeprefix("at_")) - 1] = value
    return scores


def test_a_pause_and_the_end_are_scored_apart():
    both = turn(steps(at_6=0.6, at_17=0.8))
    assert comparison.point([both], 0.5) == Point(0.5, 1, approx(0.4), 0, 0)
    assert comparison.point([both], 0.7) == Point(0.7, 0, approx(0.4), 0, 0)
    assert comparison.point([both], 0.9) == Point(0.9, 0, approx(3.0), 0, 1), "never: the timeout"
    early = turn(steps(at_12=0.6))
    assert comparison.point([early], 0.5) == Point(0.5, 0, 0, 1, 0), "premature is not fast"
    at_the_end = turn(steps(at_9=0.6, at_15=0.6))
    assert comparison.point([at_the_end], 0.5) == Point(0.5, 1, 0, 0, 0), "1.8 s is in the pause"


def test_a_score_that_is_high_from_the_start_is_that_of_the_silence_before():
    waiting = turn([0.9, 0.9, 0.9, *steps(at_17=0.9)[3:]])
    assert comparison.point([waiting], 0.5) == Point(0.5, 0, approx(0.4), 0, 0)


def test_means_are_over_pauses_and_over_turns():
    turns = [turn(steps(at_6=0.9, at_16=0.9)), turn(steps(at_20=0.9)), turn(steps(at_16=0.9), None)]
    found = comparison.point(turns, 0.5)
    assert found.false_takeover_rate == 0.5
    assert found.latency_s == approx((0.2 + 1.0 + 0.2) / 3)
    thresholds = [each.threshold for each in comparison.curve(turns)]
    assert thresholds == [0.9] and comparison.curve([turn([0.0] * 30)]) == []


def test_a_baseline_beats_the_model_where_no_threshold_is_as_good():
    model = [Point(0.1, 0.5, 0.2, 0, 0), Point(0.5, 0.1, 0.4, 0, 0), Point(0.9, 0.0, 0.8, 0, 0)]
    assert comparison.beaten_by(model, Point(0, 0.2, 0.5, 0, 0)) == model[1]
    assert comparison.beaten_by(model, Point(0, 0.1, 0.4, 0, 0)) == model[1], "equal is not better"
    assert comparison.beaten_by(model, Point(0, 0.05, 0.5, 0, 0)) is None
    assert comparison.beaten_by(model, Point(0, 0.9, 0.1, 0, 0)) is None, "none is as fast"
    settings = {"model": {"": model[0]}, "energy": {"0.5 s": Point(0, 0.05, 0.5, 0, 0)}}
    assert comparison.findings({"model": model}, settings, "model") == [
        "energy 0.5 s (5.0% false take-overs in pauses at 0.50 s) beats the model"
    ]


def test_questions_end_where_the_next_turn_begins():
    turns = [Turn("question", 0.0, 1.0), Turn("noise", 2.0, 3.0), Turn("paused_question", 5.0, 6.0)]
    dialogue = PlayedDialogue("one", 0.2, turns, [])
    assert [(each.turn.kind, each.until_s) for each in questions_of(dialogue)] == [
        ("question", 2.0), ("paused_question", 9.0),
    ]  # fmt: skip


def test_observing_a_session_changes_nothing(tmp_path: Path):
    run = open_run(run_folder(tmp_path), [])
    open_session = open_sessions(run.checkpoint, run.config, run.folder)
    turns = [Turn("question", 0.4, 1.0), Turn("noise", 1.2, 1.4)]
    script = PlayedDialogue("one", 0.2, turns, ["ignore"] * 10)
    samples = speech((0.4, 1.0), seconds=2.0)
    heard = HeardTurns(open_sessions(run.checkpoint, never_answering(run.config), run.folder), [])
    alone = play(open_session, samples, script)
    beside = play(open_session, samples, script, heard.observers(script, samples))
    no_times = {"compute_ms": ()}
    assert dataclasses.replace(beside, **no_times) == dataclasses.replace(alone, **no_times)
    [question] = heard.of_system["model"]
    assert question.scores.times_s.tolist() == approx([0.6, 0.8, 1.0, 1.2])
    assert question.scores.ended.max() > 0


def test_a_run_beside_baselines(tmp_path: Path):
    run = run_folder(tmp_path)
    kinds = dataclasses.asdict(open_run(run, []).config.dialogue.shares)
    settings = [f"dialogue.shares.{kind}={float(kind == 'paused_question')}" for kind in kinds]
    settings += ["data.test_dialogues=1", "dialogue.events=[2,2]"]
    values = evaluate.main(["duplex", str(run), *settings, "--baseline", "energy"])
    names = {key.split("/")[1] for key in values if key.startswith("systems/")}
    assert names == {"model", "energy_0.2s", "energy_0.5s", "energy_0.7s", "energy_1.0s"}
    content = json.loads((run / "scores" / "duplex_systems.json").read_text())
    assert content["num_pauses"] == 2 and set(content["curves"]) == {"model", "energy"}
    assert len(content["findings"]) == 4
    assert (run / "scores" / "duplex_systems.png").stat().st_size > 0
