"""Full-Duplex-Bench: every rule of v1 and v1.5 by hand, and small folders of items."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

import evaluate
from duplexmamba.duplex.events import Event
from evaluation.duplex.full_duplex_bench import backchannels, items, judged, rules
from evaluation.duplex.full_duplex_bench.baseline_replies import REPLY, WORD_S, replies
from evaluation.duplex.full_duplex_bench.items import Item
from evaluation.duplex.full_duplex_bench.rules import Output
from evaluation.duplex.full_duplex_bench.spoken import speak_responses
from evaluation.duplex.full_duplex_bench.timing import merge, timing
from evaluation.duplex.full_duplex_bench.words import Word, cropped, words_of
from evaluation.duplex.systems.spans import spans_of_frames
from evaluation.voicebench.judge import Judge, behaviour, relevance
from tests.turn_benchmarks import RATE_HZ, approx, run_folder, scored, tone


def words(*starts_s: float, length_s: float = 0.25) -> list[Word]:
    return [Word("word", start_s, start_s + length_s) for start_s in starts_s]


def item(kind: str, annotation: object = None, folder: Path = Path("none")) -> Item:
    return Item(folder, "set", kind, annotation)


def score(of_item: Item, said: list[Word], **fields) -> dict[str, list[float]]:
    return rules.score_item(of_item, Output(said, 10.0, **fields))


def event(slice_: int, action: str, text: str) -> Event:
    probabilities = {"response": 1.0, "incomplete": 0.0, "ignore": 0.0}
    return Event(slice_, round((slice_ + 1) * 0.2, 6), probabilities, "response", action, [], text, True, 0.0)  # type: ignore[arg-type]  # fmt: skip


# ---- v1


@pytest.mark.parametrize(
    ("emitted", "takes_over"),
    [
        ([], False), (words(1.0), False), (words(1.0, 1.25, 1.5), False), (words(1.0, 1.5, 1.75), True),
        (words(1.0, 1.75), True), (words(1.0, 1.2, 1.4, 1.6, length_s=0.1), True), (words(3.1, 3.85), True),
    ],
)  # fmt: skip
def test_a_second_or_four_words_take_the_turn(emitted, takes_over):
    assert rules.took_over(emitted) is takes_over
    assert score(item("pause_handling"), emitted) == {"takeover_rate": [takes_over]}


def test_turn_taking_latency_starts_at_the_reply_of_the_human():
    taking = item("smooth_turn_taking", [{"timestamp": [2.0, 9.0]}])
    assert score(taking, words(2.5, 3.5)) == {"takeover_rate": [True], "latency_s": [0.5]}
    before = words(1.0, 2.0, 3.0)
    assert score(taking, before) == {"takeover_rate": [True], "latency_s": [0.0]}
    assert score(taking, words(2.5)) == {"takeover_rate": [False], "latency_s": []}


def test_an_answer_to_an_interruption_is_what_is_heard_after_it():
    interrupting = item("user_interruption", [{"timestamp": [2.0, 3.0]}])
    early = score(interrupting, words(1.0, 2.0, 2.7))
    assert early == {"takeover_rate": [False], "latency_s": []}
    late = score(interrupting, words(1.0, 3.75, 4.75))
    assert late == {"takeover_rate": [True], "latency_s": [0.75]}
    under_way = score(interrupting, words(2.9, 4.0))
    assert under_way == {"takeover_rate": [True], "latency_s": [0.0]}
    assert cropped(words(2.0, 2.9), 3.0) == [Word("word", 3.0, approx(3.15))]


# ---- v1: back-channels


def verdict(*spans: tuple[float, float], num_words: int = 1) -> bool:
    said = [
        Word("yes", start_s + 0.01 * index, end_s)
        for start_s, end_s in spans
        for index in range(num_words)
    ]
    return backchannels.score(list(spans), said, 10.0, None).takes_over


def test_short_speech_of_two_words_is_a_backchannel():
    assert not verdict((1.0, 1.9), num_words=2)
    assert verdict((1.0, 1.9), num_words=3), "three words are too many for a short one"
    assert verdict((1.0, 2.0), num_words=1), "a second is not short"
    assert verdict((1.0, 1.5), num_words=4)
    assert not backchannels.score([], [], 10.0, None).takes_over


def test_the_last_span_decides_but_a_long_one_ends_the_count():
    assert not verdict((1.0, 2.5), (4.0, 4.5)), "the last verdict wins"
    assert verdict((1.0, 1.5), (4.0, 5.5))
    long = backchannels.score([(1.0, 1.5), (3.0, 6.1), (8.0, 8.5)], [], 10.0, None)
    assert long.takes_over and long.per_s == approx(0.1)
    assert backchannels.score([(3.0, 6.0)], [], 10.0, None).per_s == approx(0.1), "3 s may be one"


def test_the_distance_to_peoples_timing_is_that_of_jensen_and_shannon():
    """Two bins. The model's onset is in the first; people are in the second, or in both equally."""
    opposite = backchannels.timing_distance([0.1], 0.4, [0.0, 1.0])
    assert opposite == approx(math.sqrt(math.log(2)), abs=1e-4)
    half = backchannels.timing_distance([0.1], 0.4, [0.5, 0.5])
    expected = (math.log(1 / 0.75) + 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)) / 2
    assert half == approx(math.sqrt(expected), abs=1e-4)
    assert backchannels.timing_distance([0.1, 0.3], 0.4, [1.0, 1.0]) == approx(0.0, abs=1e-6)
    assert backchannels.timing_distance([], 0.4, [1.0, 1.0]) == 1.0
    stretched = backchannels.timing_distance([0.1, 0.5], 0.6, [1.0, 0.0, 1.0])
    assert stretched == approx(0.0, abs=1e-4)


