"""Dialogues: reproducible, labelled by the rules, all kinds in their shares, splits held out."""

import collections
import dataclasses
import hashlib
import itertools
import json
import random

import numpy as np
import pytest
import soundfile as sf
from torch.utils.data import DataLoader

from configs.loading import load_config, override
from datamodules.dialogue import phrases as sounds
from datamodules.dialogue import write as write_dialogues
from datamodules.dialogue.dialogues import WITHIN_ANSWER, open_dialogues
from datamodules.dialogue.phrases import (
    Recorded,
    Spoken,
    audible_span,
    noise,
    quietest_near_middle,
    unfinished,
)
from datamodules.dialogue.turns import RULES, Slices, draw_events, lag_ms
from datamodules.synthetic import corrections, grammar, other_speech
from datamodules.synthetic import espeak_voices as synthetic
from duplexmamba.duplex.policy import branches
from tests.conftest import ALL_TURNS, TINY
from tests.corpora import open_corpora

pytest.importorskip("espeakng_loader")

CONFIG = load_config([*TINY, *ALL_TURNS])
RATE_HZ = CONFIG.features.sample_rate_hz
SPLITS = ("train", "valid", "test")
RECORDED = {"question", "paused_question", "interruption"}
"""Kinds whose questions can be recordings."""
ANSWERS_TO_ORDERS = {core.answer for cores in corrections.ORDERS.values() for core in cores}
SAID = {"question", "paused_question", "interruption", "talking_to_other", "background_speech"}
"""Kinds whose sentences are held out."""


def dialogues(split="train", words=(), size=100):
    words = [f"{'duplex' if word.startswith('slice_ms') else 'dialogue'}.{word}" for word in words]
    return open_dialogues(override(CONFIG, words), split, size)


@pytest.fixture(scope="module")
def made():
    """Sixty dialogues of the default configuration."""
    corpus = dialogues()
    return [corpus[i] for i in range(60)]


def digest(dialogue):
    said = repr((dialogue.id, dialogue.turns, dialogue.labels, dialogue.answers)).encode()
    return hashlib.sha256(said + dialogue.samples.tobytes()).hexdigest()


def samples_of(turn):
    return round(turn.start_s * RATE_HZ), round(turn.end_s * RATE_HZ)


# ---- the same everywhere


def test_two_instances_in_different_order_and_a_worker_give_the_same_bytes():
    indices = [*range(10), 10_000_019]
    corpus, again = dialogues(), dialogues()
    here = {i: digest(corpus[i]) for i in indices}
    assert here == {i: digest(again[i]) for i in reversed(indices)}
    loader = DataLoader(corpus, sampler=indices, batch_size=None, num_workers=1, collate_fn=digest)
    assert list(loader) == list(here.values())
    assert len(set(here.values())) == len(indices)


def test_another_seed_and_another_split_are_other_dialogues():
    other = open_dialogues(override(CONFIG, ["seed=2"]), "train", 10)
    assert len({digest(corpus[0]) for corpus in (dialogues(), other, dialogues("valid"))}) == 3


# ---- labels


