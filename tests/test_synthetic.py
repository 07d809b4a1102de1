"""Spoken exchanges: the same everywhere, and held out as promised."""

import dataclasses
import functools
import hashlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from configs.loading import load_config
from datamodules.mixture import Mixture
from datamodules.synthetic import espeak_voices, grammar
from datamodules.synthetic import speech as synthetic
from datamodules.synthetic.espeak import SAMPLE_RATE_HZ, _server, speak
from datamodules.synthetic.in_domain_text import MAX_WORDS, InDomainText
from datamodules.synthetic.speech import SyntheticSpeech
from tests.conftest import TINY

espeakng_loader = pytest.importorskip("espeakng_loader")

ROOT = Path(__file__).parent.parent
AUGMENT = load_config(TINY).data.augment
SENTENCE = "please tell me how many minutes are in three hours"
corpus = functools.partial(SyntheticSpeech, seed=7, size=100, rate_hz=16_000, augment=AUGMENT)


def digest(utterance):
    said = f"{utterance.id} {utterance.text} {utterance.answer} {utterance.speaker}".encode()
    return hashlib.sha256(said + utterance.samples.tobytes()).hexdigest()


def digests(indices):
    return {
        f"{split} {i}": digest(corpus(split)[i])
        for i in indices
        for split in ("train", "valid", "test")
    }


def test_two_fresh_processes_in_different_order_give_the_same_bytes():
    indices = [*range(8), 10_000_019]
    shuffled = random.Random(1).sample(indices, len(indices))
    program = (
        "import sys, tests.test_synthetic as t; "
        "print(*sorted(t.digests(map(int, sys.argv[1:])).items()), sep='\\n')"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", program, *map(str, order)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for order in (indices, shuffled)
    ]
    assert outputs[0] == outputs[1]
    assert len(set(outputs[0].split())) > 2 * len(indices)


def test_workers_give_what_the_parent_gives():
    train = corpus("train")
    here = [
        digest(train[i]) for i in range(12)
    ]  # the parent's own helper is up before the workers fork
    loader = DataLoader(train, sampler=range(12), batch_size=None, num_workers=2, collate_fn=digest)
    assert list(loader) == here


def test_another_seed_is_another_corpus():
    texts = [[corpus("train", seed=seed).qa_pair(i) for i in range(20)] for seed in (1, 2)]
    assert texts[0] != texts[1]


@pytest.mark.parametrize("held_out", ["valid", "test"])
def test_voices_and_sentences_held_out_never_train(held_out):
    variants = {
        split: {v for group in groups for v in group}
        for split, groups in espeak_voices.VARIANTS.items()
    }
    assert not variants[held_out] & variants["train"]
    recipes = {
        split: [corpus(split)._recipe(i) for i in range(4_000)] for split in ("train", held_out)
    }
    texts, voices = (
        {split: {key(r) for r in drawn} for split, drawn in recipes.items()}
        for key in (lambda r: r.qa_pair.text, lambda r: r.voice.name.partition("+")[2])
    )
    assert not texts[held_out] & texts["train"]
    assert voices == {split: variants[split] for split in ("train", held_out)}
    assert {grammar.split_of_text(text) for text in texts[held_out]} == {held_out}


def test_every_voice_is_known_to_espeak_and_unlike_the_others():
    """espeak-ng says nothing of an unknown variant: it speaks without it."""
    variants = sorted(
        {v for groups in espeak_voices.VARIANTS.values() for group in groups for v in group}
    )
    shipped = {
        path.name for path in (Path(espeakng_loader.get_data_path()) / "voices" / "!v").iterdir()
    }
    assert set(variants) <= shipped
    voices = [f"{espeak_voices.ACCENTS[0]}+{v}" for v in variants] + [
        f"{accent}+m1" for accent in espeak_voices.ACCENTS[1:]
    ]
    assert len(
        {speak("which month comes after january", voice).samples.tobytes() for voice in voices}
    ) == len(voices)


