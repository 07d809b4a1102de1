"""TurnBench: every rule of its gold, its scoring and its sweep by hand, and its files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import evaluate
from evaluation.duplex.turnbench import conversations, files, sweep
from evaluation.duplex.turnbench.floor import held_by, holders
from evaluation.duplex.turnbench.gold import Annotation, Gold, Instant, Span, TaskGold, gold_of
from evaluation.duplex.turnbench.scoring import Tally, scores_of, tally
from evaluation.record import ScoreValue
from tests.turn_benchmarks import RATE_HZ, approx, flac, run_folder, tone

TURN = "Normal Turn"
OVERLAP = "Overlap"
TAKES = "Floor-taking Competitive Interruption"
ATTEMPT = "Non-floor Taking Cooperative Interruption"
BACKCHANNEL = "Continuer Backchannel"
Track = list[tuple[float, float, str]]


def gold(*speakers: Track | tuple[Track, Track, Track]) -> Gold:
    """Gold of the tracks of speakers 1 and 2; one track stands for three equal ones."""
    tracks = {}
    for speaker, given in enumerate([*speakers, [], []][:2], 1):
        of_annotators = given if isinstance(given, tuple) else (given, given, given)
        for annotator, track in zip("abc", of_annotators, strict=True):
            tracks[speaker, annotator] = [Annotation(*each) for each in track]
    return gold_of(tracks)


def predicted(*times_s: float) -> dict[int, list[float]]:
    return {1: list(times_s), 2: []}


def events(*times_s: float, negatives=(), excluded=()) -> TaskGold:
    return TaskGold(
        [Instant(1, each) for each in times_s],
        [Span(1, *each) for each in negatives],
        [Span(1, *each) for each in excluded],
    )


def counts(result: Tally) -> tuple[list[float], int, int, int]:
    return (
        [round(each, 3) for each in result.latencies_ms],
        result.missed,
        result.false,
        result.quiet,
    )


# ---- gold: agreement


def test_a_majority_gives_the_median():
    tracks = ([(1.0, 2.0, TURN)], [(1.1, 2.1, TURN)], [(1.15, 2.15, "Filler")])
    assert gold(tracks)["eot"].positives == [Instant(1, 2.1)]
    two = ([(1.0, 2.0, TURN)], [(1.1, 2.1, TURN)], [])
    assert gold(two)["eot"].positives == [Instant(1, 2.05)]


@pytest.mark.parametrize("other", [(1.3, 2.0, TURN), (1.0, 2.3, TURN), (1.0, 2.0, BACKCHANNEL)])
def test_without_a_majority_the_stretch_is_excluded(other):
    """Starts, ends or classes differ too much: both annotations are joined to one stretch."""
    task = gold(([(1.0, 2.0, TURN)], [other], []))["int"]
    assert task.excluded == [Span(1, min(1.0, other[0]), max(2.0, other[1]))]
    assert task.positives == [] and task.negatives == []


def test_an_outvoted_annotation_is_not_excluded():
    tracks = ([(1.0, 2.0, TURN)], [(1.0, 2.0, TURN)], [(1.9, 3.0, TURN)])
    assert gold(tracks)["eot"].excluded == []
    apart = ([(1.0, 2.0, TURN)], [(1.0, 2.0, TURN)], [(2.0, 3.0, TURN)])
    assert gold(apart)["eot"].excluded == [Span(1, 2.0, 3.0)]


def test_the_largest_agreeing_part_holds_the_anchor():
    """a agrees with b but not with c; c finds no partner, but overlaps the agreed event."""
    tracks = ([(1.0, 2.0, TURN)], [(1.15, 2.0, TURN)], [(1.3, 2.0, TURN)])
    assert gold(tracks)["eot"].positives == [Instant(1, 2.0)]
    late = ([], [(5.0, 6.0, TURN)], [(5.1, 6.0, TURN)])
    assert gold(late)["eot"].positives == [Instant(1, 6.0)]


def test_the_views_agree_on_different_things():
    """Turn, overlap and interruption all claim the floor; as labels they disagree."""
    tracks = ([(1.0, 2.0, TURN)], [(1.0, 2.0, TAKES)], [(1.0, 2.0, ATTEMPT)])
    both = gold(tracks)
    assert both["eot"].positives == [Instant(1, 2.0)] and both["eot"].excluded == []
    assert both["int"].positives == [] and both["int"].excluded == [Span(1, 1.0, 2.0)]


# ---- gold: ends of turns and pauses


def test_an_end_is_one_if_the_floor_passes_on():
    other_next = gold([(1, 2, TURN), (5, 6, TURN)], [(3, 4, TURN)])["eot"]
    assert other_next.positives == [Instant(1, 2), Instant(1, 6), Instant(2, 4)]
    already_speaks = gold([(1, 2, TURN), (5, 6, TURN)], [(1.5, 3, TURN)])["eot"]
    assert Instant(1, 2) in already_speaks.positives
    holds = gold([(1, 2, TURN), (3, 4, TURN)])["eot"]
    assert holds.positives == [Instant(1, 4)] and holds.negatives == [Span(1, 2, 3)]


def test_an_end_within_an_own_segment_is_none():
    """The interruption ends strictly inside the longer turn; one that ends with it is an end."""
    inside = gold([(1, 5, TURN), (2, 3, TAKES)])["eot"]
    assert inside.positives == [Instant(1, 5)] and inside.negatives == []
    together = gold([(1, 5, TURN), (2, 5, TAKES)])["eot"]
    assert together.positives == [Instant(1, 5)]


@pytest.mark.parametrize(
    ("own", "other", "end_s"),
    [
        ([(3, 3.5, BACKCHANNEL)], [], 3),  # the speaker listens
        ([(3, 3.5, "Laughter")], [], 3),
        ([], [(3, 3.5, ATTEMPT)], 3),
        ([], [(3, 3.5, BACKCHANNEL)], 6),  # the other confirms that the floor is held
        ([], [], 6),
    ],
)
def test_a_pause_ends_at_the_first_sign_against_it(own, other, end_s):
    task = gold([(1, 2, TURN), (6, 7, TURN), *own], other)["eot"]
    assert task.negatives == [Span(1, 2, end_s)]


def test_a_pause_ends_where_annotators_disagree_and_may_vanish():
    alone = (BACKCHANNEL, TURN)
    turns = [(1.0, 2.0, TURN), (6.0, 7.0, TURN)]
    for label in alone:
        disputed = gold(turns, ([(4.0, 5.0, label)], [], []))["eot"]
        assert disputed.negatives == [Span(1, 2, 4)], label
    assert gold(turns, ([(1.5, 5.0, TURN)], [], []))["eot"].negatives == []


def test_interruptions_are_onsets_and_attempts_are_excluded():
    task = gold([(1, 2, TAKES)], [(3, 4, BACKCHANNEL), (5, 6, "Channel Bleed"), (7, 8, ATTEMPT)])
    assert task["int"].positives == [Instant(1, 1)]
    assert task["int"].negatives == [Span(2, 3, 4), Span(2, 5, 6)]
    assert task["int"].excluded == [Span(2, 7, 8)]


# ---- scoring


@pytest.mark.parametrize(
    ("time_s", "latency_ms"), [(9.75, -250), (9.74, None), (13.0, 3000), (13.0001, None)]
)
def test_a_match_is_within_the_window_of_its_event(time_s, latency_ms):
    expected = ([latency_ms], 0, 0, 0) if latency_ms is not None else ([], 1, 0, 0)
    assert counts(tally(events(10.0), predicted(time_s))) == expected


def test_windows_have_no_tolerance():
    assert counts(tally(events(0.3), predicted(0.1 + 0.2 + 3.0 + 1e-9)))[1] == 1


def test_only_a_strictly_later_event_ends_the_window():
    assert counts(tally(events(10.0, 11.0), predicted(11.5))) == ([500], 1, 0, 0)
    assert counts(tally(events(10.0, 11.0), predicted(11.0))) == ([1000], 1, 0, 0)
    assert counts(tally(events(10.0, 10.0), predicted(11.0, 12.0))) == ([1000, 2000], 0, 0, 0)


def test_matches_are_one_to_one_and_earliest_first():
    assert counts(tally(events(10.0, 11.0), predicted(10.5, 10.9))) == ([500, -100], 0, 0, 0)
    assert counts(tally(events(10.0), predicted(10.5, 10.75))) == ([500], 0, 0, 0)


def test_excluded_predictions_are_dropped_first():
    """The earlier prediction would match; excluded, it leaves the match to the later one."""
    task = events(10.0, negatives=[(20, 21)], excluded=[(10.2, 10.5), (20.5, 30)])
    assert counts(tally(task, predicted(10.2, 10.5, 11.0, 20.5))) == ([1000], 0, 0, 1)
    other_speaker = TaskGold([Instant(1, 10.0)], [], [Span(2, 10, 11)])
    assert counts(tally(other_speaker, predicted(10.5))) == ([500], 0, 0, 0)


def test_every_window_exempts_from_false_positives():
    """Two predictions in the window of one event: the second is neither a match nor false."""
    task = events(10.0, negatives=[(10.25, 12.0)])
    assert counts(tally(task, predicted(10.5, 11.0))) == ([500], 0, 0, 1)
    after_window = events(10.0, negatives=[(10.25, 14.0)])
    assert counts(tally(after_window, predicted(10.5, 13.5))) == ([500], 0, 1, 0)


def test_a_span_without_events_counts_at_most_one_false_positive():
    spans = [(5.0, 6.0), (8.0, 9.0)]
    result = tally(events(negatives=spans), predicted(4.75, 5.5, 6.0, 9.5))
    assert counts(result) == ([], 0, 1, 1)
    assert counts(tally(events(negatives=spans[:1]), predicted(4.74, 6.01))) == ([], 0, 0, 1)


def test_scores_and_tasks_without_any_prediction():
    task = events(1.0, 5.0, 10.0, 20.0, negatives=[(30, 31), (40, 41)])
    assert scores_of(tally(task, predicted(1.0, 6.0, 12.0, 30.5))) == {
        "recall": ScoreValue(0.75, 4), "fp_rate": ScoreValue(0.5, 2), "qualifies": ScoreValue(False, 2),
        "latency_p10_ms": ScoreValue(approx(200), 3), "latency_p50_ms": ScoreValue(approx(1000), 3),
        "latency_p90_ms": ScoreValue(approx(1800), 3),
    }  # fmt: skip
    assert scores_of(tally(task, predicted())) == {}, "not supported, instead of recall 0"
    excluded = events(1.0, excluded=[(2, 3)])
    assert scores_of(tally(excluded, predicted(2.5)))["recall"].value == 0, "one was predicted"


# ---- sweep


def test_events_are_rising_edges_with_a_refractory_time():
    """5 Hz: frames 1, 4 and 12 rise. That of 4 is within 2 s of 1 and does not prolong it."""
    values = [0.1, 0.9, 0.9, 0.2, 0.8, 0, 0, 0, 0, 0, 0, 0, 0.7]
    assert sweep.commit(values, 5.0, 0.5) == [0.4, 2.6]
    assert sweep.commit([0.5, 0.5], 5.0, 0.5) == [], "strictly above"
    assert sweep.commit([0.9], 5.0, 0.5) == [0.2], "the first frame may rise"
    assert sweep.commit([0.9, *[0] * 9, 0.9], 5.0, 0.5) == [0.2, 2.2], "after 2 s exactly"


def test_candidates_are_quantiles_of_positive_values_and_a_grid():
    tried = sweep.candidates([{1: [0.0, 0.2345], 2: [0.0]}])
    assert 0.2345 in tried and set(sweep.GRID) <= set(tried) and 0.0 not in tried
    assert sweep.candidates([{1: [0.0], 2: []}]) == list(sweep.GRID)


def test_the_threshold_has_the_highest_recall_within_the_budget():
    """Ten pauses; a threshold of 0.2 or more keeps their false positives to one in ten."""
    pauses = [(5.0 + 4 * index, 6.0 + 4 * index) for index in range(10)]
    frames = [0.0] * 300
    frames[5] = 0.7  # ends at 1.2 s: the end of a turn
    for index, (start_s, _) in enumerate(pauses):
        frames[round(start_s * 5)] = 0.9 if index == 0 else 0.2
    task = events(1.0, negatives=pauses)
    choice = sweep.choose([({1: frames, 2: [0.0] * 300}, task)], 5.0)
    assert choice is not None
    assert choice.threshold == approx(0.2) and choice.tally.recall == 1
    assert choice.tally.fp_rate == approx(0.1)
    loud = {1: [0.9 if value else 0.0 for value in frames], 2: [0.0] * 300}
    assert sweep.choose([(loud, task)], 5.0).threshold == approx(0.9), "nothing is committed"


# ---- who holds the floor


def test_the_floor_is_kept_until_silence():
    """Speaker 1 from 0.2 to 2 s, speaker 2 from 1 to 3 s: the floor passes 0.3 s after 2 s."""
    time_s = np.arange(4 * RATE_HZ) / RATE_HZ
    wave = 0.1 * np.sin(2 * np.pi * 300 * time_s)
    spans = {1: (0.2, 2.0), 2: (1.0, 3.0)}
    channels = {who: wave * ((time_s >= a) & (time_s < b)) for who, (a, b) in spans.items()}
    times_s = np.array([0.1, 0.6, 1.4, 2.2, 2.4, 3.2, 3.6])
    holder = holders(channels, RATE_HZ)
    assert held_by(holder, 1, times_s).tolist() == [False, True, True, True, False, False, False]
    assert held_by(holder, 2, times_s).tolist() == [False, False, False, False, True, True, False]


# ---- data


def row(name: str = "20", **columns: Any) -> dict[str, Any]:
    turns = [{"start_s": 0.2, "end_s": 1.0, "label": TURN, "text": "hello"}]
    audio = {"bytes": flac(), "path": None}
    values: dict[str, Any] = {
        "conversation_id": name,
        "metadata": {"conversation_type": "Casual"},
        "speaker_1_audio": audio,
        "speaker_2_audio": audio,
    }
    for speaker in (1, 2):
        for annotator in "abc":
            values[f"speaker_{speaker}_annotation_{annotator}"] = turns
    return {**values, **columns}


def write_rows(folder: Path, *rows: dict[str, Any], name: str = "dev.parquet") -> None:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), folder / name)


BLANK = {
    f"speaker_{speaker}_annotation_{annotator}": [] for speaker in (1, 2) for annotator in "abc"
}


def test_a_run_and_a_baseline_on_published_files(tmp_path: Path):
    run = run_folder(tmp_path)
    folder = tmp_path / "data"
    write_rows(folder, row("20"), row("3"))
    write_rows(folder, row("100", **BLANK), name="test.parquet")
    scores = evaluate.main(["turnbench", str(run), str(folder), "--baseline", "energy"])
    assert scores["data/official"] == 0 and "eot/num_threshold" in scores
    assert "baseline/energy/int/num_threshold" in scores
    out = run / "scores" / "turnbench" / "model"
    dev = json.loads((out / "predictions-dev.json").read_text())
    assert [each["conversation_id"] for each in dev["predictions"]] == ["3", "20"]
    assert set(dev["predictions"][0]["speaker_1"]) == {"eot", "interruption"}
    test = json.loads((out / "predictions-test.json").read_text())
    assert [each["conversation_id"] for each in test["predictions"]] == ["100"]
    probabilities = json.loads((out / "probs-eot.json").read_text())
    assert probabilities["frame_rate_hz"] == 5 and probabilities["task"] == "eot"
    assert all(len(each["speaker_2"]["prob"]) == 10 for each in probabilities["probs"])
    baseline = json.loads((out.parent / "energy" / "probs-int.json").read_text())
    assert baseline["frame_rate_hz"] == 25


def exported(**values: Any) -> str:
    gold_values = {
        "duration_s": 2.0, "eot_positive_events": [{"speaker": 1, "time_s": 1.0}],
        "eot_negative_spans": [{"speaker": 2, "start": 0.5, "end": 0.75}], "int_positive_events": [],
        "int_negative_spans": [], "eot_excluded": [], "int_excluded": [],
    }  # fmt: skip
    whole = {
        "scorer_sha": "abc", "dataset_revision": "8fa18a24ff", "tau_pre_s": 0.25, "tau_max_s": 3.0,
        "conversations": {"20": gold_values}, **values,
    }  # fmt: skip
    return json.dumps(whole, indent=1)


def test_exported_gold_goes_with_stereo_files(tmp_path: Path):
    tone(tmp_path / "20.wav", channels=2)
    (tmp_path / "gold.json").write_text(exported())
    [conversation] = conversations.read_conversations(tmp_path)
    assert conversation.gold is not None
    assert conversation.gold["eot"].positives == [Instant(1, 1.0)]
    assert conversation.gold["eot"].negatives == [Span(2, 0.5, 0.75)]
    assert conversation.audio[2] == (tmp_path / "20.wav", 1) and conversation.duration_s() == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"tau_max_s": 2.0},
            r"gold.json, line 5: tau_max_s is 2.0 instead of 3.0: gold of another rev",
        ),
        (
            {"dataset_revision": "123"},
            r"gold.json, line 3: dataset_revision is 123 .* export` again",
        ),
        ({"conversations": {"20": {}}}, r"line 7: conversation 20 lacks 'eot_positive_events'"),
        ({"conversations": {"x": {}}}, r"conversation_id 'x' is no number"),
    ],
)
def test_gold_of_another_revision_is_named(tmp_path: Path, changed, message):
    file = tmp_path / "gold.json"
    file.write_text(exported(**changed))
    with pytest.raises(ValueError, match=message):
        conversations.read_exported_gold(file)


def test_other_files_are_named(tmp_path: Path):
    with pytest.raises(ValueError, match="no parquet and no wav"):
        conversations.read_conversations(tmp_path)
    (tmp_path / "gold.json").write_text("[]")
    with pytest.raises(ValueError, match=r"gold.json has no `conversations`"):
        conversations.read_exported_gold(tmp_path / "gold.json")
    (tmp_path / "gold.json").unlink()
    tone(tmp_path / "1.wav")
    with pytest.raises(ValueError, match="1 channels instead of two"):
        conversations.read_conversations(tmp_path)
    (tmp_path / "1.wav").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"1.wav.*repair or remove"):
        conversations.read_conversations(tmp_path)
    (tmp_path / "1.wav").unlink()
    write_rows(tmp_path, {"conversation_id": "1"})
    with pytest.raises(ValueError, match="has no column speaker_1_audio, speaker_2_audio"):
        conversations.read_conversations(tmp_path)
    write_rows(
        tmp_path, row("1", speaker_1_annotation_a=[{"start_s": 2.0, "end_s": 1.0, "label": TURN}])
    )
    with pytest.raises(ValueError, match=r"row 0, speaker_1_annotation_a, annotation 0: from 2.0"):
        conversations.read_conversations(tmp_path)
    write_rows(tmp_path, row("1"), row("1"))
    with pytest.raises(ValueError, match="conversation 1 is there twice"):
        conversations.read_conversations(tmp_path)
    longer = {"bytes": flac(3.0), "path": None}
    write_rows(tmp_path, row("1", speaker_2_audio=longer))
    [conversation] = conversations.read_conversations(tmp_path)
    with pytest.raises(ValueError, match="channels last 2.000 s and 3.000 s"):
        conversation.duration_s()
    with pytest.raises(ValueError, match="gold at 1.00 s, but its audio lasts 0.50 s"):
        conversations.check_gold(conversation, 0.5)


def test_files_that_the_checker_refuses():
    whole = {"eot": {1: [0.2, 0.4], 2: []}, "int": {1: [], 2: [1.0]}}
    content = files.predictions_file({"20": whole})
    files.check_predictions(content, {"20": 1.0})
    for durations_s, message in (
        ({"20": 0.9}, "speaker_2, interruption: a time is outside the audio of 0.90 s"),
        ({"20": 1.0, "21": 1.0}, "missing, unknown or repeated"),
    ):
        with pytest.raises(ValueError, match=message):
            files.check_predictions(content, durations_s)
    twice = files.predictions_file({"20": {**whole, "eot": {1: [0.2, 0.2], 2: []}}})
    with pytest.raises(ValueError, match="do not increase strictly"):
        files.check_predictions(twice, {"20": 1.0})
    probabilities = files.probabilities_file("eot", 5.0, {"20": {1: [0.5] * 4, 2: [0.5] * 4}})
    files.check_probabilities(probabilities, {"20": 0.99})
    with pytest.raises(ValueError, match="speaker_1: 4 frames instead of 5"):
        files.check_probabilities(probabilities, {"20": 1.0})
    wrong = files.probabilities_file("eot", 5.0, {"20": {1: [1.5], 2: [0.5]}})
    with pytest.raises(ValueError, match=r"not in \[0, 1\]"):
        files.check_probabilities(wrong, {"20": 0.2})
