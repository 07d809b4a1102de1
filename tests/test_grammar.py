"""The default corpus as text: right answers, honest splits, a closed vocabulary."""

import collections
import itertools
import random
import re

import pytest

from configs.schema import UtteranceSharesConfig
from datamodules.synthetic import (
    corrections,
    grammar,
    other_speech,
    out_of_grammar,
    single_utterances,
    small_talk,
)
from datamodules.synthetic.speech import GRAMMAR_ALONE

SENTENCES = list(grammar.sentences())
BY_KIND = collections.defaultdict(list)
for sentence in SENTENCES:
    BY_KIND[sentence.kind].append(sentence)
SMALL = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen"""
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
VALUES = {word: value for value, word in enumerate(re.findall(r"\w+", SMALL))}
VALUES |= {word: 10 * tens for tens, word in enumerate(re.findall(r"\w+", TENS), 2)}


def value(words: str) -> int:
    """Number words to a number, by other means than the grammar's."""
    total = 0
    for word in words.split():
        total = (
            total * {"hundred": 100, "thousand": 1000}[word]
            if word not in VALUES
            else total + VALUES[word]
        )
    return total


NUMBER = rf"((?:(?:{'|'.join(sorted(VALUES, key=len, reverse=True))}|hundred|thousand) ?)+)\b"
CALCULATED = {
    "plus": [(rf"\b{NUMBER} ?plus {NUMBER}", lambda a, b: a + b)],
    "minus": [(rf"\b{NUMBER} ?minus {NUMBER}", lambda a, b: a - b)],
    "times": [(rf"\b{NUMBER} ?times {NUMBER}", lambda a, b: a * b)],
    "halves": [(rf"twice {NUMBER}", lambda a: 2 * a), (rf"half of {NUMBER}", lambda a: a // 2)],
    "neighbours": [(rf"after {NUMBER}", lambda a: a + 1), (rf"before {NUMBER}", lambda a: a - 1)],
    "comparison": [
        (rf"larger {NUMBER} ?or {NUMBER}", max),
        (rf"smaller {NUMBER} ?or {NUMBER}", min),
    ],
    "units": [
        (rf"how many {small} are in {NUMBER} ?{large}", lambda a, size=size: size * a)
        for small, large, size in (
            ("seconds", "minute", 60),
            ("minutes", "hour", 60),
            ("hours", "day", 24),
            ("days", "week", 7),
            ("months", "year", 12),
            ("years", "decade", 10),
            ("centimetres", "metre", 100),
            ("metres", "kilometre", 1000),
            ("grams", "kilogram", 1000),
            ("cents", "dollar", 100),
        )
    ],
}


@pytest.mark.parametrize("kind", CALCULATED)
def test_calculated_answers_are_right(kind):
    for text, answer, _ in BY_KIND[kind]:
        [(found, calculate)] = [
            (m, f) for pattern, f in CALCULATED[kind] if (m := re.search(pattern, text))
        ]
        assert value(answer) == calculate(*map(value, found.groups())), text


def test_counting_goes_step_by_step_from_first_to_last():
    for text, answer, _ in BY_KIND["counting"]:
        first, last = map(value, re.search(rf"from {NUMBER} ?to {NUMBER}", text).groups())
        step = -1 if "down" in text else 1
        assert [value(word) for word in answer.split()] == list(range(first, last + step, step)), (
            text
        )


def test_parity():
    for text, answer, _ in BY_KIND["parity"]:
        asked = re.search(rf"is {NUMBER} ?odd or even", text).group(1).strip()
        assert answer == f"{asked} is {('even', 'odd')[value(asked) % 2]}"


def test_spelling():
    for text, answer, _ in BY_KIND["spelling"]:
        assert f"spell {answer.replace(' ', '')}" in text


def test_known_answers():
    answers = {text: answer for text, answer, _ in SENTENCES}
    assert answers["what's the capital of france"] == "paris"
    assert answers["set a timer for ten minutes"] == "timer set for ten minutes"
    assert answers["please turn on the lights in the kitchen"] == "the kitchen lights are on"
    assert answers["tell me the day after sunday"] == "monday"
    assert answers["how many days are in june"] == "thirty"


def test_sentences_are_many_distinct_and_short():
    texts = {sentence.text for sentence in SENTENCES}
    assert len(texts) == len(SENTENCES) > 100_000, "a sentence with two answers, or too few"
    assert {len(text.split()) for text in texts} == set(range(2, grammar.MAX_WORDS + 1))


def test_words_are_normal_and_listed():
    words = {word for text, answer, _ in SENTENCES for word in f"{text} {answer}".split(" ")}
    assert all(re.fullmatch("[a-z']+", word) for word in words)
    assert sorted(words) == grammar.vocabulary()


def test_held_out_sentences_hold_no_unseen_word():
    words, count = collections.defaultdict(set), collections.Counter()
    for text, answer, _ in SENTENCES:
        split = grammar.split_of_text(text)
        words[split].update(text.split(), answer.split())
        count[split] += 1
    assert words["valid"] | words["test"] <= words["train"]
    for split in ("valid", "test"):
        assert 0.045 < count[split] / len(SENTENCES) < 0.055


def test_the_split_of_a_sentence_never_changes():
    places = {
        f"spell {word}": grammar.split_of_text(f"spell {word}") for word in ("cat", "moon", "ball")
    }
    assert places == {"spell cat": "train", "spell moon": "valid", "spell ball": "test"}


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_draws_stay_in_their_split_and_repeat(split):
    rng, again = random.Random(3), random.Random(3)
    drawn = [grammar.draw(rng, split) for _ in range(2_000)]
    assert drawn == [grammar.draw(again, split) for _ in range(2_000)]
    assert {grammar.split_of_text(qa_pair.text) for qa_pair in drawn} == {split}
    assert {qa_pair.kind for qa_pair in drawn} == set(grammar.KINDS)
    assert set(drawn) <= set(SENTENCES)


# ---- beside the grammar


OUTSIDE = dict(out_of_grammar.sentences())
BESIDE = {
    "out_of_grammar": set(OUTSIDE),
    "small_talk": {sentence.text for sentence in small_talk.sentences()},
    "correction": set(corrections.sentences()),
}


def test_sentences_beside_the_grammar_collide_with_nothing():
    told = {*other_speech.sentences(), *other_speech.BACKCHANNELS}
    for first, second in itertools.combinations(
        [*BESIDE.values(), told, {sentence.text for sentence in SENTENCES}], 2
    ):
        assert not first & second
    assert not any(grammar.contains_core(text) for text in random.Random(1).sample([*OUTSIDE], 500))


def test_sentences_beside_the_grammar_are_short_words():
    for texts in BESIDE.values():
        assert len(texts) > 1_000
        words = {word for text in texts for word in text.split(" ")}
        assert all(re.fullmatch("[a-z']+", word) for word in words)
        assert max(len(text.split()) for text in texts) <= grammar.MAX_WORDS
    unknown = {word for text in OUTSIDE for word in text.split()} - set(grammar.vocabulary())
    assert len(unknown) > 300
    assert {
        "what is the weather like tomorrow in new york",
        "open the garage door",
        "who was the first president",
    } <= BESIDE["out_of_grammar"]


def test_some_patterns_and_words_outside_the_grammar_occur_in_test_alone():
    # Each sentence is made in one way only, so that its split is unambiguous.
    assert len(list(out_of_grammar.sentences())) == len(OUTSIDE)
    words = collections.defaultdict(set)
    for text, split in OUTSIDE.items():
        words[split].update(text.split())
    assert len(words["test"] - words["train"]) > 20
    assert words["valid"] <= words["train"]


DRAWS = {
    "out_of_grammar": out_of_grammar.draw,
    "small_talk": small_talk.draw,
    "correction": corrections.draw_alone,
}


@pytest.mark.parametrize("kind", DRAWS)
def test_draws_beside_the_grammar_repeat_and_differ_between_splits(kind):
    drawn = {}
    for split in ("train", "valid", "test"):
        rng, again = random.Random(3), random.Random(3)
        pairs = [DRAWS[kind](rng, split) for _ in range(400)]
        assert pairs == [DRAWS[kind](again, split) for _ in range(400)]
        assert {pair.kind for pair in pairs} == {kind}
        drawn[split] = {pair.text for pair in pairs}
    for first, second in itertools.combinations(drawn.values(), 2):
        shared = first & second
        if kind != "small_talk":
            assert not shared
        assert all(len(text.split()) <= small_talk.SHORT_WORDS for text in shared)


def test_every_order_can_be_corrected_to_the_answer_of_another():
    rng = random.Random(2)
    kinds = set()
    for _ in range(600):
        order = corrections.draw_order(rng, "train")
        text, answer, _ = corrections.draw(rng, "train", order.answer)
        kinds.add(order.kind)
        assert answer != order.answer and text in BESIDE["correction"]
        assert answer in {core.answer for core in grammar.KINDS[order.kind]}
    assert kinds == {"timer", "devices", "shopping", "music", "capitals"}


def test_a_correction_changes_what_it_names():
    rng = random.Random(4)
    found = {corrections.draw(rng, "train", "the kitchen lights are on")[:2] for _ in range(3_000)}
    assert ("no the hall", "the hall lights are on") in found
    assert ("no i mean the lamp", "the kitchen lamp is on") in found
    said = {text for text, answer in found if answer == "the kitchen lights are off"}
    assert said and all("turn it off" in text for text in said)


SHARES = UtteranceSharesConfig(
    out_of_grammar=0.06, small_talk=0.04, corrections=0.02, isolated_words=0.04
)


def test_single_utterances_have_their_shares_and_in_test_are_of_the_grammar_alone():
    rng = random.Random(6)
    drawn = [single_utterances.draw(rng, "train", SHARES).kind for _ in range(4_000)]
    counts = collections.Counter(drawn)
    inside = sum(counts[kind] for kind in grammar.KINDS)
    assert 0.82 < inside / counts.total() < 0.86
    beside = {"out_of_grammar", "small_talk", "correction", "isolated_words"}
    assert set(counts) == {*grammar.KINDS, *beside}
    for split in ("valid", "test"):
        rng, again = random.Random(6), random.Random(6)
        drawn = [single_utterances.draw(rng, split, SHARES) for _ in range(200)]
        assert drawn == [grammar.draw(again, split) for _ in range(200)]


def test_without_shares_the_draws_are_those_of_the_grammar():
    rng, again = random.Random(6), random.Random(6)
    drawn = [single_utterances.draw(rng, "train", GRAMMAR_ALONE) for _ in range(200)]
    assert drawn == [grammar.draw(again, "train") for _ in range(200)]
