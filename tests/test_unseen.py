"""Scores on families and people that nothing was trained on."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from configs.fingerprint import fingerprint
from configs.loading import load_config, override
from datamodules import fill_cache
from datamodules.corpora import Corpora
from datamodules.dialogue.dialogues import open_dialogues
from datamodules.unseen import check_unseen, open_unseen
from lightning_modules.trainer import unseen as unseen_scores
from tests.conftest import TINY
from tests.small_runs import SHORT
from train import main

CONFIG = load_config(TINY)
WORDS = ["seven", "seven zebras", "what is the capital of france", "stop", "zebra"]
"""Transcripts of people; the grammar has no zebras."""


def speaking_command(folder: Path) -> str:
    """An entry of data.test_voices that says the same to everything."""
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 16_000)
    sound = folder / "sound.wav"
    soundfile.write(sound, noise, 16_000)
    return f"command:test {{text}} && cp {sound} {{out}}"


def people(folder: Path) -> Path:
    rows = []
    for number, text in enumerate(WORDS):
        noise = np.random.default_rng(number).uniform(-0.5, 0.5, 16_000)
        soundfile.write(folder / f"{number}.wav", noise, 16_000)
        for split in ("train", "valid", "test"):
            name = f"{split}-{number}"
            rows.append({"id": name, "audio": f"{number}.wav", "text": text, "split": split})
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def settings(folder: Path) -> list[str]:
    command = speaking_command(folder)
    return [
        f'data.test_voices={{"{command}": 1, "{command} ": 3}}',
        f"data.test_people={people(folder)}",
        f"data.cache={folder / 'cache'}",
    ]


def test_test_sentences_are_divided_among_the_families(tmp_path):
    config = override(CONFIG, [*settings(tmp_path), "data.test_size=40"])
    corpora = Corpora(config)
    unseen = open_unseen(config, corpora)
    assert {name: len(corpus) for name, corpus in unseen.voices.items()} == {
        "command": 10,
        "command-2": 30,
    }
    # The same sentences as the score in trained families, without answers.
    for corpus in unseen.voices.values():
        for index in range(5):
            assert corpus.qa_pair(index) == (corpora.test.qa_pair(index)[0], "")
            assert (corpus[index].text, corpus[index].answer) == corpus.qa_pair(index)


def test_a_share_of_zero_leaves_a_family_out():
    config = override(CONFIG, ["data.test_voices={festival: 0}"])
    unseen = open_unseen(config, Corpora(config))
    assert (unseen.voices, unseen.people, unseen.notes) == ({}, None, [])


def test_people_are_scored_on_words_that_training_has(tmp_path):
    config = override(CONFIG, settings(tmp_path))
    unseen = open_unseen(config, Corpora(config))
    known = {unseen.people.qa_pair(index)[0] for index in range(len(unseen.people))}
    assert known == {"seven", "what is the capital of france"}
    assert "2 of the 5 test utterances" in unseen.notes[-1]
    assert "3 have words that no training text has" in unseen.notes[-1]


def test_people_without_a_known_word_are_an_error(tmp_path):
    rows = people(tmp_path).read_text().splitlines()
    unknown = tmp_path / "unknown.jsonl"
    unknown.write_text("\n".join(row for row in rows if "zebra" in row))
    config = override(CONFIG, [f"data.test_people={unknown}"])
    with pytest.raises(ValueError, match="has only words of the training texts"):
        open_unseen(config, Corpora(config))


@pytest.mark.parametrize(
    "setting, message",
    [
        ("data.test_voices={pipr: 1}", "data.test_voices: unknown synthesiser 'pipr'"),
        ("data.test_people=nowhere", "data.test_people: .*nowhere"),
        ('data.test_voices={"command:nothing {text} {out}": 1}', "data.test_voices: command:noth"),
    ],
)
def test_what_cannot_be_scored_is_said_before_training(setting, message):
    with pytest.raises(ValueError, match=message):
        check_unseen(override(CONFIG, [setting]))


def test_scores_do_not_make_another_run(tmp_path):
    assert fingerprint(override(CONFIG, settings(tmp_path))) == fingerprint(CONFIG)


def test_single_words_of_people_have_a_score_of_their_own():
    pairs = [("six", "six"), ("seven", "eleven"), ("one two three four", "one two three")]
    scores = unseen_scores._scores_of_people(pairs)
    assert scores == {
        "test/wer_people": 2 / 6,
        "test/wer_people/words": 1 / 2,
        "test/wer_people/sentences": 1 / 4,
    }
    assert unseen_scores._scores_of_people(pairs[:2]) == {"test/wer_people": 1 / 2}


def test_a_stage_reports_all_scores_beside_its_own(tmp_path, capsys):
    pytest.importorskip("espeakng_loader")
    scores = {}
    for name, extra in (("alone", []), ("all", settings(tmp_path))):
        run = [f"run.dir={tmp_path / name}", *extra]
        scores[name] = main([TINY[0], "configs/stage/encoder.yaml", *SHORT, *run])
    unseen = {
        "test/wer_voices",
        "test/wer_voices/command",
        "test/wer_voices/command-2",
        "test/wer_people",
        "test/wer_people/words",
        "test/wer_people/sentences",
    }
    assert scores["all"].keys() - scores["alone"].keys() == unseen
    assert scores["all"]["test/wer"] == scores["alone"]["test/wer"]
    assert scores["all"]["test/cer"] == scores["alone"]["test/cer"]
    lines = (tmp_path / "all" / "latest" / "metrics.jsonl").read_text().splitlines()
    assert unseen <= json.loads(lines[-1]).keys()
    assert not any("wer_voices" in line for line in lines[:-1])
    assert "wer_people: 2 of the 5 test utterances" in capsys.readouterr().out


def test_the_cache_is_filled_and_shown(tmp_path, capsys):
    overrides = [
        *settings(tmp_path)[::2],
        "data.num_workers=0",
        "data.test_size=4",
        "data.valid_size=2",
    ]
    pytest.importorskip("espeakng_loader")
    fill_cache.main(["3", *TINY, *overrides])
    files = list((tmp_path / "cache").rglob("*.flac"))
    assert len(files) == 4
    assert "command           4 utterances" in capsys.readouterr().out
    made = {file: file.stat().st_mtime_ns for file in files}
    files[0].unlink()
    fill_cache.main(["3", *TINY, *overrides])
    again = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.flac")}
    assert again.keys() == made.keys()
    assert {file for file in files if again[file] == made[file]} == {*files[1:]}


def test_test_speech_has_the_effects_that_are_asked_for(tmp_path):
    pytest.importorskip("espeakng_loader")
    plain = override(CONFIG, settings(tmp_path))
    narrow = override(plain, ["data.test_effects.band_limit=1"])
    assert fingerprint(narrow) == fingerprint(plain)
    corpora = [Corpora(config) for config in (plain, narrow)]
    sets = []
    for config, opened in zip((plain, narrow), corpora, strict=True):
        speech = open_unseen(config, opened)
        sets.append([opened.test, *speech.voices.values(), speech.people])
    for without, with_effect in zip(*sets, strict=True):
        assert len(without) == len(with_effect)
        assert without.qa_pair(0) == with_effect.qa_pair(0)
        same, changed, again = without[0].samples, with_effect[0].samples, with_effect[0].samples
        assert np.array_equal(changed, again) and not np.allclose(same, changed, atol=1e-4)
    # training and validation are as they were
    for split in ("stream", "valid"):
        first, second = (getattr(opened, split)[0].samples for opened in corpora)
        assert np.array_equal(first, second)


def test_test_dialogues_have_the_effects_that_are_asked_for():
    pytest.importorskip("espeakng_loader")
    narrow = override(CONFIG, ["data.test_effects.band_limit=1"])
    for split, changes in (("test", True), ("valid", False)):
        plain, with_effects = (open_dialogues(c, split, 1)[0] for c in (CONFIG, narrow))
        assert plain.labels == with_effects.labels and plain.turns == with_effects.turns
        assert np.allclose(plain.samples, with_effects.samples, atol=1e-4) != changes