def test_speech_does_not_depend_on_what_was_said_before():
    first = speak(SENTENCE, "gmw/en-US+f3")
    speak("spell cat", "gmw/en+m1", 210, 70, 30)
    again = speak(SENTENCE, "gmw/en-US+f3")
    assert first.samples.tobytes() == again.samples.tobytes()
    assert first.words == again.words


def test_words_come_in_order_inside_the_audio():
    for voice in ("gmw/en-US+m1", "gmw/en-GB-scotland+f4", "gmw/en+klatt2"):
        speech = speak(SENTENCE, voice)
        starts = [word.start_s for word in speech.words]
        assert [
            SENTENCE[w.position : w.position + w.length] for w in speech.words
        ] == SENTENCE.split()
        assert all(a < b for a, b in zip(starts, starts[1:], strict=False))
        assert 0 <= starts[0] < starts[-1] < len(speech.samples) / speech.sample_rate_hz


def test_rate_and_pitch_are_obeyed():
    slow, fast = (
        len(speak(SENTENCE, "gmw/en-US+m1", rate_wpm=rate).samples) for rate in (130, 210)
    )
    assert slow / fast == pytest.approx(210 / 130, rel=0.15)
    low, high = (speak(SENTENCE, "gmw/en-US+m1", pitch=pitch).samples for pitch in (25, 75))
    assert low.tobytes() != high.tobytes()


def test_utterances_are_what_they_say():
    for split in ("train", "valid", "test"):
        utterance = corpus(split)[5]
        assert (utterance.text, utterance.answer) == corpus(split).qa_pair(5)
        assert utterance.samples.dtype == np.float32 and utterance.samples.ndim == 1
        assert np.abs(utterance.samples).max() <= 1
    assert len(corpus("train")) == 100
    assert corpus("train")[10**9].text


def test_durations_are_estimated_closely():
    drawn = [(c, i) for c in map(corpus, ("train", "test")) for i in range(60)]
    ratios = [len(c[i].samples) / 16_000 / c.duration_s(i) for c, i in drawn]
    assert min(ratios) > 0.6 and max(ratios) < 1.6
    assert 0.9 < np.mean(ratios) < 1.1


def test_only_training_changes_the_speed():
    twice = dataclasses.replace(AUGMENT, speeds=[2.0], pad_s=[0, 0])
    normal = dataclasses.replace(twice, speeds=[1.0])
    for split, factor in (("train", 2), ("valid", 1), ("test", 1)):
        lengths = [len(corpus(split, augment=config)[3].samples) for config in (normal, twice)]
        assert lengths[0] == pytest.approx(factor * lengths[1], abs=2)


def test_only_in_training_do_speakers_hesitate(monkeypatch):
    monkeypatch.setattr(synthetic, "PAUSE_S", (1.5, 1.5))
    quiet = functools.partial(
        corpus, augment=dataclasses.replace(AUGMENT, noise_share=0, speeds=[1.0])
    )
    fluent, hesitant = ({split: [] for split in ("train", "test")} for _ in range(2))
    for share, found in ((0, fluent), (1, hesitant)):
        monkeypatch.setattr(synthetic, "HESITANT_SHARE", share)
        for split, kept in found.items():
            kept += [(quiet(split)[i], quiet(split).duration_s(i)) for i in range(8)]
    for (plain, plain_s), (broken, broken_s) in zip(
        fluent["train"], hesitant["train"], strict=True
    ):
        assert broken.text == plain.text
        assert len(broken.samples) - len(plain.samples) == pytest.approx(1.5 * 16_000, abs=2)
        assert broken_s - plain_s == pytest.approx(1.5)
        loud = np.nonzero(np.abs(broken.samples) > 0.05 * np.abs(broken.samples).max())[0]
        assert max(np.diff(loud)) > 1.4 * 16_000, "between two words"
    assert [u.samples.tobytes() for u, _ in fluent["test"]] == [
        u.samples.tobytes() for u, _ in hesitant["test"]
    ]