def read_literally(dialogue, config, length):
    """The label of each slice of so many samples, from the turns alone, by counting samples."""
    settle, least = (
        int(ms * RATE_HZ / 1000) for ms in (config.endpoint_silence_ms, config.min_speech_ms)
    )
    labels = ["ignore"] * (len(dialogue.samples) // length)
    for turn in dialogue.turns:
        if turn.kind in ("background_speech", "noise", "backchannel", "silence"):
            continue
        start, end = samples_of(turn)
        begun = False
        for i in range(len(labels)):
            spoken = (
                [t for t in range(i * length, (i + 1) * length) if start <= t < end]
                if not begun
                else ()
            )
            begun = begun or len(spoken) >= least
            settled = end + settle <= (i + 1) * length
            if begun and not settled:
                labels[i] = "incomplete"
            elif settled:
                labels[i] = "ignore" if turn.kind == "talking_to_other" else "response"
                break
    return tuple(labels)


def test_labels_are_those_of_a_literal_reading(made):
    for dialogue in made:
        assert dialogue.labels == read_literally(dialogue, CONFIG.dialogue, RATE_HZ // 5)
        assert len(dialogue.samples) == len(dialogue.labels) * RATE_HZ // 5
    assert {label for dialogue in made for label in dialogue.labels} == {
        "response",
        "incomplete",
        "ignore",
    }


def test_labels_wait_for_what_the_encoder_has_not_heard() -> None:
    assert Slices.of(CONFIG).lag == 0
    pretrained = load_config(
        ["configs/preset/tiny_pretrained.yaml", "configs/stage/streaming.yaml"]
    )
    slices = Slices.of(pretrained)
    assert slices.lag == 0.192 * RATE_HZ == slices.length
    at_once = dataclasses.replace(slices, lag=0)
    for sample in (0, 1, 1000, 3071, 3072, 3073, 50_000):
        assert slices.onset_slice(sample) == at_once.onset_slice(sample) + 1
        assert slices.endpoint_slice(sample) == at_once.endpoint_slice(sample) + 1
    whole = dataclasses.replace(pretrained.encoder, context="full")
    assert lag_ms(whole) == 0


@pytest.mark.parametrize("ms", [400, 1000])
def test_labels_of_longer_slices(ms):
    corpus = dialogues(words=[f"slice_ms={ms}"])
    for index in range(8):
        assert corpus[index].labels == read_literally(
            corpus[index], corpus.config, corpus.slices.length
        )


def test_turns_never_overlap_and_each_has_slices_of_its_own(made):
    for dialogue in made:
        for before, after in itertools.pairwise(dialogue.turns):
            assert before.end_s < after.start_s
        assert dialogue.turns[-1].end_s < len(dialogue.samples) / RATE_HZ
        assert dialogue.labels.count("response") == len(dialogue.answers)


def test_every_answer_begins_with_its_response(made):
    for dialogue in made:
        assert [a.begin for a in dialogue.answers] == [
            i for i, x in enumerate(dialogue.labels) if x == "response"
        ]
        asked = [i for i, turn in enumerate(dialogue.turns) if RULES[turn.kind].answered]
        assert [answer.turn for answer in dialogue.answers] == asked
        assert all(bool(turn.answer) == RULES[turn.kind].answered for turn in dialogue.turns)


# ---- kinds


@pytest.mark.parametrize("words", [[], ["shares.interruption=0.4", "shares.silence=0"]])
def test_every_kind_occurs_in_its_share(words):
    config = dialogues(words=words).config
    shares, rng = dataclasses.asdict(config.shares), random.Random(5)
    counts = collections.Counter(
        event.kind for _ in range(4_000) for event in draw_events(rng, config)
    )
    for kind, share in shares.items():
        expected = share / sum(shares.values())
        # Events that depend on a question can add one.
        tolerance = 0.04 if kind == "question" else 0.025
        assert counts[kind] / counts.total() == pytest.approx(expected, abs=tolerance), kind
        assert counts[kind] > 0 or share == 0


def test_events_come_in_an_order_that_can_be():
    rng, seen = random.Random(6), set()
    for _ in range(2_000):
        events = draw_events(rng, CONFIG.dialogue)
        assert len(events) >= CONFIG.dialogue.events[0]
        for before, event in itertools.pairwise([None, *events]):
            needs = RULES[event.kind].overlaps_response
            assert event.overlaps_response or needs != "always"
            assert not event.overlaps_response or (
                needs != "never" and before.response_is_overlapped and RULES[before.kind].answered
            )
            seen.add((before and before.kind, event.kind, event.overlaps_response))
    assert {
        (None, "talking_to_other", False),
        (None, "background_speech", False),
        (None, "silence", False),
        ("question", "question", False),
        ("interruption", "interruption", True),
        ("question", "talking_to_other", True),
        ("question", "talking_to_other", False),
        ("talking_to_other", "question", False),
        ("paused_question", "backchannel", True),
    } <= seen


def test_kinds_of_made_dialogues(made):
    assert {turn.kind for dialogue in made for turn in dialogue.turns} == set(RULES)


def test_corrections_follow_an_order_and_are_answered_as_the_corrected_order(made):
    rng = random.Random(8)
    for _ in range(2_000):
        for event, after in itertools.pairwise([*draw_events(rng, CONFIG.dialogue), None]):
            is_corrected = after is not None and after.kind == "correction"
            assert event.is_corrected == is_corrected
            assert not is_corrected or event.kind in RECORDED and not after.overlaps_response
    pairs = [
        pair
        for dialogue in made
        for pair in itertools.pairwise(dialogue.turns)
        if pair[1].kind == "correction"
    ]
    assert len(pairs) > 4
    for order, correction in pairs:
        assert correction.answer != order.answer
        assert correction.answer in ANSWERS_TO_ORDERS
        assert correction.speaker == order.speaker


def test_what_is_outside_the_grammar_and_stop_have_one_answer(made):
    turns = [turn for dialogue in made for turn in dialogue.turns]
    answers = {
        kind: {turn.answer for turn in turns if turn.kind == kind}
        for kind in ("out_of_grammar", "stop", "small_talk")
    }
    assert answers["out_of_grammar"] == {"sorry i did not understand"}
    assert answers["stop"] == {"okay"}
    assert answers["small_talk"] <= {"hello", "you are welcome", "goodbye", "okay"}


def test_a_command_to_stop_ends_the_answer_before_it(made):
    stopped = 0
    for dialogue in made:
        answers = {answer.turn: answer for answer in dialogue.answers}
        for index, turn in enumerate(dialogue.turns):
            if turn.kind == "stop":
                assert answers[index - 1].end == answers[index].begin
                stopped += 1
    assert stopped > 5


def test_a_paused_response_delays_what_comes_after_it():
    words = ["shares.question=1", "shares.talking_to_other=1", "overlap_share=1"]
    continued, paused = (
        open_dialogues(
            override(CONFIG, [f"duplex.on_onset={value}", *(f"dialogue.{w}" for w in words)]),
            "train",
            20,
        )
        for value in ("continue", "pause")
    )
    assert continued.resuming_slices is None
    duplex = override(CONFIG, ["duplex.on_onset=pause"]).duplex
    [branch] = branches(["incomplete"] * 3 + ["ignore"] * duplex.ignored_slices, duplex)
    assert branch.num_paused == 3 + paused.resuming_slices
    num_delayed = 0
    for index in range(12):
        before, after = continued[index], paused[index]
        assert [turn.text for turn in before.turns] == [turn.text for turn in after.turns]
        num_delayed += len(after.labels) > len(before.labels)
        assert len(after.labels) >= len(before.labels)
    assert num_delayed > 3


def test_interruptions_fall_inside_answers_and_take_their_place(made):
    overs = collections.Counter()
    for dialogue in made:
        answer, answers = None, {answer.turn: answer for answer in dialogue.answers}
        begin_s = heard_until_s = 0.0
        for number, turn in enumerate(dialogue.turns):
            if turn.start_s < heard_until_s:
                low, high = (begin_s + part * (heard_until_s - begin_s) for part in WITHIN_ANSWER)
                assert (
                    low - 1e-4 <= turn.start_s <= high + 1e-4
                    and RULES[turn.kind].overlaps_response != "never"
                )
                assert heard_until_s - begin_s >= CONFIG.dialogue.min_interrupted_answer_s - 1e-6
                overs[turn.kind] += 1
            else:
                assert RULES[turn.kind].overlaps_response != "always"
            if number in answers:
                if turn.start_s < heard_until_s:
                    assert answer.end == answers[number].begin
                elif answer:
                    assert answer.end is None
                answer = answers[number]
                begin_s = (answer.begin + 1) * 0.2
                heard_until_s = begin_s + len(turn.answer.split()) / CONFIG.dialogue.words_per_s
        assert not dialogue.answers or dialogue.answers[-1].end is None
    assert {"interruption", "backchannel", "talking_to_other"} <= set(overs)


def test_cut_questions_pause_in_mid_phrase_and_resume(made):
    cut = [(d, t) for d in made for t in d.turns if t.kind == "paused_question"]
    assert len(cut) > 20
    for dialogue, turn in cut:
        pause_s = turn.pause_s[1] - turn.pause_s[0]
        low, high = CONFIG.dialogue.pause_s
        assert low - 1e-3 <= pause_s <= high + 1e-3
        assert turn.start_s + 0.05 < turn.pause_s[0] < turn.pause_s[1] < turn.end_s - 0.05
        through = dialogue.labels[int(turn.pause_s[0] / 0.2) : int(turn.pause_s[1] / 0.2) + 1]
        assert set(through[:-1]) <= {"incomplete"} and "response" not in through
    assert all(
        turn.pause_s is None for d in made for turn in d.turns if turn.kind != "paused_question"
    )


def test_a_question_is_cut_only_where_nothing_is_asked_yet():
    whole = {sentence.text for sentence in grammar.sentences()}
    for text in random.Random(1).sample(sorted(whole), 500):
        words = text.split()
        cuts = [k for k in range(1, len(words)) if unfinished(" ".join(words[:k]))]
        assert cuts == list(range(1, len(cuts) + 1)) and cuts, text
        assert not {" ".join(words[:k]) for k in cuts} & whole
    assert not unfinished("what is seven plus ten") and unfinished("what is seven plus")


# ---- sound


def test_samples_are_sound(made):
    for dialogue in made:
        assert dialogue.samples.dtype == np.float32 and dialogue.samples.ndim == 1
        assert np.isfinite(dialogue.samples).all() and np.abs(dialogue.samples).max() <= 1
        clipped = np.abs(dialogue.samples) == np.abs(dialogue.samples).max()
        assert clipped.sum() <= 2


def level_db(samples):
    return 10 * np.log10(np.mean(np.square(samples, dtype=np.float64)))


def test_sound_is_where_the_turns_say_and_as_loud_as_the_configuration():
    corpus = dialogues(words=["room_snr_db=[90,90]", "level_db=[-30,-30]", "noise_snr_db=[6,6]"])
    relative_db = collections.defaultdict(list)
    for index in range(25):
        dialogue = corpus[index]
        quiet = np.ones(len(dialogue.samples), bool)
        for turn in dialogue.turns:
            start, end = samples_of(turn)
            quiet[start:end] = turn.kind == "silence"
            spoken = dialogue.samples[start:end]
            if turn.pause_s:
                pause = slice(*(round(t * RATE_HZ) for t in turn.pause_s))
                quiet[pause] = True
                spoken = np.concatenate(
                    [dialogue.samples[start : pause.start], dialogue.samples[pause.stop : end]]
                )
            if turn.kind != "silence":
                edges = np.abs(
                    dialogue.samples[[*range(start, start + 400), *range(end - 400, end)]]
                ).reshape(2, -1)
                assert (edges.max(axis=1) > 1e-4).all(), "sound begins and ends with its turn"
            relative_db[turn.kind].append(level_db(spoken))
        assert np.abs(dialogue.samples[quiet]).max() < 1e-4
    for kind in ("question", "paused_question", "talking_to_other"):
        assert relative_db[kind] == pytest.approx([-30] * len(relative_db[kind]), abs=0.5)
    assert relative_db["noise"] == pytest.approx([-36] * len(relative_db["noise"]), abs=0.5)
    assert all(-55.5 < level < -44.5 for level in relative_db["background_speech"])


def test_a_cut_lies_where_a_word_begins_and_takes_nothing_away():
    spoken, person = Spoken(grammar.draw, "train", RATE_HZ), 3
    phrase = spoken.phrase(random.Random(4), person)
    voice = synthetic.draw_espeak_voice(random.Random(person), "train")
    speech = synthetic.speak_with_espeak(phrase.text, voice)
    first, _ = audible_span(speech.samples, speech.sample_rate_hz)
    borders = [word.start_s - first / speech.sample_rate_hz for word in speech.words[1:]]
    assert phrase.pause_positions and np.allclose(
        np.array(phrase.pause_positions) / RATE_HZ,
        borders[: len(phrase.pause_positions)],
        atol=1e-3,
    )
    assert (
        Spoken(other_speech.draw, "train", RATE_HZ).phrase(random.Random(5), person).speaker
        == phrase.speaker
        == voice.name
    )
    paused = sounds.insert_pause(phrase, random.Random(6), 1600, RATE_HZ)
    both = np.delete(paused.samples, np.arange(paused.pause.start, paused.pause.stop))
    fade = round(sounds.FADE_S * RATE_HZ)
    changed = np.flatnonzero(both != phrase.samples)
    assert not paused.samples[paused.pause.start : paused.pause.stop].any()
    assert set(changed) <= {
        *range(fade),
        *range(paused.pause.start - fade, paused.pause.start + fade),
        *range(len(both) - fade, len(both)),
    }


@pytest.mark.parametrize("colour", sounds.ROOM_NOISES)
def test_colours_of_noise(colour):
    samples = noise(colour, 3 * RATE_HZ, np.random.default_rng(1), RATE_HZ)
    power = np.abs(np.fft.rfft(samples)) ** 2
    low, high = power[300:1500].mean(), power[15_000:24_000].mean()  # 100 to 500 Hz, 5 to 8 kHz
    assert level_db(samples) == pytest.approx(0, abs=1e-3)
    assert {
        "white": 0.8 < low / high < 1.25,
        "pink": 10 < low / high < 40,
        "hum": low / high > 100,
    }[colour]


# ---- held out


def test_no_voice_and_no_sentence_of_one_split_occurs_in_another():
    voices = {
        split: {v for group in groups for v in group}
        for split, groups in synthetic.VARIANTS.items()
    }
    for split in SPLITS:
        turns = [turn for i in range(12) for turn in dialogues(split)[i].turns]
        assert {grammar.split_of_text(turn.text) for turn in turns if turn.kind in SAID} == {split}
        assert {turn.speaker.partition("+")[2] for turn in turns if turn.speaker} <= voices[split]


def test_other_speech_is_plain_and_for_somebody_else():
    texts = list(other_speech.sentences())
    assert len(texts) == len(set(texts)) > 5_000
    words = collections.defaultdict(set)
    for text in texts:
        words[grammar.split_of_text(text)].update(text.split(" "))
    assert words["valid"] | words["test"] <= words["train"]
    assert all(word.replace("'", "").isalpha() and word.islower() for word in words["train"])
    assert not set(texts) & {sentence.text for sentence in grammar.sentences()}


@pytest.mark.parametrize("split", SPLITS)
def test_other_speech_stays_in_its_split_and_repeat(split):
    drawn, again = (
        [other_speech.draw(rng, split) for _ in range(500)]
        for rng in (random.Random(3), random.Random(3))
    )
    assert drawn == again and {grammar.split_of_text(qa_pair.text) for qa_pair in drawn} == {split}
    assert {qa_pair.answer for qa_pair in drawn} == {""}


# ---- recordings


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """A folder of noise by ten speakers, with answers of one to seven words and one without."""
    folder, rng = tmp_path_factory.mktemp("recordings"), np.random.default_rng(2)
    rows = []
    for number in range(61):
        sf.write(folder / f"{number}.wav", rng.normal(0, 0.1, rng.integers(6_000, 16_000)), 8_000)
        answer, speaker = " ".join(["yes"] * (number % 7 + 1)), f"s{number % 10}"
        rows.append(
            {
                "audio": f"{number}.wav",
                "text": f"noise {number}",
                "answer": answer,
                "speaker": speaker,
            }
        )
    rows[-1] |= {"text": "no question", "answer": ""}
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_dialogues_of_recordings(recordings):
    corpora, _ = open_corpora(recordings, RATE_HZ, 0.1, 20)
    corpus = open_dialogues(CONFIG, "train", 12, corpora["train"])
    turns = [turn for i in range(12) for turn in corpus[i].turns]
    asked = [turn for turn in turns if turn.kind in RECORDED and turn.text.startswith("noise")]
    assert {turn.kind for turn in asked} == RECORDED
    corrected = [turn for turn, after in itertools.pairwise(turns) if after.kind == "correction"]
    for turn in turns:
        assert turn in asked or turn in corrected or turn.kind not in RECORDED
    assert all(
        turn.text.startswith("noise") and set(turn.answer.split()) == {"yes"} for turn in asked
    )
    assert {turn.speaker for turn in asked} <= {entry.speaker for entry in corpora["train"].entries}
    assert all(turn.pause_s for turn in asked if turn.kind == "paused_question")
    assert digest(corpus[3]) == digest(open_dialogues(CONFIG, "train", 12, corpora["train"])[3])
    assert corpus[5].labels == read_literally(corpus[5], CONFIG.dialogue, RATE_HZ // 5)


def test_recordings_lose_the_silence_around_them_and_are_cut_where_it_is_quiet():
    samples = np.random.default_rng(3).normal(0, 0.1, 16_000)
    samples[:1_000] = samples[15_000:] = 0
    samples[7_000:8_200] *= 0.1
    start, end = audible_span(samples, 16_000)
    assert 840 <= start <= 1_000 and 15_000 <= end <= 15_160
    assert 7_000 < start + quietest_near_middle(samples[start:end], 16_000) < 8_200


class Mute:
    """A corpus of transcripts alone."""

    def __len__(self):
        return 3

    def qa_pair(self, index):
        return "hello", ""


def test_recordings_without_answers_are_named():
    with pytest.raises(ValueError, match="no utterance has one.*`answer`"):
        Recorded(Mute(), RATE_HZ)


# ---- mistakes


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("shares.questoin=1", "Did you mean 'question'"),
        ("shares.question=-1", "none may be negative"),
        (
            "shares={question: 0, paused_question: 0, interruption: 0, talking_to_other: 0, "
            "background_speech: 0, noise: 0, backchannel: 0, silence: 0, out_of_grammar: 0, "
            "small_talk: 0, stop: 0, correction: 0}",
            "one must be more than 0",
        ),
        ("gap_s=[2,1]", "dialogue.gap_s=.*give \\[low, high\\]"),
        ("events=[0,2]", "dialogue.events=.*at least one"),
        ("gap_s=[-1,1]", "dialogue.gap_s=.*cannot be negative"),
        ("overlap_share=2", "between 0 and 1"),
        ("words_per_s=0", "dialogue.words_per_s=0.0: must be more than 0"),
        ("min_speech_ms=300", "min_speech_ms=300.0 and duplex.slice_ms=200.0"),
        ("pause_s=[0.1,1]", "dialogue.pause_s=.*dialogue.endpoint_silence_ms=120.0.*raise pause_s"),
        ("level_db=[-40,-10]", "dialogue.level_db=.*narrow level_db"),
        ("slice_ms=250", "duplex.slice_ms=250 ms.*multiple of 200"),
        (
            "min_interrupted_answer_s=13",
            "answer of 26 words, and the longest has 12.*lower min_interrupted_answer_s",
        ),
    ],
)
def test_a_mistake_names_the_field_and_the_remedy(word, answer):
    with pytest.raises(ValueError, match=answer):
        dialogues(words=[word])


def test_long_answers_matter_only_where_something_falls_into_them():
    never = ["overlap_share=0", "shares.interruption=0", "shares.backchannel=0", "shares.stop=0"]
    assert dialogues(words=["min_interrupted_answer_s=13", *never])[0].turns


# ---- written


def test_written_dialogues_can_be_heard_and_read(tmp_path, capsys):
    write_dialogues.main(["2", "valid", *TINY, *ALL_TURNS, f"run.dir={tmp_path}"])
    folder, corpus = tmp_path / "dialogues", dialogues("valid")
    assert "response" in capsys.readouterr().out
    for index in range(2):
        dialogue = corpus[index]
        facts = json.loads((folder / f"{dialogue.id}.json").read_text())
        assert facts["labels"] == list(dialogue.labels) and len(facts["turns"]) == len(
            dialogue.turns
        )
        stereo, rate_hz = sf.read(folder / f"{dialogue.id}.wav")
        assert rate_hz == RATE_HZ and np.allclose(stereo[:, 0], dialogue.samples, atol=1e-4)
        assert bool(dialogue.answers) == stereo[:, 1].any()
        for answer in dialogue.answers:
            begin = (answer.begin + 1) * corpus.slices.length
            assert stereo[begin : begin + RATE_HZ // 4, 1].any()
        assert (folder / f"{dialogue.id}.png").stat().st_size > 10_000


@pytest.mark.parametrize("args", [["2", "tset"], ["many", "test"]])
def test_a_wrong_split_or_number_is_answered(args):
    with pytest.raises(ValueError, match="one of train, valid, test"):
        write_dialogues.main([*args, *TINY])
