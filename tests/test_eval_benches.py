"""Full-Duplex-Bench and TurnBench: small generated folders, scores computed by hand, rules at limits."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

import evaluate
from duplexmamba.duplex.events import Event
from evaluation.duplex import full_duplex_bench as fdb
from evaluation.duplex import turnbench
from evaluation.duplex.full_duplex_bench import Item, Word
from evaluation.record import ScoreValue
from lightning_modules.trainer.checkpoint import FILE
from tests.test_eval_duplex import untrained

RATE_HZ = 16000


def words(*starts_s: float, length_s: float = 0.25) -> list[Word]:
    return [Word("word", start_s, start_s + length_s) for start_s in starts_s]


def item(kind: str, annotation: object, folder: Path = Path("none")) -> Item:
    return Item(folder, "set", kind, annotation)


def tone(file: Path, seconds: float = 2.0, channels: int = 1) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.1 * np.sin(np.arange(round(seconds * RATE_HZ)) / 5)
    sf.write(file, np.stack([wave] * channels, 1), RATE_HZ)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Folder of a run whose model responds in every slice."""
    folder = tmp_path / "run"
    folder.mkdir()
    untrained("streaming", "duplex.response_threshold=1e-9", "duplex.max_tokens=4").save(
        folder / FILE
    )
    return folder


# ---- Full-Duplex-Bench


@pytest.mark.parametrize(
    ("emitted", "takes_over"),
    [
        ([], False), (words(1.0), False), (words(1.0, 1.25, 1.5), False), (words(1.0, 1.5, 1.75), True),
        (words(1.0, 1.75), True), (words(1.0, 1.2, 1.4, 1.6, length_s=0.1), True), (words(3.1, 3.85), True),
    ],
)  # fmt: skip
def test_a_second_or_four_words_take_the_turn(emitted, takes_over):
    assert fdb.took_over(emitted) is takes_over


def test_turn_taking_latency_starts_at_the_annotated_end():
    early = words(1.0, 2.0, 3.0)
    late = words(2.5, 3.5)
    taking = item("smooth_turn_taking", [{"timestamp": [2.0, 9.0]}])
    assert fdb.score_item(taking, late) == {"takeover_rate": [True], "latency_s": [0.5]}
    assert fdb.score_item(taking, early) == {"takeover_rate": [True], "latency_s": [0.0]}
    assert fdb.score_item(taking, words(2.5)) == {"takeover_rate": [False], "latency_s": []}


def test_only_words_after_the_interruption_answer_it():
    interrupting = item("user_interruption", [{"timestamp": [2.0, 3.0]}])
    assert fdb.score_item(interrupting, words(1.0, 2.0, 2.9)) == {
        "takeover_rate": [False],
        "latency_s": [],
    }
    assert fdb.score_item(interrupting, words(1.0, 2.9, 3.0, 4.0)) == {
        "takeover_rate": [True],
        "latency_s": [0.0],
    }
    assert fdb.score_item(interrupting, words(1.0, 3.75, 4.75)) == {
        "takeover_rate": [True],
        "latency_s": [0.75],
    }


@pytest.mark.parametrize(("gap_s", "joined"), [(0.59, True), (0.6, False)])
def test_spans_with_a_shorter_gap_are_joined(gap_s, joined):
    spans = [(0.0, 1.1), (1.1 + gap_s, 3.0)]
    assert fdb.merge(spans, 0.6) == ([(0.0, 3.0)] if joined else spans)


def test_timing_of_overlaps():
    """The model stops 0.4 s into the user's second span, and continues one second after its end."""
    stopping = fdb.timing([(0.0, 1.0), (3.0, 4.0)], [(1.5, 2.0), (2.4, 3.4), (5.0, 6.0)])
    assert stopping == {"stop_latency_s": [pytest.approx(0.4)], "response_latency_s": [0.5, 1.0]}
    uninterrupted = fdb.timing([(3.0, 4.0), (5.0, 6.0)], [(2.0, 4.5), (6.0, 7.0)])
    assert uninterrupted == {"stop_latency_s": [1.0], "response_latency_s": [0.0]}


def test_timing_uses_the_speech_of_the_user_from_the_event_on(tmp_path: Path):
    spoken = [(0.0, 1.0), (3.0, 3.4), (3.8, 4.0)]
    (tmp_path / "transcription.json").write_text(
        json.dumps({"chunks": [{"timestamp": span} for span in spoken]})
    )
    overlap = item("v1.5_timing", {"timestamps": [3.0, 4.0]}, tmp_path)
    values = fdb.score_item(overlap, [Word("a", 1.5, 3.25), Word("b", 4.5, 5.0)])
    assert values == {"stop_latency_s": [0.25], "response_latency_s": [0.5]}


