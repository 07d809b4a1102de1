"""Sweep files: each has a question, and names parameters and metrics that the code has."""

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from configs.fingerprint import fingerprint
from configs.loading import load_config
from configs.recipes import DIALOGUE_STAGES, STAGES
from configs.schema import Config
from datamodules.corpora import Corpora
from datamodules.dialogue.data import DialogueData
from lightning_modules.results import AnswerResult, TurnStateResult
from lightning_modules.stages import STAGE_REGISTRY
from lightning_modules.trainer.sweep_file import file_digest
from sweeps.hub.__main__ import client_settings, has_wandb_login, is_client_on_hub
from sweeps.hub.search import check, grid
from sweeps.report.sweep_file import is_seed, read_sweep_file
from sweeps.run import (
    Backend,
    check_sweep,
    devices_of_agents,
    on_cloud,
    report,
    run_agents,
    warn_of_report,
    with_overrides,
)
from sweeps.run import main as run_sweep

FILES = sorted(Path("sweeps").glob("*.yaml"))
SUMMARY = {
    "params/trained",
    "memory/peak_gib",
    "time/total_s",
    *(f"time/{stage}_s" for stage in STAGES),
}
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def trial_arguments(path: Path) -> list[list[str]]:
    """Arguments with which the program of each trial is called."""
    sweep = yaml.safe_load(path.read_text())
    assert sweep["command"][:3] == ["${env}", "${interpreter}", "${program}"]
    assert sweep["command"][-1] == "${args_no_hyphens}"
    fixed = sweep["command"][3:-1]
    arguments = []
    for parameters in grid(sweep):
        overrides = [f"{name}={value}" for name, value in parameters.items()]
        arguments.append([*fixed, *overrides])
    return arguments


def metrics(config: Config) -> set[str]:
    """Names in the summary of a run."""
    stage = STAGE_REGISTRY[config.stage.name]
    with torch.device("meta"):
        module = stage.module(config, stage.model(config.model), None)
    results = [TurnStateResult("response", "response"), AnswerResult("one", "two")]
    if config.stage.data != "dialogues":
        results = [AnswerResult("one", "two")]
    return SUMMARY | {f"test/{name}" for name in module.scores(results)}


def test_the_sweeps_of_this_project_exist() -> None:
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
def test_a_sweep_file_begins_with_question_cost_and_figure(path: Path) -> None:
    sweep = read_sweep_file(path, path.stem)
    assert sweep.question.endswith("?") and sweep.cost.endswith(".")
    assert all(name in (sweep.x, sweep.line) or is_seed(name) for name in sweep.swept)


@each_file
def test_wandb_and_the_hub_accept_a_sweep(path: Path) -> None:
    sweep = yaml.safe_load(path.read_text())
    check(sweep)
    assert Path(sweep["program"]).is_file() and sweep["metric"]["goal"] in ("minimize", "maximize")
    assert f"run.sweep={path.stem}" in sweep["command"]


@each_file
def test_every_parameter_is_in_the_configuration(path: Path) -> None:
    trials = trial_arguments(path)
    configs = [load_config(trial) for trial in trials]
    config = configs[0]
    if config.stage.name in DIALOGUE_STAGES:
        for other in {str(c.duplex): c for c in configs}.values():
            DialogueData(other, Corpora(other)).dialogues("train", 0)
    for upstream in STAGES[: STAGES.index(config.stage.name)]:
        assert load_config(trials[0], upstream).stage.name == upstream


@each_file
def test_every_metric_is_in_the_summary_of_a_run(path: Path) -> None:
    trials = trial_arguments(path)
    known = metrics(load_config(trials[0])) & metrics(load_config(trials[-1]))
    named = set(re.findall(r"\b(?:test|time|params|memory)/\w+", path.read_text()))
    assert yaml.safe_load(path.read_text())["metric"]["name"] in known
    assert named <= known