def test_failures_name_voice_and_text():
    with pytest.raises(ValueError, match=r"'gmw/zz'.*'spell cat'"):
        speak("spell cat", "gmw/zz")
    os.kill(_server(os.getpid()).pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"'gmw/en'.*'spell cat'"):
        speak("spell cat", "gmw/en")
    assert len(speak("spell cat", "gmw/en").samples) > SAMPLE_RATE_HZ / 4, (
        "another helper takes over"
    )


def test_missing_espeak_names_the_remedy():
    program = (
        "import sys; sys.modules['espeakng_loader'] = None; "
        "from datamodules.synthetic.espeak import speak; speak('a', 'gmw/en')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert "pip install -e '.[tts]'" in ended.stderr.splitlines()[-1]


def test_the_helper_ends_quietly_with_a_killed_process():
    program = (
        "import os, threading, time; from datamodules.synthetic.espeak import speak; speak('a', 'gmw/en');"
        "speaking = threading.Thread(target=lambda: [speak('a', 'gmw/en') for _ in iter(int, 1)]);"
        "speaking.start(); time.sleep(0.3); os.kill(os.getpid(), 9)"
    )
    # The helper shares the stream of errors, so that this returns only when the helper has ended too.
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=20
    )
    assert (ended.returncode, ended.stderr) == (-signal.SIGKILL, "")


def test_a_process_ends_while_its_workers_still_speak():
    program = (
        "from tests.test_synthetic import *; train = corpus('train'); train[0];"
        "speaking = iter(DataLoader(train, batch_size=None, num_workers=1, collate_fn=digest)); next(speaking)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=30)
    assert ended.returncode == 0


class Orders:
    """Recorded speech, as far as its words are asked for."""

    def __init__(self, exchanges):
        self.exchanges = exchanges

    def __len__(self):
        return len(self.exchanges)

    def qa_pair(self, index):
        return self.exchanges[index]


def retelling(exchanges, share):
    return corpus(
        "train", in_domain=(InDomainText(Mixture([Orders(exchanges)], [1], seed=1)), share)
    )


def test_a_share_says_what_recorded_speech_with_answers_says():
    orders = [(f"brew {grammar.number(n)} cups", "of tea") for n in range(5)]
    in_domain = retelling(orders, 0.4)
    said = [in_domain.qa_pair(i) for i in range(1000)]
    assert 350 < sum(qa_pair in orders for qa_pair in said) < 450
    assert {*orders} <= {*said}
    index = next(i for i, qa_pair in enumerate(said) if qa_pair in orders)
    assert (
        (in_domain[index].text, in_domain[index].answer)
        == said[index]
        != corpus("train").qa_pair(index)
    )
    again = retelling(orders, 0.4)
    assert [again.qa_pair(i) for i in range(1000)] == said


def test_without_answers_new_sentences_go_on_as_recorded_ones_do():
    texts = [
        "i want a small tea with milk",
        "brew a large tea with milk and sugar",
        "i want a large coffee",
    ]
    in_domain = retelling([(text, "") for text in texts], 1.0)
    said = {in_domain.qa_pair(i)[0] for i in range(300)}
    assert {*texts, "i want a large tea with milk", "brew a large coffee"} <= said
    threes = {
        tuple(words[i : i + 3]) for words in map(str.split, texts) for i in range(len(words) - 2)
    }
    assert all(
        tuple(words[i : i + 3]) in threes
        for words in map(str.split, said)
        for i in range(len(words) - 2)
    )


def test_a_sentence_that_goes_round_in_circles_ends():
    in_domain = retelling([("tea tea tea tea tea", "")], 1.0)
    assert max(len(in_domain.qa_pair(i)[0].split()) for i in range(200)) <= MAX_WORDS
