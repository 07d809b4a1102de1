"""Every sweep file says what it is for, and every parameter and metric it names is one that the code has."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from configs.fingerprint import fingerprint
from configs.loading import load_config
from configs.recipes import DIALOGUE_STAGES, STAGES
from configs.schema import Config
from datamodules.data import Corpora
from datamodules.dialogue.data import DialogueData
from lightning_modules.results import AnswerResult, TurnStateResult
from lightning_modules.stages import STAGE_REGISTRY
from sweeps.hub.__main__ import client_settings, has_wandb_login, is_client_on_hub
from sweeps.hub.search import check, grid
from sweeps.report.sweep_file import is_seed, read_sweep_file
from sweeps.run import main as run_sweep
from sweeps.run import with_overrides

FILES = sorted(Path("sweeps").glob("*.yaml"))
SUMMARY = {
    "params/trained",
    "memory/peak_gib",
    "time/total_s",
    *(f"time/{stage}_s" for stage in STAGES),
}
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def words(path: Path) -> list[list[str]]:
    """What the program of each point is called with."""
    sweep = yaml.safe_load(path.read_text())
    given = [[f"{name}={value}" for name, value in point.items()] for point in grid(sweep)]
    assert sweep["command"][:3] == ["${env}", "${interpreter}", "${program}"]
    assert sweep["command"][-1] == "${args_no_hyphens}"
    return [[*sweep["command"][3:-1], *point] for point in given]


def metrics(config: Config) -> set[str]:
    """Names that the summary of a run has."""
    stage = STAGE_REGISTRY[config.stage.name]
    with torch.device("meta"):
        module = stage.module(config, stage.model(config.model), None)
    results = [TurnStateResult("response", "response"), AnswerResult("one", "two")]
    if config.stage.data != "dialogues":
        results = [AnswerResult("one", "two")]
    return SUMMARY | {f"test/{name}" for name in module.scores(results)}


def test_the_sweeps_of_this_project_are_there() -> None:
    names = {
        "slice_size",
        "duplex_slice",
        "encoder_context",
        "tokens_per_second",
        "seeds",
        "lora_drop",
    }
    assert names <= {path.stem for path in FILES}


@each_file
def test_a_sweep_opens_with_its_question_its_cost_and_its_figure(path: Path) -> None:
    sweep = read_sweep_file(path, path.stem)
    assert sweep.question.endswith("?") and sweep.cost.endswith(".")
    assert all(name in (sweep.x, sweep.line) or is_seed(name) for name in sweep.swept)


@each_file
def test_a_sweep_is_one_that_wandb_and_the_hub_take(path: Path) -> None:
    sweep = yaml.safe_load(path.read_text())
    check(sweep)
    assert Path(sweep["program"]).is_file() and sweep["metric"]["goal"] in ("minimize", "maximize")
    assert f"run.sweep={path.stem}" in sweep["command"]


@each_file
def test_every_parameter_is_one_of_the_configuration(path: Path) -> None:
    points = words(path)
    configs = [load_config(point) for point in points]
    config = configs[0]
    if config.stage.name in DIALOGUE_STAGES:
        for other in {str(c.duplex): c for c in configs}.values():
            DialogueData(other, Corpora(other)).dialogues("train", 0)
    for upstream in STAGES[: STAGES.index(config.stage.name)]:
        assert load_config(points[0], upstream).stage.name == upstream


@each_file
def test_every_metric_is_one_that_a_run_leaves(path: Path) -> None:
    points = words(path)
    known = metrics(load_config(points[0])) & metrics(load_config(points[-1]))
    named = set(re.findall(r"\b(?:test|time|params|memory)/\w+", path.read_text()))
    assert yaml.safe_load(path.read_text())["metric"]["name"] in known and named <= known


def test_points_of_the_slice_sweep_are_trained_on_the_slices_they_are_tested_on() -> None:
    heard = [load_config(point).encoder for point in words(Path("sweeps/slice_size.yaml"))]
    assert {(c.context, c.slice_ms) for c in heard} == {
        (context, ms) for context in ("slice", "causal_lookahead") for ms in (200, 400, 1000, 2000)
    }
    assert all(c.train_slice_ms == [c.slice_ms, c.slice_ms] for c in heard)


def test_points_of_the_duplex_sweep_hear_in_whole_slices() -> None:
    heard = [load_config(point) for point in words(Path("sweeps/duplex_slice.yaml"))]
    assert {(c.encoder.context, c.duplex.slice_ms) for c in heard} == {
        (context, ms) for context in ("causal", "causal_lookahead") for ms in (200, 400, 600, 1000)
    }
    assert all(
        c.encoder.slice_ms == c.duplex.slice_ms == c.encoder.train_slice_ms[0] for c in heard
    )


def test_what_lies_beneath_the_points_of_a_duplex_sweep_is_shared() -> None:
    points = words(Path("sweeps/duplex_slice.yaml"))
    assert len({fingerprint(load_config(point, "instruct")) for point in points}) == 2


def test_words_for_all_points_stand_before_those_of_a_point(tmp_path: Path) -> None:
    path = Path("sweeps/slice_size.yaml")
    assert with_overrides(path, [], tmp_path) == path
    copy = with_overrides(path, ["trainer.max_steps=9", "stage.init={a: b}"], tmp_path)
    assert copy == tmp_path / "sweeps" / "slice_size" / "sweep.yaml"
    before, after = yaml.safe_load(path.read_text()), yaml.safe_load(copy.read_text())
    *command, last = before["command"]
    assert after == {
        **before,
        "command": [*command, "trainer.max_steps=9", "stage.init={a: b}", last],
    }
    assert (
        read_sweep_file(copy, "slice_size").question == read_sweep_file(path, "slice_size").question
    )


def test_an_unknown_sweep_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'slice_size'"):
        run_sweep(["slice_sise"])


def test_settings_written_by_the_hub_are_no_wandb_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with client_settings("http://127.0.0.1:1", 40 * "k"):
        assert is_client_on_hub() and not has_wandb_login()
    assert not is_client_on_hub() and not Path("wandb/settings").exists()
