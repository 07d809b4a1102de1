"""Synthesisers: the same speech everywhere, voices held out, and errors before training."""

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from torch.utils.data import DataLoader

from configs.fingerprint import fingerprint
from configs.loading import load_config, override
from datamodules.corpora import Corpora, check_synthesisers
from datamodules.dialogue.dialogues import open_dialogues
from datamodules.synthetic import grammar
from datamodules.synthetic.espeak_voices import draw_espeak_voice
from datamodules.synthetic.speech_cache import SpeechCache, size_of
from datamodules.synthetic.voices import SYNTHESISERS, Voices, open_voices, parse_families
from datamodules.synthetic.word_times import estimate_words
from tests.conftest import TINY
from tests.voice_digests import SENTENCE, digest, draw_voices

ROOT = Path(__file__).parent.parent
CONFIG = load_config(TINY)
ENTRIES = ("espeak", "flite", "pico", "festival", "piper")


def available():
    """The entries that can speak here."""
    families = parse_families("data.voices", {name: 1 for name in ENTRIES})
    found = []
    for name, family in zip(ENTRIES, families, strict=True):
        if family.synthesiser.problem(family.argument) is None:
            found.append(name)
    return found


def entry(name):
    """The synthesiser of an entry; skips the test where it cannot speak."""
    [family] = parse_families("data.voices", {name: 1})
    problem = family.synthesiser.problem(family.argument)
    if problem is not None:
        pytest.skip(problem)
    return family.synthesiser


def test_speech_is_the_same_in_another_process_after_other_texts():
    program = [sys.executable, "-m", "tests.voice_digests", *available()]
    ended = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=True)
    here = [digest(name) for name in available()]
    assert here == ended.stdout.split()
    assert len(set(here)) == len(here), "no family speaks like another"


@pytest.mark.parametrize("name", ENTRIES)
def test_words_rise_within_the_speech(name):
    synthesiser = entry(name)
    [voice] = draw_voices(name, "train", 1)
    speech = synthesiser.speak(SENTENCE, voice)
    starts = [word.start_s for word in speech.words]
    duration_s = len(speech.samples) / speech.sample_rate_hz
    assert 0 <= starts[0] < starts[-1] < duration_s
    assert all(first < second for first, second in zip(starts, starts[1:], strict=False))
    spoken = [SENTENCE[word.position : word.position + word.length] for word in speech.words]
    assert spoken == SENTENCE.split()
    assert 0.6 < duration_s / (voice.letter_s * len(SENTENCE)) < 1.6


@pytest.mark.parametrize("name", ["espeak", "flite", "pico", "kokoro"])
def test_no_voice_of_valid_or_test_occurs_in_train(name):
    names = {}
    for split in ("train", "valid", "test"):
        voices = draw_voices(name, split, 400)
        names[split] = {voice.name.partition("+")[2] or voice.name for voice in voices}
    assert not names["train"] & (names["valid"] | names["test"])


def test_estimated_words_begin_in_the_gaps():
    rate_hz = 16_000
    samples = np.zeros(rate_hz * 2, np.float32)
    noise = np.random.default_rng(1).standard_normal(rate_hz * 2).astype(np.float32)
    # Three words of 0.5, 0.45 and 0.45 s with 50 ms of silence between them.
    for start_s, end_s in ((0.25, 0.75), (0.8, 1.25), (1.3, 1.75)):
        span = slice(int(start_s * rate_hz), int(end_s * rate_hz))
        samples[span] = noise[span]
    words = estimate_words("aaaa bbbb cccc", samples, rate_hz)
    assert words[0].start_s == pytest.approx(0.25, abs=0.011)
    assert 0.74 < words[1].start_s < 0.8
    assert 1.24 < words[2].start_s < 1.3
    assert [(word.position, word.length) for word in words] == [(0, 4), (5, 4), (10, 4)]


def test_words_of_a_very_short_sound_do_not_fall():
    words = estimate_words("a b c d e", np.ones(400, np.float32), 16_000)
    starts = [word.start_s for word in words]
    assert starts == sorted(starts)


def test_espeak_alone_draws_what_it_drew_before_there_were_others():
    voices = open_voices(CONFIG.data)
    first, second = random.Random(7), random.Random(7)
    assert voices.draw(first, "train") == draw_espeak_voice(second, "train")
    assert first.getstate() == second.getstate()