def test_words_close_together_are_one_span():
    assert backchannels.spans_of(words(1.0, 1.35, 1.8)) == [(1.0, 1.6), (1.8, 2.05)]


# ---- v1.5


@pytest.mark.parametrize(("gap_s", "joined"), [(0.6, True), (0.61, False)])
def test_spans_with_a_gap_up_to_the_limit_are_joined(gap_s, joined):
    spans = [(0.0, 1.1), (1.1 + gap_s, 3.0)]
    assert merge(spans, 0.6) == ([(0.0, 3.0)] if joined else spans)


def test_every_overlap_is_a_stop_the_first_question_included():
    times = timing([(0.0, 2.0), (5.0, 6.0)], [(1.5, 3.0), (4.0, 5.4)])
    assert times["stop_latency_s"] == [approx(0.5), approx(0.4)]


def test_overlaps_that_end_together_keep_the_shortest():
    """The user's two spans, 0.7 s apart, overlap the model's; nothing else ends at 4 s."""
    times = timing([(1.0, 4.0)], [(0.0, 2.0), (3.0, 4.0004), (9.0, 9.5)])
    assert times["stop_latency_s"] == [approx(1.0), approx(1.0)]
    same_end = timing([(1.0, 4.0), (4.0002, 4.0003)], [(2.0, 4.0), (3.5, 4.0)])
    assert same_end["stop_latency_s"] == [approx(2.0)]


def test_a_response_is_the_next_start_strictly_later():
    """Both ends have the next start at 6 s, in the middle of later speech: the latest end counts."""
    during = timing([(0.0, 1.0), (3.0, 4.0), (5.0, 8.0)], [(6.0, 9.0)])
    assert during["response_latency_s"] == [2.0]
    at_once = timing([(0.0, 1.0)], [(1.0, 1.2), (3.0, 4.0)])
    assert at_once["response_latency_s"] == [2.0], "not later"
    assert timing([(0.0, 1.0)], [(0.5, 4.0)])["response_latency_s"] == []