def test_trials_of_the_slice_sweep_are_trained_on_the_slices_of_their_test() -> None:
    trials = trial_arguments(Path("sweeps/slice_size.yaml"))
    configs = [load_config(trial).encoder for trial in trials]
    assert {(c.context, c.slice_ms) for c in configs} == {
        (context, ms) for context in ("slice", "causal_lookahead") for ms in (200, 400, 1000, 2000)
    }
    assert all(c.train_slice_ms == [c.slice_ms, c.slice_ms] for c in configs)


def test_trials_of_the_duplex_sweep_encode_whole_slices() -> None:
    trials = trial_arguments(Path("sweeps/duplex_slice.yaml"))
    configs = [load_config(trial) for trial in trials]
    assert {(c.encoder.context, c.duplex.slice_ms) for c in configs} == {
        (context, ms) for context in ("causal", "causal_lookahead") for ms in (200, 400, 600, 1000)
    }
    assert all(
        c.encoder.slice_ms == c.duplex.slice_ms == c.encoder.train_slice_ms[0] for c in configs
    )


def test_trials_of_the_duplex_sweep_share_prerequisite_stages() -> None:
    trials = trial_arguments(Path("sweeps/duplex_slice.yaml"))
    assert len({fingerprint(load_config(trial, "instruct")) for trial in trials}) == 2


def test_overrides_of_all_trials_precede_the_parameters_of_a_trial(tmp_path: Path) -> None:
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
    question = read_sweep_file(path, "slice_size").question
    assert read_sweep_file(copy, "slice_size").question == question


HEAD = """program: train.py
method: grid
metric: {name: test/wer, goal: minimize}
parameters: {seed: {values: [1]}}
"""
QUOTED = """command:
  - ${env}
  - "${program}"
  - configs/stage/asr.yaml
  - "${args_no_hyphens}"
"""