def test_shares_are_kept():
    voices = open_voices(override(CONFIG, ["data.voices={espeak: 1, flite: 2, pico: 1}"]).data)
    rng = random.Random(3)
    drawn = [voices.draw(rng, "train").synthesiser for _ in range(4000)]
    assert drawn.count("flite") == pytest.approx(2000, abs=150)
    assert drawn.count("pico") == pytest.approx(1000, abs=120)


def test_zero_leaves_the_default_out():
    voices = open_voices(override(CONFIG, ["data.voices={espeak: 0, flite: 1}"]).data)
    assert [family.synthesiser.name for family in voices.families] == ["flite"]


def test_other_voices_make_another_run():
    changed = [
        fingerprint(override(CONFIG, [f"data.voices={shares}"]))
        for shares in ("{espeak: 1}", "{flite: 1}", "{espeak: 0, flite: 1}", "{flite: 2}")
    ]
    assert changed[0] == fingerprint(CONFIG)
    assert len(set(changed)) == 4


@pytest.mark.parametrize(
    "shares, message",
    [
        ("{flit: 1}", "data.voices: unknown synthesiser 'flit'. Did you mean 'flite'"),
        ("{flite: -1}", "data.voices.flite=-1: a share cannot be negative"),
        ("{espeak: 0}", "give one synthesiser a share of more than 0"),
    ],
)
def test_wrong_shares_are_explained(shares, message):
    config = override(CONFIG, [f"data.voices={shares}"])
    with pytest.raises(ValueError, match=message):
        open_voices(config.data)


def test_a_missing_synthesiser_is_named_with_its_command(monkeypatch):
    config = override(CONFIG, ["data.voices.flite=1"])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=r"data.voices: flite .* `sudo apt-get install flite`"):
        check_synthesisers(config)
    # Recorded speech alone needs no synthesiser.
    check_synthesisers(override(config, ["data.path=anywhere", "data.synthetic_share=0"]))


def test_workers_speak_as_their_parent_does():
    entry("pico")
    config = override(CONFIG, ["data.voices={espeak: 0, pico: 1}"])
    stream = Corpora(config).stream
    # The parent's own process of the engine is up before the workers fork.
    here = [samples_of(stream[index]) for index in range(6)]
    loader = DataLoader(
        stream, sampler=range(6), batch_size=None, num_workers=2, collate_fn=samples_of
    )
    assert list(loader) == here


def samples_of(utterance):
    return utterance.samples.tobytes()


def test_corpora_and_dialogues_speak_in_all_families(tmp_path):
    for name in ("flite", "pico"):
        entry(name)
    shares = "data.voices={espeak: 1, flite: 1, pico: 1}"
    config = override(CONFIG, [shares, f"data.cache={tmp_path}"])
    corpora = Corpora(config)
    speakers = {corpora.stream[index].speaker.partition("+")[0] for index in range(12)}
    assert {"en-US"} < speakers and speakers & {"rms", "awb"}
    dialogues = open_dialogues(config, "train", 10)
    turns = [turn for index in range(3) for turn in dialogues[index].turns]
    user = [turn.speaker for turn in dialogues[0].turns if turn.answer]
    assert len(set(user)) == 1, "a person has one voice"
    assert len({turn.speaker for turn in turns if turn.text}) > 1
    assert (
        dialogues[1].samples.tobytes() == open_dialogues(config, "train", 10)[1].samples.tobytes()
    )


def test_every_record_says_what_it_is():
    for name, synthesiser in SYNTHESISERS.items():
        assert synthesiser.name == name
        assert synthesiser.install and synthesiser.licence
    assert grammar.split_of_text(SENTENCE) in ("train", "valid", "test")


@pytest.mark.parametrize(
    "name",
    ["festival", "festival:kal_diphone", "piper", "piper:joe", "command:text2wave -o {out} {text}"],
)
def test_families_for_scores_alone_are_refused_for_training(name):
    config = override(CONFIG, [f'data.voices={{"{name}": 1}}'])
    with pytest.raises(ValueError, match=r"never trained with.*data\.test_voices"):
        Corpora(config)