def test_speech_of_the_user_is_found_in_the_whole_recording():
    frames = np.array([0, 1, 1, 1, 0, 1, 1, 0, 0, 0, 1, 0], bool)
    spans = spans_of_frames(frames, 0.05, 0.1)
    assert spans == [(approx(0.02), approx(0.38))], "short gaps are joined, short sounds dropped"
    overlap = item("overlap", {"timestamps": [3.0, 4.0]})
    values = score(overlap, words(1.5, 4.5), user_spans=[(0.0, 1.0), (3.0, 4.0)])
    assert values == {"stop_latency_s": [], "response_latency_s": [0.5, 0.5]}


# ---- words


def test_words_have_the_times_of_their_slices():
    events = [
        event(0, "respond", "sev"), event(1, "listen", ""), event(2, "listen", "en is"), event(5, "listen", " odd"),
        event(6, "respond", ""), event(7, "drop", "paris"), event(20, "respond", "four"),
    ]  # fmt: skip
    assert words_of(events, 2.0) == [
        Word("seven", 0.2, 0.6), Word("is", 0.6, 1.1), Word("odd", 1.2, 1.6), Word("paris", 1.6, 2.1),
        Word("four", 4.2, 4.7),
    ]  # fmt: skip


def test_a_reply_is_spoken_from_its_first_emission_and_cut_by_the_next():
    first = [
        event(2, "respond", "the capital of france is paris"),
        *(event(n, "listen", "") for n in (3, 4)),
    ]
    events = [event(0, "listen", ""), event(1, "listen", ""), *first, event(5, "respond", "four")]
    events += [event(slice_, "listen", "") for slice_ in range(6, 20)]
    spoken = speak_responses(events, 4 * RATE_HZ, RATE_HZ)
    assert (
        len(spoken.samples) == 4 * RATE_HZ
        and np.abs(spoken.samples[: round(0.6 * RATE_HZ)]).max() == 0
    )
    assert spoken.words[0].text == "the" and spoken.words[0].start_s == approx(0.6, abs=0.1)
    heard = [word.text for word in spoken.words]
    assert heard[-1] == "four" and "paris" not in heard
    cut = [word for word in spoken.words if word.start_s < 1.2]
    assert cut[-1].end_s <= 1.2 and spoken.words[-1].start_s >= 1.2


def test_a_baseline_replies_until_the_user_speaks():
    scores = scored([0, 0.6, 0.6, 0, 0, 0, 0.7], addressed=[1, 0, 0, 1, 1, 0, 0])
    said = replies(scores, 0.5)
    assert [word.text for word in said] == [*REPLY[:2], *REPLY]
    assert said[1].end_s == approx(0.8) and said[2].start_s == approx(1.4)
    assert said[3].start_s == approx(1.4 + WORD_S)


# ---- judge


@pytest.mark.parametrize(
    ("reply", "rating"), [("4", 4.0), ("0.", 0.0), ("[[5]]", 5.0), ("6", None), ("4 of 5", None)]
)
def test_ratings_are_whole_numbers_up_to_five(reply, rating):
    assert relevance(reply) == rating


def test_behaviours_are_named_once():
    assert behaviour("C_RESUME") == "C_RESUME" == behaviour("It is **C_RESUME**.")
    assert behaviour("C_RESUME or C_RESPOND") is None and behaviour("resume") is None
    replies_of = {"a": ["C_RESPOND", "C_RESUME", "C_RESUME"], "b": []}
    assert judged.behaviours_of(replies_of) == {"a": "C_RESUME"}