@pytest.mark.parametrize(
    "command", [QUOTED, 'command: ["${program}", configs/stage/asr.yaml, "${args_no_hyphens}"]']
)
def test_overrides_are_put_into_a_command_of_any_form(command: str, tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(HEAD + command)
    copy = with_overrides(file, ["trainer.max_steps=3"], tmp_path / "runs")
    assert yaml.safe_load(copy.read_text())["command"][-3:] == [
        "configs/stage/asr.yaml",
        "trainer.max_steps=3",
        "${args_no_hyphens}",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD, "command=None: .*as its last line"),
        (HEAD + "command: ['${program}', '${args}']", r"command has \$\{args\}"),
        (HEAD + "command: ['${program}']", "no place for the parameters"),
        (HEAD + "command: python train.py", "give a list"),
        (HEAD + "early_terminate: {type: hyperband}\n" + QUOTED, "s.yaml: early_terminate="),
        ("- a\n- b\n", "is no sweep"),
        ("a: [", "is not YAML"),
    ],
)
def test_a_sweep_that_cannot_run_is_refused_before_anything_runs(
    text: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        check_sweep(file, "local")


def test_what_a_report_lacks_is_said_at_the_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(HEAD + QUOTED)
    warn_of_report(file)
    assert "opens without `# Question:`" in capsys.readouterr().out
    file.write_text("# Question: which?\n" + HEAD + QUOTED)
    warn_of_report(file)
    assert "there will be no report" in capsys.readouterr().out
    warn_of_report(FILES[0])
    assert capsys.readouterr().out == ""


def test_the_cloud_does_what_the_hub_does_not(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(HEAD + "early_terminate: {type: hyperband}\n" + QUOTED)
    check_sweep(file, "cloud")
    with pytest.raises(ValueError, match="early_terminate"):
        check_sweep(file, "local")


def test_the_error_for_an_unknown_sweep_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'slice_size'"):
        run_sweep(["slice_sise"])


GRID = HEAD.replace("[1]", "[1, 2]") + QUOTED


def write_record(runs: Path, folder: str, state: str, file: str = "", **parameters: Any) -> None:
    """Write sweep.json of a trial of the sweep `s`."""
    record = {"sweep": "1", "name": "s", "parameters": parameters, "state": state, "file": file}
    (runs / folder).mkdir(parents=True)
    (runs / folder / "sweep.json").write_text(json.dumps(record))


def test_a_grid_with_a_missing_point_has_not_succeeded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(GRID)
    runs = tmp_path / "runs"
    write_record(runs, "s-1", "finished", seed=1)
    assert report(file, runs) == 1
    assert "s: 1 finished, 1 missing\n  missing: no run  {'seed': 2}" in capsys.readouterr().out
    write_record(runs, "s-2", "finished", seed=2.0)
    assert report(file, runs) == 0
    file.write_text(GRID.replace("[1, 2]", "[1, 2, 3]") + "run_cap: 2\n")
    assert report(file, runs) == 0


def test_trials_of_an_earlier_text_do_not_count(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(GRID)
    runs = tmp_path / "runs"
    write_record(runs, "s-1", "finished", seed=1)
    write_record(runs, "s-2a", "failed", file="earlier", seed=2)
    write_record(runs, "s-2b", "finished", seed=2)
    write_record(runs, "s-3", "failed", file="earlier", seed=3)
    write_record(runs, "s-4", "failed", file="earlier", sead=1)
    assert report(file, runs) == 0
    file.write_text(GRID.replace("grid", "random"))
    assert report(file, runs) == 0
    write_record(runs, "s-5", "failed", file=file_digest(file), seed=5)
    assert report(file, runs) == 1


@pytest.fixture
def wandb_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program `wandb` that notes its device; returns the folder of its notes."""
    program = tmp_path / "bin" / "wandb"
    program.parent.mkdir()
    lines = ["#!/bin/sh", f'echo "$CUDA_VISIBLE_DEVICES $*" >> {tmp_path}/note.$$']
    program.write_text("\n".join(lines))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    # Before it, run_agents looks in the folder of Python.
    monkeypatch.setattr(sys, "executable", str(program.parent / "python"))
    return tmp_path


@pytest.mark.parametrize(
    ("visible", "agents", "expected"),
    [("2,GPU-5, 7", 2, ["2", "GPU-5"]), ("2,5", 1, ["2,5"]), ("", 2, ["", ""])],
)
def test_each_agent_has_a_gpu_of_its_own(
    wandb_program: Path,
    monkeypatch: pytest.MonkeyPatch,
    visible: str,
    agents: int,
    expected: list[str],
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    environments = [{**os.environ, **device} for device in devices_of_agents(agents)]
    run_agents("sweep", environments)
    notes = [file.read_text().strip() for file in wandb_program.glob("note.*")]
    options = "agent --forward-signals --term-timeout 90 sweep"
    assert sorted(notes) == sorted(f"{device} {options}".strip() for device in expected)


def test_more_agents_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(ValueError, match="AGENTS=3: there are 2 GPUs .* at most AGENTS=2"):
        devices_of_agents(3)


def test_points_are_trained_in_the_folder_of_runs_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = []

    @contextlib.contextmanager
    def backend(file: Path, runs: Path) -> Iterator[Backend]:
        texts.append(file.read_text())
        yield Backend("no server", "", {})

    monkeypatch.setattr("sweeps.run.on_hub", backend)
    monkeypatch.setattr("sweeps.run.run_agents", lambda *_: None)
    runs = tmp_path / "elsewhere"
    assert run_sweep(["seeds", "--backend", "local", "--runs", str(runs)]) == 1
    assert f"run.dir={runs}" in yaml.safe_load(texts[0])["command"]


def test_without_a_network_the_error_names_the_local_hub(wandb_program: Path) -> None:
    program = wandb_program / "bin" / "wandb"
    # As the client ends where it cannot reach its server.
    lines = ["#!/bin/sh", "echo 'Traceback: x' >&2", "echo 'Error: no server' >&2", "exit 1"]
    program.write_text("\n".join(lines))
    expected = "failed: Error: no server; without a network, BACKEND=local"
    with pytest.raises(ValueError, match=expected), on_cloud(FILES[0], wandb_program):
        pass


def test_settings_written_by_the_hub_are_no_wandb_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with client_settings("http://127.0.0.1:1", 40 * "k"):
        assert is_client_on_hub() and not has_wandb_login()
        assert Path("wandb/settings").stat().st_mode & 0o777 == 0o600
    assert not is_client_on_hub() and not Path("wandb/settings").exists()