def test_words_have_the_times_of_their_slices():
    def event(slice_: int, action: str, text: str) -> Event:
        probabilities = {"response": 1.0, "incomplete": 0.0, "ignore": 0.0}
        return Event(
            slice_, (slice_ + 1) * 0.2, probabilities, "response", action, [], text, True, 0.0
        )  # type: ignore[arg-type]

    events = [
        event(0, "respond", "sev"), event(1, "listen", ""), event(2, "listen", "en is"), event(5, "listen", " odd"),
        event(6, "respond", ""), event(7, "drop", "paris"), event(20, "respond", "four"),
    ]  # fmt: skip
    assert fdb.words_of(events, 2.0) == [
        Word("seven", 0.2, 0.6), Word("is", 0.6, 1.1), Word("odd", 1.2, 1.6), Word("paris", 1.6, 2.1),
        Word("four", 4.2, 4.7),
    ]  # fmt: skip


def test_full_duplex_bench_scores_a_folder_of_items(run: Path, tmp_path: Path):
    root = tmp_path / "data"
    annotations = {
        "candor_pause_handling/1/pause.json": [{"timestamp": [0.5, 0.9]}],
        "candor_turn_taking/1/turn_taking.json": [{"timestamp": [0.1, 0.3]}],
        "synthetic_user_interruption/1/interrupt.json": [{"timestamp": [0.5, 0.7]}],
        "v1.5/user_backchannel/1/metadata.json": {"timestamps": [0.5, 1.0]},
        "icc_backchannel/1/transcription.json": [],
    }
    for name, annotation in annotations.items():
        tone((root / name).parent / "input.wav")
        (root / name).write_text(json.dumps(annotation))
    scores = evaluate.main(["full-duplex-bench", str(run), str(root)])
    rates = {name for name in scores if name.endswith("/takeover_rate")}
    assert rates == {
        "text_emission/pause_handling/candor_pause_handling/takeover_rate",
        "text_emission/smooth_turn_taking/candor_turn_taking/takeover_rate",
        "text_emission/user_interruption/synthetic_user_interruption/takeover_rate",
        "text_emission/backchannel_not_official/icc_backchannel/takeover_rate",
    }
    assert scores[
        "text_emission/v1.5_timing/v1.5/user_backchannel/stop_latency_s"
    ] == pytest.approx(0.5)
    output = json.loads((root / "icc_backchannel/1/output.json").read_text())
    assert output["text"].split() == [chunk["text"] for chunk in output["chunks"]]
    assert all(
        0 <= begin_s < end_s <= 2.5
        for begin_s, end_s in (chunk["timestamp"] for chunk in output["chunks"])
    )
    assert json.loads((run / "scores" / "full-duplex-bench.json").read_text()) == scores


