"""Publishing a run as the model of the project, and finding it by its name."""

import argparse
import json
from pathlib import Path

import pytest
import torch

from configs.loading import override
from configs.schema import Config
from datamodules.corpora import Corpora
from duplexmamba.models.speech_lm import SpeechLM
from duplexmamba.text.tokenizer import Tokenizer
from evaluation.publish import MAIN_SCORES, publish
from evaluation.saved_scores import save_scores
from lightning_modules.trainer.checkpoint import (
    DEMO_FOLDER,
    FILE,
    StageCheckpoint,
    checkpoint_file,
    run_path,
)


@pytest.fixture
def run(tmp_path: Path, config: Config) -> Path:
    folder = tmp_path / "streaming-tiny-1"
    (folder / "scores").mkdir(parents=True)
    model = SpeechLM(config.model)
    tokenizer = Tokenizer.train(["turn on the light", "what is the time"])
    StageCheckpoint(config, tokenizer, model.state_dict()).save(folder / FILE)
    return folder


def score(run: Path, exact_match: float, macro_f1: float) -> None:
    args = argparse.Namespace(score="duplex", run=run, overrides=[], json=None)
    save_scores(args, {"answer/exact_match": exact_match, "state/macro_f1": macro_f1})


def test_a_published_model_is_the_run_in_half_precision(run: Path, tmp_path: Path) -> None:
    score(run, 0.8, 0.9)
    folder = tmp_path / "demo"
    publish(run, folder)
    original = StageCheckpoint.load(run)
    published = StageCheckpoint.load(folder)
    assert published.config.model == original.config.model
    assert published.tokenizer.to_json() == original.tokenizer.to_json()
    assert published.weights.keys() == original.weights.keys()
    for name, weight in published.weights.items():
        torch.testing.assert_close(weight.float(), original.weights[name].half().float())
    SpeechLM(published.config.model).load_state_dict(published.weights)
    assert json.loads((folder / "scores.json").read_text())["answer/exact_match"] == 0.8
    card = (folder / "README.md").read_text()
    assert "| answer/exact_match | 0.8 |" in card and "make train STAGE=asr PRESET=tiny" in card


def test_a_published_model_has_no_paths_of_its_training(
    run: Path, tmp_path: Path, config: Config
) -> None:
    here = f"{tmp_path}/speech"
    own = [f"data.cache={here}", f"data.source.path={here}", "data.sources={people: {}}"]
    own += [f"data.test_people={here}", f"data.augment.noise_path={here}", f"run.dir={here}"]
    own += [f"stage.init={{lm: {tmp_path}}}", "run.id=mine"]
    checkpoint = StageCheckpoint.load(run)
    StageCheckpoint(override(config, own), checkpoint.tokenizer, checkpoint.weights).save(
        run / FILE
    )
    score(run, 0.8, 0.9)
    folder = tmp_path / "demo"
    publish(run, folder, "data.source.path=speech/manifest.jsonl")
    assert str(tmp_path) not in (folder / "config.yaml").read_text()
    text = (folder / "README.md").read_text()
    assert str(tmp_path) not in text
    assert 'ARGS="data.source.path=speech/manifest.jsonl"' in text and "people: people" in text
    # whoever downloads it can open its data
    Corpora(StageCheckpoint.load(folder).config)


def test_a_published_model_is_replaced_by_a_better_one_alone(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with pytest.raises(ValueError, match=r"lacks the scores answer/exact_match.*make eval-duplex"):
        publish(run, folder)
    score(run, 0.8, 0.9)
    publish(run, folder)
    for scores in ((0.8, 0.9), (0.9, 0.89), (0.79, 0.95)):
        score(run, *scores)
        with pytest.raises(ValueError, match=r"answer/exact_match.*stays as it is"):
            publish(run, folder)
    score(run, 0.85, 0.9)
    publish(run, folder)
    assert json.loads((folder / "scores.json").read_text())[MAIN_SCORES[0]] == 0.85


def test_demo_is_the_model_of_the_project_unless_a_folder_has_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_path("demo") == DEMO_FOLDER
    assert run_path("runs/latest") == Path("runs/latest")
    (tmp_path / "demo").mkdir()
    assert run_path("demo") == Path("demo")
    assert checkpoint_file(tmp_path) == tmp_path / FILE