def test_a_copy_of_the_voice_joe_is_refused_too(tmp_path):
    pytest.importorskip("piper")
    for name, dataset in (("copy", "joe"), ("other", "amy")):
        file = tmp_path / f"{name}.onnx"
        file.write_bytes(b"")
        file.with_name(f"{name}.onnx.json").write_text(f'{{"dataset": "{dataset}"}}')
    with pytest.raises(ValueError, match="never trained with"):
        open_voices(override(CONFIG, [f'data.voices={{"piper:{tmp_path}/copy.onnx": 1}}']).data)
    open_voices(override(CONFIG, [f'data.voices={{"piper:{tmp_path}/other.onnx": 1}}']).data)


def test_speakers_of_a_voice_file_are_held_out(tmp_path):
    pytest.importorskip("piper")
    (tmp_path / "many.onnx.json").write_text('{"num_speakers": 20}')
    speakers = {}
    for split in ("train", "valid", "test"):
        voices = draw_voices(f"piper:{tmp_path}/many.onnx", split, 300)
        speakers[split] = {voice.settings["speaker"] for voice in voices}
    assert speakers == {"train": {*range(18)}, "valid": {18, 19}, "test": {18, 19}}


@pytest.mark.parametrize(
    "name, message",
    [
        ("piper:missing.onnx", "there is no voice file missing.onnx"),
        ("command:flite {text}", "the command has no {out}"),
        ("command:no-such-program {text} {out}", "there is no program no-such-program"),
    ],
)
def test_entries_that_cannot_speak_say_why(name, message):
    if name.startswith("piper"):
        pytest.importorskip("piper")
    with pytest.raises(ValueError, match=message):
        check_synthesisers(override(CONFIG, [f'data.voices={{"{name}": 1}}']))


class Counted(Voices):
    """The voices of one command, which counts how often it speaks."""

    def __init__(self, folder):
        self.log = folder / "log"
        self.sound = folder / "sound.wav"
        noise = np.random.default_rng(1).uniform(-0.5, 0.5, 22_050)
        soundfile.write(self.sound, noise, 22_050)
        command = f"echo {{text}} >> {self.log} && cp {self.sound} {{out}}"
        family = parse_families("data.voices", {f"command:{command}": 1})[0]
        super().__init__([family], SpeechCache(folder / "cache"))
        self.voice = self.draw(random.Random(1), "train")

    def say(self, text):
        return self.speak(text, self.voice)

    @property
    def num_spoken(self):
        return len(self.log.read_text().splitlines())


def test_the_cache_gives_what_was_spoken(tmp_path):
    voices = Counted(tmp_path)
    fresh, cached = voices.say("spell cat"), voices.say("spell cat")
    assert voices.num_spoken == 1
    assert fresh.samples.tobytes() == cached.samples.tobytes()
    assert (fresh.words, fresh.sample_rate_hz) == (cached.words, cached.sample_rate_hz)
    voices.say("spell dog")
    assert voices.num_spoken == 2
    # Another process, a later run: the same folder goes on being used.
    again = Voices(voices.families, SpeechCache(tmp_path / "cache"))
    again.speak("spell dog", voices.voice)
    assert voices.num_spoken == 2
    assert size_of(tmp_path / "cache")[0] == 2


@pytest.mark.parametrize("kept_bytes", [0, 30, 5000, -1])
def test_a_cut_file_is_spoken_again(tmp_path, kept_bytes):
    voices = Counted(tmp_path)
    whole = voices.say("spell cat")
    file = voices.cached_file("spell cat", voices.voice)
    file.write_bytes(file.read_bytes()[:kept_bytes])
    assert voices.say("spell cat").samples.tobytes() == whole.samples.tobytes()
    assert voices.num_spoken == 2
    voices.say("spell cat")
    assert voices.num_spoken == 2, "the file is whole again"


def test_a_failing_command_is_shown(tmp_path):
    [family] = parse_families("data.voices", {"command:echo oh dear {text} {out} >&2; exit 3": 1})
    voices = Voices([family], SpeechCache(tmp_path))
    with pytest.raises(RuntimeError, match="ended with 3 and wrote no sound file: oh dear"):
        voices.speak("spell cat", voices.draw(random.Random(1), "train"))
    assert not list(tmp_path.rglob("*")), "nothing is kept"