def test_folders_without_items_are_rejected(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no input.wav"):
        fdb.find_items(tmp_path)
    tone(tmp_path / "1" / "input.wav")
    with pytest.raises(ValueError, match=r"none of pause.json"):
        fdb.find_items(tmp_path)
    (tmp_path / "1" / "pause.json").write_text("{")
    with pytest.raises(ValueError, match=r"pause.json is no JSON"):
        fdb.find_items(tmp_path)
    with pytest.raises(ValueError, match="no time at"):
        fdb.score_item(item("smooth_turn_taking", [{}]), words(1.0))


# ---- TurnBench


@pytest.mark.parametrize(
    ("predicted", "latency_s"), [(9.75, -0.25), (9.74, None), (13.0, 3.0), (13.01, None)]
)
def test_a_match_is_within_the_window_of_its_event(predicted, latency_s):
    tally = turnbench.tally([10.0], [], [predicted])
    assert (tally.latencies_s, tally.missed) == (
        ([latency_s], 0) if latency_s is not None else ([], 1)
    )


def test_window_borders_tolerate_floating_point_errors():
    assert turnbench.tally([0.3], [], [0.1 + 0.2 + 3.0]).latencies_s == [pytest.approx(3.0)]


def test_the_next_event_ends_the_window():
    assert turnbench.tally([10.0, 11.0], [], [11.5]) == ([0.5], 1, 0, 0)
    assert turnbench.tally([10.0, 11.0], [], [11.0]) == ([1.0], 1, 0, 0)


def test_matches_are_one_to_one_and_earliest_first():
    assert turnbench.tally([10.0, 11.0], [], [10.5, 10.9]) == ([0.5, pytest.approx(-0.1)], 0, 0, 0)
    assert turnbench.tally([10.0], [], [10.5, 10.75]) == ([0.5], 0, 0, 0)


def test_a_span_without_events_counts_at_most_one_false_positive():
    assert turnbench.tally([], [(5.0, 6.0), (8.0, 9.0)], [4.75, 5.5, 6.0, 9.5]) == ([], 0, 1, 1)
    assert turnbench.tally([], [(5.0, 6.0)], [4.74, 6.01]) == ([], 0, 0, 1)
    assert turnbench.tally([10.0], [(10.25, 12.0)], [10.5]) == ([0.5], 0, 0, 1)


def test_scores_of_a_conversation():
    no_events = {"eot": [], "interruption": [], "eot_negative": [], "interruption_negative": []}
    gold = {
        **no_events,
        "eot": [1.0, 5.0, 10.0, 20.0],
        "eot_negative": [[30, 31], [40, 41]],
        "interruption_negative": [[1, 2]],
    }
    predicted = {
        "speaker_1": {"eot": [1.0, 6.0, 12.0, 30.5], "interruption": []},
        "speaker_2": no_events,
    }
    scores = turnbench.scores({"a": predicted}, {"a": {"speaker_1": gold, "speaker_2": no_events}})
    assert scores == {
        "eot/recall": ScoreValue(0.75, 4), "eot/fp_rate": ScoreValue(0.5, 2), "eot/ranked": ScoreValue(False, 2),
        "eot/latency_p10_s": ScoreValue(pytest.approx(0.2), 3), "eot/latency_p50_s": ScoreValue(1.0, 3),
        "eot/latency_p90_s": ScoreValue(pytest.approx(1.8), 3),
        "interruption/fp_rate": ScoreValue(0.0, 1), "interruption/ranked": ScoreValue(True, 1),
    }  # fmt: skip


def test_speech_detection_uses_only_past_slices():
    assert turnbench.speaking([-90, -50, -30, -50, -56, -20, -40, -46], -25) == [
        False,
        True,
        True,
        True,
        False,
        True,
        True,
        False,
    ]
    assert turnbench.predictions([1, 3], [False, False, False, True], 0.2) == {
        "eot": [0.4],
        "interruption": [0.8],
    }


def test_turnbench_submission(run: Path, tmp_path: Path):
    folder = tmp_path / "talks"
    tone(folder / "20.wav", channels=2)
    tone(folder / "21.wav", channels=2)
    gold = {
        "eot": [],
        "interruption": [0.3],
        "eot_negative": [[0.5, 1.0]],
        "interruption_negative": [],
    }
    (folder / "20.json").write_text(json.dumps({"speaker_1": gold, "speaker_2": gold}))
    scores = evaluate.main(["turnbench", str(run), str(folder)])
    assert (
        scores["interruption/recall"] == 1 and scores["eot/fp_rate"] == 0
    )  # both speak all the time
    submission = json.loads((run / "scores" / "turnbench_submission.json").read_text())
    assert submission["schema_version"] == 1
    assert [entry["conversation_id"] for entry in submission["predictions"]] == ["20", "21"]
    for entry in submission["predictions"]:
        times = entry["speaker_2"]["interruption"]
        assert (
            times == sorted(set(times))
            and times[0] > 0
            and times[-1] <= 2
            and entry["speaker_2"]["eot"] == []
        )


def test_invalid_conversations_are_rejected(run: Path, tmp_path: Path):
    folder = tmp_path / "talks"
    folder.mkdir()
    with pytest.raises(ValueError, match="no wav"):
        evaluate.main(["turnbench", str(run), str(folder)])
    tone(folder / "1.wav")
    with pytest.raises(ValueError, match="1 channels instead of two"):
        evaluate.main(["turnbench", str(run), str(folder)])
    (folder / "1.wav").write_bytes(b"none")
    with pytest.raises(ValueError, match="cannot be read"):
        evaluate.main(["turnbench", str(run), str(folder)])


def test_gold_times_are_checked(tmp_path: Path):
    file = tmp_path / "1.json"
    incomplete = {"eot": [], "interruption": [], "eot_negative": []}
    complete = {**incomplete, "interruption_negative": []}
    for times, message in (
        (incomplete, "no gold times"),
        ({**complete, "eot": [2, 1]}, "eot do not increase"),
    ):
        file.write_text(json.dumps({"speaker_1": complete, "speaker_2": times}))
        with pytest.raises(ValueError, match=message):
            turnbench.read_gold(file)
