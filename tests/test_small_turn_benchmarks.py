"""eot-bench, Easy-Turn and HumDial-FDBench: rules by hand, and small folders in their layouts."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import evaluate
from evaluation.duplex import easy_turn, eot_bench, eot_policy, humdial
from evaluation.duplex.eot_bench import Row
from evaluation.duplex.eot_policy import PolicyPoint, Silence
from evaluation.duplex.full_duplex_bench.words import Word
from evaluation.duplex.humdial import SystemOutput
from evaluation.duplex.published import EOT_BENCH, TURNBENCH
from evaluation.duplex.turn_scores import TurnScores
from evaluation.scorecard.card import Card, SavedScores
from tests.turn_benchmarks import approx, flac, run_folder, scored, tone

# ---- eot-bench: policies


def silence(is_end: bool, duration_s: float, *crossings: tuple[float, float]) -> Silence:
    """A silence with probabilities at some times."""
    times_s = [time_s for time_s, _ in crossings]
    return Silence(is_end, duration_s, times_s, [ended for _, ended in crossings])


def policy(
    silences: list[Silence], threshold: float, delay_s: float, timeout_s: float
) -> PolicyPoint:
    points = eot_policy.sweep(silences)
    [found] = [each for each in points if each[:3] == (threshold, delay_s, timeout_s)]
    return found


END = silence(True, 3.0, (0.4, 0.9))


@pytest.mark.parametrize(
    ("hold", "cutoff_rate"),
    [
        (silence(False, 0.5, (0.3, 0.6)), 1),  # fires at 0.3 s
        (silence(False, 0.3, (0.3, 0.6)), 0),  # speech goes on in that moment
        (silence(False, 0.5, (0.3, 0.5)), 0),  # not strictly above
        (silence(False, 0.5, (0.1, 0.6)), 1),  # early, but not before the delay
        (silence(False, 0.2, (0.1, 0.6)), 0),
        (silence(False, 1.2), 1),  # the timeout
        (silence(False, 1.0), 0),
    ],
)
def test_a_hold_is_cut_off_when_the_policy_fires_within_it(hold, cutoff_rate):
    assert policy([hold, END], 0.5, 0.2, 1.0).cutoff_rate == cutoff_rate


def test_the_latency_is_the_delay_the_first_crossing_or_the_timeout():
    hold = silence(False, 0.3)
    first = silence(True, 3.0, (0.1, 0.2), (0.4, 0.9), (0.5, 0.1))
    assert policy([hold, first], 0.5, 0.2, 1.0).latency_s == approx(0.4)
    assert policy([hold, first], 0.1, 0.2, 1.0).latency_s == approx(0.2), "0.1 s is too early"
    assert policy([hold, first], 0.5, 0.8, 1.0).latency_s == approx(0.8)
    assert policy([hold, first], 0.9, 0.2, 2.5).latency_s == approx(2.5), "never above"
    points = eot_policy.sweep([hold, first])
    assert all(each.timeout_s >= each.delay_s for each in points)
    assert len(points) == 101 * 9 * 6


def test_budgets_include_their_limit():
    points = [PolicyPoint(0, 0, 0, 0.1, 0.3), PolicyPoint(0, 0, 0, 0.05, 0.6)]
    assert eot_policy.cutoff_rate_within(points, 0.3) == 0.1
    assert eot_policy.cutoff_rate_within(points, 0.2) is None
    assert eot_policy.latency_within_s(points, 0.05) == 0.6
    assert eot_policy.latency_within_s(points, 0.04) is None


@pytest.mark.parametrize(
    ("is_end", "duration_s", "counts"),
    [
        (False, 0.19, False),
        (False, 0.2, True),
        (False, 5.0, True),
        (False, 5.1, False),
        (True, 0.1, True),
    ],
)
def test_short_and_long_holds_are_left_out(is_end, duration_s, counts):
    assert eot_policy.is_scored(silence(is_end, duration_s)) is counts


def test_holds_and_ends_are_both_needed():
    with pytest.raises(ValueError, match="0 holds and 1 ends of turns: both are needed"):
        eot_policy.sweep([END])


# ---- eot-bench: predictions


def test_a_silence_is_asked_about_every_100_ms_and_at_its_end():
    assert eot_bench.times_in(1.0, 1.25) == approx([1.0, 1.1, 1.2, 1.25])
    assert eot_bench.times_in(1.0, 1.3) == approx([1.0, 1.1, 1.2, 1.3])


def test_predictions_of_a_row():
    """The first silence is too short, the last one is the end of the turn."""
    row = Row("a", "en", None, [(0.1, 0.15), (0.4, 0.6), (1.0, 1.2)])  # type: ignore[arg-type]
    rows = eot_bench.predict(row, scored([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
    assert [(each["span_index"], each["label"], each["p_eot"]) for each in rows] == [
        (1, "hold", 0.2), (1, "hold", 0.2), (1, "hold", 0.3),
        (2, "eot", 0.5), (2, "eot", 0.5), (2, "eot", 0.6),
    ]  # fmt: skip
    hold, end = eot_bench.silences_of(rows)["en"]
    assert not hold.is_end and end.is_end and end.duration_s == approx(0.2)
    assert end.after_s == approx([0, 0.1, 0.2])


def test_two_passes_score_twice_as_often():
    """A system whose score is the time that it has heard, in slices of 0.2 s at 10 Hz of audio."""

    def listen(samples: np.ndarray) -> TurnScores:
        times_s = 0.2 * np.arange(1, len(samples) // 2 + 1)
        return TurnScores(times_s, times_s, times_s)

    scores = eot_bench.twice_as_often(listen, 10, 0.2)(np.zeros(6, np.float32))
    assert scores.times_s.tolist() == approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    assert scores.ended.tolist() == approx([0.2, 0.2, 0.4, 0.4, 0.6, 0.6])


def eot_row(name: str, spans: list[tuple[float, float]]) -> dict:
    silences = [{"start": start_s, "end": end_s} for start_s, end_s in spans]
    audio = {"bytes": flac(), "path": None}
    return {"id": name, "language": "en", "audio": audio, "silence_spans": silences}


def test_eot_bench_on_published_files(tmp_path: Path):
    run = run_folder(tmp_path)
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [eot_row("a", [(0.5, 0.9), (1.2, 2.0)]), eot_row("b", [(1.0, 2.0)])]
    pq.write_table(pa.Table.from_pylist(rows), folder / "validation.parquet")
    scores = evaluate.main(["eot-bench", str(run), str(folder), "--baseline", "energy"])
    assert scores["en/latency_at_5_percent_ms"] >= 200 and scores["data/official"] == 0
    assert "baseline/energy/en/latency_at_5_percent_ms" in scores
    written = pq.read_table(run / "scores" / "eot_bench" / "model" / "predictions.parquet")
    assert written.num_rows == 5 + 9 + 11
    assert {"id", "language", "span_index", "timestamp", "silence_dur", "p_eot", "label"} == set(
        written.column_names
    )


def test_wrong_rows_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match="no rows in parquet files"):
        eot_bench.read_rows(tmp_path)
    pq.write_table(pa.Table.from_pylist([eot_row("a", [])]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a.parquet, row group 0, row 0: silence_spans are empty"):
        eot_bench.read_rows(tmp_path)
    pq.write_table(pa.Table.from_pylist([eot_row("a", [(2, 3), (0, 1)])]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="not in order"):
        eot_bench.read_rows(tmp_path)
    pq.write_table(pa.Table.from_pylist([{"id": "a"}]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="has no column audio, language, silence_spans"):
        eot_bench.read_rows(tmp_path)


# ---- Easy-Turn


@pytest.mark.parametrize(
    ("ended", "addressed", "state"),
    [
        ([0, 0, 0, 0.9, 0.1], [1, 1, 1, 1, 0.5], "response"),
        ([0.9, 0, 0, 0.1, 0.1], [1, 1, 1, 1, 0.7], "incomplete"),  # too long before the end
        ([0, 0, 0, 0.1, 0.1], [1, 1, 1, 1, 0.5], "ignore"),  # 0.4 incomplete, 0.5 ignore
    ],
)
def test_the_state_of_a_clip_is_that_at_its_end(ended, addressed, state):
    scores = scored(ended, addressed=addressed)
    assert easy_turn.turn_state(scores, 0.6, 0.5) == state


def test_clips_of_lists_and_of_folders(tmp_path: Path):
    tone(tmp_path / "real" / "INCOMPLETE" / "1.wav")
    tone(tmp_path / "wait" / "2.wav")
    found = easy_turn.find_clips(tmp_path)
    assert {(clip.wav.name, clip.state) for clip in found} == {
        ("1.wav", "incomplete"), ("2.wav", "wait"),
    }  # fmt: skip
    lines = [
        {"wav": "wait/2.wav", "txt": "um <BACKCHANNEL>"},
        {"wav": "wait/2.wav", "txt": "x", "state": "Complete"},
    ]
    (tmp_path / "test.list").write_text("\n".join(map(json.dumps, lines)))
    assert [clip.state for clip in easy_turn.find_clips(tmp_path)] == ["backchannel", "complete"]
    values = easy_turn.scores_of({found[0]: "incomplete", found[1]: "response"})
    assert values == {"incomplete/accuracy": (1.0, 1), "wait/accuracy": (0.0, 1)}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: no JSON with `wav`"),
        ('{"wav": "none.wav", "state": "wait"}', "line 2: no file .*none.wav"),
        ('{"wav": "a.wav", "txt": "yes"}', "line 2: unknown state ''; it must be one of complete"),
    ],
)
def test_wrong_lists_are_named(tmp_path: Path, line: str, message: str):
    (tmp_path / "test.jsonl").write_text(f"\n{line}\n")
    with pytest.raises(ValueError, match=message):
        easy_turn.find_clips(tmp_path)


def test_easy_turn_on_a_folder(tmp_path: Path):
    run = run_folder(tmp_path)
    with pytest.raises(ValueError, match="no folders complete, incomplete, backchannel, wait"):
        evaluate.main(["easy-turn", str(run), str(tmp_path)])
    for state in easy_turn.EXPECTED:
        tone(tmp_path / "data" / state / "1.wav", 1.0)
    arguments = ["easy-turn", str(run), str(tmp_path / "data"), "--baseline", "energy"]
    scores = evaluate.main(arguments)
    assert [scores[f"{state}/accuracy"] for state in easy_turn.EXPECTED] == [1, 0, 0, 0]
    assert scores["baseline/energy_0.2s/complete/accuracy"] == 1
    assert scores["baseline/energy_0.5s/complete/accuracy"] == 0


# ---- HumDial-FDBench


def said(
    scenario: str, *starts_s: float, segments=((0.0, 1.0, "q"), (3.0, 4.0, "r"))
) -> SystemOutput:
    item = humdial.Item(Path(f"{scenario}.wav"), scenario, list(segments))
    words = [Word("word", start_s, start_s + 0.25) for start_s in starts_s]
    return SystemOutput(item, words, [], [(start_s, end_s) for start_s, end_s, _ in segments])


def test_the_first_response_is_counted_if_it_is_late():
    assert humdial.first_response_delay_s(said("ask", 1.5, 4.5)) == approx(0.5)
    assert humdial.first_response_delay_s(said("ask", 1.0, 4.5)) is None
    assert humdial.first_response_delay_s(said("ask")) is None


def test_silence_is_kept_between_the_first_speech_and_the_last():
    assert humdial.keeps_silent(said("pause", 0.5, 3.0))
    assert not humdial.keeps_silent(said("pause", 1.0)) and not humdial.keeps_silent(
        said("pause", 2.9)
    )


def test_delays_are_means_of_scenarios():
    """Stop and response latencies come from interruptions, first responses from all scenarios."""
    interrupted = said("ask", 1.5, 2.95, 5.0)
    two_more = [said("pause", 2.0), said("pause", 4.0)]
    delays = humdial.delays_s([interrupted, *two_more])
    assert delays == {
        "stop": approx(0.2),
        "response": approx(0.75),
        "first": approx((0.5 + 2.0) / 2),
    }
    assert humdial.delays_s([said("ask")]) == {}


@pytest.mark.parametrize(
    ("interruption", "rejection", "delay_s", "final"),
    [
        (79.3, 72.2, 1.260, 76.6),
        (75.9, 35.2, 2.531, 56.4),
        (29.6, 50.2, 2.578, 43.8),
        (35.4, 22.8, 2.876, 34.5),
    ],
)
def test_the_final_score_fits_the_published_rows(interruption, rejection, delay_s, final):
    points = 0.4 * interruption + 0.4 * rejection + 0.2 * humdial.delay_points(delay_s)
    assert points == approx(final, abs=0.06)


def test_a_final_score_needs_every_scenario():
    outputs = [said(name, 1.5, 5.0) for name in humdial.INTERRUPTIONS]
    outputs += [said(name, 3.5) for name in humdial.REJECTIONS]
    behaviours = {f"{name}.wav": "C_RESPOND" for name in humdial.INTERRUPTIONS}
    behaviours |= {f"{name}.wav": "C_RESUME" for name in humdial.REJECTIONS}
    behaviours["talk_to_others.wav"] = "C_RESPOND"
    values = humdial.scores_of(outputs, behaviours)
    assert values["interruption/respond_rate"].value == 1
    assert values["rejection/talk_to_others/rate"].value == 0
    assert values["rejection/pause/rate"].value == 1, "silence, whatever a judge says"
    assert values["rejection/rate"].value == approx(0.8) and "num_final" not in values
    overlapping = [said(name, 1.5, 2.95, 5.0) for name in humdial.INTERRUPTIONS]
    complete = humdial.scores_of([*overlapping, *outputs[5:]], behaviours)
    delay_s = complete["delay_s"].value
    expected = 0.4 * 100 + 0.4 * 80 + 0.2 * humdial.delay_points(delay_s)
    assert complete["num_final"].value == approx(expected)
    assert "interruption/respond_rate" not in humdial.scores_of(outputs, {})


def test_humdial_on_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("JUDGE_URL", "JUDGE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    run = run_folder(tmp_path)
    with pytest.raises(ValueError, match="no wav in folders named ask, deny"):
        evaluate.main(["humdial", str(run), str(tmp_path)])
    item = tmp_path / "en" / "pause" / "1_1.wav"
    tone(item)
    with pytest.raises(
        ValueError, match=r"1_1.json: No such file or directory; put the annotation"
    ):
        humdial.find_items(tmp_path)
    annotation = {
        "final_duration": 2.0,
        "speech_segments": [{"xmin": 0.0, "xmax": 0.5, "text": "q"}],
    }
    item.with_suffix(".json").write_text(json.dumps({"final_duration": 2.0}))
    with pytest.raises(ValueError, match=r"1_1.json: no speech_segments with times"):
        humdial.find_items(tmp_path)
    item.with_suffix(".json").write_text(json.dumps(annotation))
    tone(item.with_name("clean_1_1.wav"))
    scores = evaluate.main(["humdial", str(run), str(tmp_path / "en"), "--baseline", "energy"])
    assert "rejection/pause/rate" in scores and "delay_s" not in scores
    assert "baseline/energy_0.5s/rejection/pause/rate" in scores


# ---- beside published systems


def test_runs_baselines_and_published_systems_in_one_table():
    values = {"eot/recall": 0.5, "eot/latency_p50_ms": 420.0, "baseline/energy/eot/recall": 0.25}
    card = Card("mine", {}, {"turnbench": SavedScores(values, {})}, [])
    table = TURNBENCH.beside([card, Card("none", {}, {}, [])], "turnbench")
    assert table.rows["mine"] == ["50.0 %", "", "420 ms", "", "", ""]
    assert table.rows["energy, beside mine"][0] == "25.0 %"
    assert table.rows["vap"] == ["84.5 %", "5.5 %", "368 ms", "94.5 %", "10.7 %", "994 ms"]
    assert "arXiv 2608.25218" in table.source and "none" not in table.rows
    assert list(EOT_BENCH.rows)[-1] == "silence only"