def test_the_judge_sees_four_transcripts_and_rates_take_overs_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = []

    def ask(self: Judge, question: str) -> str:
        asked.append(question)
        return "C_RESUME" if "C_RESPOND" in question else "4"

    monkeypatch.setattr(Judge, "ask", ask)
    judge = Judge("http://none/v1", "judge", num_parallel=1)
    texts = {"context": "what is {two} and two", "interrupt": "no, three"}
    answered = item("user_interruption", [{"timestamp": [1.0, 2.0], **texts}], Path("a"))
    silent = answered._replace(folder=Path("b"))
    pairs = [(answered, words(2.5, 4.0)), (silent, [])]
    rated, problems = judged.rate_interruptions(pairs, judge, tmp_path / "judge.jsonl")
    assert rated["user_interruption/set/num_rating"] == (4.0, 1) and problems == []
    annotation = {"timestamps": [1, 2], "context_text": "clean", "current_turn_text": "event"}
    overlap = (item("overlap", annotation), {"output_noisy": words(1.0), "output_clean": []})
    shares, _ = judged.judge_behaviour([overlap], judge, tmp_path / "judge.jsonl")
    assert shares["overlap/set/C_RESUME"] == (1.0, 1) and shares["overlap/set/C_RESPOND"] == (
        0.0,
        1,
    )
    assert "clean" in asked[-1] and "event" in asked[-1]
    with pytest.raises(ValueError, match="metadata.json has no context_text"):
        judged.behaviour_fields(item("overlap", {"timestamps": [1, 2]}), overlap[1])


# ---- folders


def test_full_duplex_bench_scores_a_folder_of_items(tmp_path: Path):
    run = run_folder(tmp_path)
    root = tmp_path / "data"
    annotations = {
        "candor_pause_handling/1/pause.json": [{"timestamp": [0.5, 0.9]}],
        "candor_turn_taking/1/turn_taking.json": [{"timestamp": [0.1, 0.3]}],
        "synthetic_user_interruption/1/interrupt.json": [{"timestamp": [0.5, 0.7]}],
        "v1.5/user_backchannel/1/metadata.json": {"timestamps": [0.5, 1.0]},
        "icc_backchannel/1/transcription.json": [{"speaker": "A", "item": []}],
    }
    for name, annotation in annotations.items():
        tone((root / name).parent / "input.wav")
        (root / name).write_text(json.dumps(annotation))
    tone(root / "v1.5/user_backchannel/1/clean_input.wav")
    people = {"1": [0.0, 0.5, 0.5]}
    (root / "icc_backchannel" / "icc_gt_distribution.json").write_text(json.dumps(people))
    arguments = ["full-duplex-bench", str(run), str(root), "--speak", "yes", "--baseline", "energy"]
    scores = evaluate.main(arguments)
    groups = {
        "pause_handling/candor_pause_handling", "smooth_turn_taking/candor_turn_taking",
        "user_interruption/synthetic_user_interruption", "backchannel/icc_backchannel",
    }  # fmt: skip
    for way in ("text_emission", "spoken", "baseline/energy_0.5s/text_emission"):
        assert all(f"{way}/{group}/takeover_rate" in scores for group in groups), way
        assert 0 <= scores[f"{way}/backchannel/icc_backchannel/num_jsd"] <= 1
    overlap = root / "v1.5/user_backchannel/1"
    for stem in ("output", "clean_output"):
        content = json.loads((overlap / f"{stem}.json").read_text())
        assert content["text"].split() == [chunk["text"] for chunk in content["chunks"]]
        assert sf.info(overlap / f"{stem}.wav").duration == 2
    assert json.loads((run / "scores" / "full-duplex-bench.json").read_text()) == scores


def test_folders_without_items_are_rejected(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no input.wav"):
        items.find_items(tmp_path)
    tone(tmp_path / "1" / "input.wav")
    with pytest.raises(ValueError, match=r"none of pause.json"):
        items.find_items(tmp_path)
    (tmp_path / "1" / "pause.json").write_text("{")
    with pytest.raises(ValueError, match=r"pause.json is no JSON"):
        items.find_items(tmp_path)
    with pytest.raises(
        ValueError, match=r"turn_taking.json has no time at \[0\]\['timestamp'\]\[0\]"
    ):
        score(item("smooth_turn_taking", [{}]), words(1.0))
    (tmp_path / "icc_gt_distribution.json").write_text('{"0": []}')
    with pytest.raises(ValueError, match="no list of shares"):
        items.listeners_of(tmp_path)
